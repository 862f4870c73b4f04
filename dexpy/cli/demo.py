"""``dexpy demo``: operations in the background, for real, in a few seconds and without a server.

A worker process and this one share a SQLite file in a temporary folder. What each operation will come to is announced
first and compared at the end, so that the demo is also a test of an installation.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

import attrs
import click

from dexpy.cli.board import Board, can_write, table
from dexpy.cli.demo_stage import Worker, ended_by_signals, stage

if TYPE_CHECKING:
    from dexpy.declaration.contract import Contract
    from dexpy.recording.record import Record
    from dexpy.recording.ticket import Ticket
    from dexpy.runtime import Runtime

DELAY_S = 2.0
LOOK_EVERY_S = 0.1
PATIENCE_S = 60.0
"""How long the operations may take together before the demo gives up, in seconds; they take about three."""

NEXT = (
    ("docs/tutorial/first-operation.md", "write such an operation yourself, in one page"),
    ("docs/explanation/architecture.md", "the way of a call through the house"),
    ("docs/explanation/recording.md", "what a record is, and what it promises"),
    ("docs/reference/cli.md", "the command line"),
)


@attrs.frozen
class Ending:
    """How a run ends.

    Attributes:
        status: Of its record; "ran" for a run without one.
        error: Its error code.
        attempts: How many there were.
        delay_s: How long it waited at least, in seconds, before it began.
    """

    status: str = "done"
    error: str | None = None
    attempts: int = 1
    delay_s: float = 0.0

    def __str__(self) -> str:
        text = self.status if self.error is None else f"{self.status}: {self.error}"
        if self.attempts != 1:
            text += f", {self.attempts} attempts"
        if self.delay_s:
            text += f", after {self.delay_s:.0f} s or more"
        return text


@attrs.frozen
class Act:
    """One operation of the demo.

    Attributes:
        operation: To be sent to the background.
        shows: What it is there to show.
        announced: How it will end.
    """

    operation: Any
    shows: str
    announced: Ending

    @property
    def title(self) -> str:
        """The operation's name."""
        return type(self.operation).__name__

    @property
    def recorded(self) -> bool:
        """Whether the run leaves a record."""
        contract: Contract = self.operation.contract
        return contract.record is not None


def programme(delay_s: float = DELAY_S) -> tuple[Act, ...]:
    """The acts of the demo.

    Args:
        delay_s: Of the delayed one, in seconds.
    """
    from dexpy.cli import demo_operations as bank

    return (
        Act(bank.SendStatement(customer=1), "a result, and a reference to a row", Ending()),
        Act(bank.Withdraw(customer=1, amount=500), "a business error", Ending("failed", "no_balance")),
        Act(bank.FetchRate(currency="USD"), "a crash, healed by a retry", Ending(attempts=2)),
        Act(bank.CheckAddress(street="Baker Street"), "an async def perform", Ending()),
        Act(bank.CountVisit(page="/pricing"), "a direct run: no record, only its effect", Ending("ran")),
        Act(bank.Remind(customer=1), f"a delay of {delay_s:g} s", Ending(delay_s=delay_s)),
    )


def _record_row(record: Record) -> tuple[str, ...]:
    took = "" if record.duration is None else f"{record.duration.total_seconds():.2f} s"
    result = "" if record.result is None else repr(record.result)
    title = record.name.rpartition(".")[2]
    return (record.id, title, record.status, str(record.num_attempts), record.error or "", took, result)


RECORD_HEAD = ("id", "operation", "status", "attempts", "error", "took", "result")


