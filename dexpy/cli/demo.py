"""``dexpy demo``: runs a few operations in a background worker, in a few seconds and without a server.

A worker process and this one share a SQLite file in a temporary folder. The expected outcome of each operation is
printed first and compared at the end, so that the demo is also a test of an installation.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

import attrs
import click

from dexpy.cli.demo_environment import Worker, demo_environment, ended_by_signals
from dexpy.cli.live_board import StatusBoard, can_write, table

if TYPE_CHECKING:
    from dexpy.declaration.contract import Contract
    from dexpy.recording.record import Record
    from dexpy.recording.ticket import Ticket
    from dexpy.runtime import Runtime

DELAY_S = 2.0
POLL_EVERY_S = 0.1
TIMEOUT_S = 60.0
"""The timeout for all operations together, in seconds; they take about three."""

NEXT_PAGES = (
    ("docs/tutorial/first-operation.md", "write your own operation, in one page"),
    ("docs/explanation/architecture.md", "how a call passes through the packages"),
    ("docs/explanation/recording.md", "what a record is, and what it guarantees"),
    ("docs/reference/cli.md", "the command line"),
)


@attrs.frozen
class Outcome:
    """How a run ends.

    Attributes:
        status: Of its record; "ran" for a run without one.
        error: Its error code.
        attempts: The number of attempts.
        delay_s: The minimum delay before the start, in seconds.
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
class DemoRun:
    """One operation of the demo.

    Attributes:
        operation: The operation, run in the background.
        shows: What it demonstrates.
        expected: How it ends.
    """

    operation: Any
    shows: str
    expected: Outcome

    @property
    def title(self) -> str:
        """The operation's name."""
        return type(self.operation).__name__

    @property
    def is_recorded(self) -> bool:
        """Whether the run has a record."""
        contract: Contract = self.operation.contract
        return contract.record is not None


def demo_runs(delay_s: float = DELAY_S) -> tuple[DemoRun, ...]:
    """Return the runs of the demo.

    Args:
        delay_s: The delay of the delayed one, in seconds.
    """
    from dexpy.cli import demo_operations as bank

    return (
        DemoRun(bank.SendStatement(customer=1), "a result, and a reference to a row", Outcome()),
        DemoRun(bank.Withdraw(customer=1, amount=500), "a business error", Outcome("failed", "no_balance")),
        DemoRun(bank.FetchRate(currency="USD"), "a crash, followed by a retry", Outcome(attempts=2)),
        DemoRun(bank.CheckAddress(street="Baker Street"), "an async def perform", Outcome()),
        DemoRun(bank.CountVisit(page="/pricing"), "a direct run without a record", Outcome("ran")),
        DemoRun(bank.Remind(customer=1), f"a delay of {delay_s:g} s", Outcome(delay_s=delay_s)),
    )


def _record_row(record: Record) -> tuple[str, ...]:
    duration = "" if record.duration is None else f"{record.duration.total_seconds():.2f} s"
    result = "" if record.result is None else repr(record.result)
    title = record.operation.rpartition(".")[2]
    return (record.id, title, record.status, str(record.num_attempts), record.error or "", duration, result)


RECORD_HEAD = ("id", "operation", "status", "attempts", "error", "duration", "result")