class Show:
    """One performance: the acts are sent, watched, and compared with what was announced.

    Args:
        acts: What to send.
        runtime: In force.
        worker: That runs them.
        out: Where to tell it.
    """

    def __init__(self, acts: Sequence[Act], runtime: Runtime, worker: Worker, out: IO[str]) -> None:
        self._acts = acts
        self._runtime = runtime
        self._worker = worker
        self._out = out
        self._signs = ("✓", "✗") if can_write("✓✗", out) else ("ok", "NOT")
        self._tickets: list[Ticket[Any]] = []

    def run(self, patience_s: float) -> bool:
        """Tell it all.

        Returns:
            Whether every act ended as announced.
        """
        say = self._say
        say(f"{len(self._acts)} operations go to a worker process (pid {self._worker.pid}).")
        say("A SQLite file in a temporary folder carries the records and the queue.\n")
        heads = ("operation", "shows", "announced")
        say(table([heads, *((act.title, act.shows, str(act.announced)) for act in self._acts)]))
        say("\nWhat happens:\n")
        for act in self._acts:
            options = {"in_": act.announced.delay_s} if act.announced.delay_s else {}
            self._tickets.append(act.operation.async_(**options).call())
        trouble = self._watch(patience_s)
        say("\nThe records (`dexpy.records.all()`):\n")
        say(self._record_table())
        say("\nAnnounced, and what happened:\n")
        good = self._compare()
        if trouble is not None:
            click.echo(f"\n{trouble}", file=self._out)
        if trouble is not None or not good:
            say("\nWhat the worker said:\n")
            say("\n".join("  " + line for line in self._worker.output().splitlines()) or "  nothing")
            return False
        return True

    def _say(self, text: str) -> None:
        click.echo(text, file=self._out)

    def _record_table(self) -> str:
        from dexpy import records

        rows = [_record_row(record) for record in records.all()]
        shown = table([RECORD_HEAD, *rows])
        if self._out.isatty() and max(map(len, shown.splitlines())) >= shutil.get_terminal_size().columns:
            # What ids made at one moment differ in is their end.
            shown = table([RECORD_HEAD, *(("..." + row[0][-6:], *row[1:]) for row in rows)])
        return shown

    def _watch(self, patience_s: float) -> str | None:
        """Show the progress until every run has ended; the answer says what came between, if anything did."""
        board = Board([act.title for act in self._acts], self._out)
        until = time.monotonic() + patience_s
        while True:
            board.show([self._state(act, ticket) for act, ticket in zip(self._acts, self._tickets, strict=True)])
            if self._all_ended():
                return None
            if self._worker.status is not None:
                return f"The worker process ended with status {self._worker.status} before the operations did."
            if time.monotonic() > until:
                return f"The operations have not ended in {patience_s:g} s."
            time.sleep(LOOK_EVERY_S)

    def _state(self, act: Act, ticket: Ticket[Any]) -> str:
        if not act.recorded:
            return "ran; its row is there" if self._has_effect(act) else "sent"
        record = ticket.reload()
        state = record.status
        if record.failure is not None:
            # Between two attempts a record is pending, and keeps what the last one ended with.
            state += f" ({record.failure})"
        return state if record.scheduled_at is None or not record.pending else f"{state}, due later"

    def _all_ended(self) -> bool:
        return all(
            ticket.terminal if act.recorded else self._has_effect(act)
            for act, ticket in zip(self._acts, self._tickets, strict=True)
        )

    def _has_effect(self, act: Act) -> bool:
        from sqlalchemy import select

        from dexpy.cli.demo_operations import Visit

        visited = select(Visit.id).where(Visit.page == act.operation.page)
        return bool(self._runtime.store.rows(visited))

    def _ending(self, act: Act, ticket: Ticket[Any]) -> Ending:
        """How an act really ended."""
        if not act.recorded:
            return Ending("ran" if self._has_effect(act) else "never ran")
        from dexpy import records

        record = records.get(ticket.id)
        waited_s = (record.started_at - record.created_at).total_seconds() if record.started_at is not None else 0.0
        return Ending(record.status, record.error, record.num_attempts, min(waited_s, act.announced.delay_s))

    def _compare(self) -> bool:
        good = True
        rows: list[tuple[str, ...]] = [("", "operation", "announced", "happened")]
        for act, ticket in zip(self._acts, self._tickets, strict=True):
            happened = self._ending(act, ticket)
            agrees = happened == act.announced
            good = good and agrees
            rows.append((self._signs[not agrees], act.title, str(act.announced), str(happened)))
        self._say(table(rows))
        return good


def play(acts: Sequence[Act] | None = None, *, out: IO[str] | None = None, patience_s: float = PATIENCE_S) -> bool:
    """Put the demo on.

    Args:
        acts: Instead of those of `programme`.
        out: Instead of standard output.
        patience_s: How long the operations may take together, in seconds.

    Returns:
        Whether every operation ended as announced.
    """
    stdout: IO[str] = sys.stdout
    out = out or stdout
    with ended_by_signals(), stage() as (runtime, worker):
        good = Show(acts or programme(), runtime, worker, out).run(patience_s)
    click.echo("", file=out)
    if good:
        click.echo("All as announced. The worker is stopped and the folder removed.\n\nWhere to go next:\n", file=out)
        click.echo("\n".join(f"  {page:34}{what}" for page, what in NEXT), file=out)
    else:
        click.echo("Not all went as announced. The worker is stopped and the folder removed.", file=out)
    return good


@click.command()
@click.pass_context
def demo(context: click.Context) -> None:
    """Send a few operations to a real worker process and watch them.

    Needs nothing but Python: records and queue are in a temporary SQLite file. Takes about four seconds, leaves nothing
    behind, and exits with 1 if any operation ends otherwise than announced.
    """
    if not play():
        context.exit(1)