class Demo:
    """Enqueues the runs, shows their progress, and compares their outcomes with the expected ones.

    Args:
        runs: The runs.
        runtime: The current runtime.
        worker: The worker that runs them.
        out: The stream to write to.
    """

    def __init__(self, runs: Sequence[DemoRun], runtime: Runtime, worker: Worker, out: IO[str]) -> None:
        self._runs = runs
        self._runtime = runtime
        self._worker = worker
        self._out = out
        self._marks = ("✓", "✗") if can_write("✓✗", out) else ("ok", "NOT")
        self._tickets: list[Ticket[Any]] = []

    def run(self, timeout_s: float) -> bool:
        """Run the demo and print its report.

        Returns:
            Whether every run ended as expected.
        """
        write = self._write
        write(f"Sending {len(self._runs)} operations to a worker process (pid {self._worker.pid}).")
        write("Records and queue are in a SQLite file in a temporary folder.\n")
        header = ("operation", "shows", "expected")
        write(table([header, *((run.title, run.shows, str(run.expected)) for run in self._runs)]))
        write("\nProgress:\n")
        for run in self._runs:
            options = {"in_": run.expected.delay_s} if run.expected.delay_s else {}
            self._tickets.append(run.operation.async_(**options).call())
        failure = self._watch(timeout_s)
        write("\nRecords (`dexpy.records.all()`):\n")
        write(self._record_table())
        write("\nExpected and actual outcomes:\n")
        all_as_expected = self._compare()
        if failure is not None:
            click.echo(f"\n{failure}", file=self._out)
        if failure is not None or not all_as_expected:
            write("\nOutput of the worker:\n")
            write("\n".join("  " + line for line in self._worker.output().splitlines()) or "  nothing")
            return False
        return True

    def _write(self, text: str) -> None:
        click.echo(text, file=self._out)

    def _record_table(self) -> str:
        from dexpy import records

        rows = [_record_row(record) for record in records.all()]
        text = table([RECORD_HEAD, *rows])
        if self._out.isatty() and max(map(len, text.splitlines())) >= shutil.get_terminal_size().columns:
            # Ids of the same moment differ at their ends only.
            text = table([RECORD_HEAD, *(("..." + row[0][-6:], *row[1:]) for row in rows)])
        return text

    def _watch(self, timeout_s: float) -> str | None:
        """Show the progress until every run has ended; return an error message if one does not end, or None."""
        board = StatusBoard([run.title for run in self._runs], self._out)
        deadline = time.monotonic() + timeout_s
        while True:
            board.show([self._state(run, ticket) for run, ticket in zip(self._runs, self._tickets, strict=True)])
            if self._all_ended():
                return None
            if self._worker.status is not None:
                return f"The worker process exited with status {self._worker.status} before all operations ended."
            if time.monotonic() > deadline:
                return f"Timeout: not all operations ended within {timeout_s:g} s."
            time.sleep(POLL_EVERY_S)

    def _state(self, run: DemoRun, ticket: Ticket[Any]) -> str:
        if not run.is_recorded:
            return "ran; its row exists" if self._has_effect(run) else "sent"
        record = ticket.reload()
        state = record.status
        if record.failure is not None:
            # Between two attempts a record is pending, with the failure of the last one.
            state += f" ({record.failure})"
        return state if record.scheduled_at is None or not record.pending else f"{state}, due later"

    def _all_ended(self) -> bool:
        return all(
            ticket.terminal if run.is_recorded else self._has_effect(run)
            for run, ticket in zip(self._runs, self._tickets, strict=True)
        )

    def _has_effect(self, run: DemoRun) -> bool:
        from sqlalchemy import select

        from dexpy.cli.demo_operations import Visit

        query = select(Visit.id).where(Visit.page == run.operation.page)
        return bool(self._runtime.store.rows(query))

    def _outcome(self, run: DemoRun, ticket: Ticket[Any]) -> Outcome:
        """Return how a run ended."""
        if not run.is_recorded:
            return Outcome("ran" if self._has_effect(run) else "never ran")
        from dexpy import records

        record = records.get(ticket.id)
        waited_s = (record.started_at - record.created_at).total_seconds() if record.started_at is not None else 0.0
        return Outcome(record.status, record.error, record.num_attempts, min(waited_s, run.expected.delay_s))

    def _compare(self) -> bool:
        all_as_expected = True
        rows: list[tuple[str, ...]] = [("", "operation", "expected", "actual")]
        for run, ticket in zip(self._runs, self._tickets, strict=True):
            actual = self._outcome(run, ticket)
            is_expected = actual == run.expected
            all_as_expected = all_as_expected and is_expected
            rows.append((self._marks[not is_expected], run.title, str(run.expected), str(actual)))
        self._write(table(rows))
        return all_as_expected


def run_demo(runs: Sequence[DemoRun] | None = None, *, timeout_s: float = TIMEOUT_S) -> bool:
    """Run the demo in an environment of its own.

    Args:
        runs: The runs; those of `demo_runs` by default.
        timeout_s: How long the operations may take together, in seconds.

    Returns:
        Whether every operation ended as expected.
    """
    out: IO[str] = sys.stdout
    with ended_by_signals(), demo_environment() as (runtime, worker):
        all_as_expected = Demo(runs or demo_runs(), runtime, worker, out).run(timeout_s)
    click.echo("", file=out)
    if all_as_expected:
        click.echo(
            "All operations ended as expected. The worker is stopped and the folder is removed.\n\nNext steps:\n",
            file=out,
        )
        click.echo("\n".join(f"  {page:34}{description}" for page, description in NEXT_PAGES), file=out)
    else:
        click.echo(
            "Some operations did not end as expected. The worker is stopped and the folder is removed.", file=out
        )
    return all_as_expected


@click.command()
@click.pass_context
def demo(context: click.Context) -> None:
    """Run a few operations in a worker process and show their progress.

    Needs no server: records and queue are in a temporary SQLite file. Takes about four seconds, removes its files, and
    exits with status 1 if an operation does not end as expected.
    """
    if not run_demo():
        context.exit(1)
