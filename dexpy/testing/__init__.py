"""Test helpers for applications: an isolated runtime that runs due operations in the test, with a movable clock."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from sqlalchemy.exc import SQLAlchemyError

from dexpy.brokers.message_validation import DEAD_REASON
from dexpy.configuration.settings import Settings
from dexpy.enqueue.held_runs import HeldRuns
from dexpy.foundation.clock import clock
from dexpy.foundation.encryption import DEFAULT
from dexpy.foundation.errors import DexpyError, RecordNotFound
from dexpy.recording.ticket import Ticket
from dexpy.runtime import Runtime, install
from dexpy.testing.rows import NewRows
from dexpy.testing.span import Span, seconds_until

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from dexpy.foundation.encryption import Encryptor

__all__ = ["Isolated", "isolated"]

MAX_RUNS = 10_000
"""The number of runs in one `Isolated.run_pending` above which it assumes an endless loop."""


class Isolated:
    """The result of `isolated`: a runtime with a database of its own.

    Attributes:
        runtime: The current runtime inside the block.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._moved = timedelta(0)

    def run_pending(self, queues: Collection[str] | None = None) -> list[Ticket[Any]]:
        """Run all due operations in this thread like a worker, with the real encoder, table and decoder.

        Operations that are enqueued meanwhile run too if they are due; others wait until the clock is moved.
        A message that workers refuse goes to the dead messages, with a RuntimeWarning that states the reason.

        Args:
            queues: The queues to run; None for all.

        Returns:
            A ticket for each run, in order; each retry adds another one.
        """
        broker: Any = self.runtime.broker
        self.runtime.dispatcher.require_tables()
        tickets: list[Ticket[Any]] = []
        self._release_held()
        while (message := self._take_next(queues)) is not None:
            if len(tickets) == MAX_RUNS:
                raise RuntimeError(
                    f"run_pending(): stopped after {MAX_RUNS} runs; an operation may enqueue itself without end. "
                    "Check which operations enqueue others."
                )
            try:
                broker.emit_before("process_message", message)
                actor = broker.get_actor(message.actor_name)
                result = actor(*message.args, **message.kwargs)
                broker.emit_after("process_message", message, result=result)
            except BaseException as error:
                broker.emit_after("process_message", message, exception=error)
                message.nack()
                raise
            if message.failed:
                message.nack()
                reason = getattr(message, DEAD_REASON, "see the log")
                _warn(f"the message of {message.kwargs['class_name']} is dead: {reason}.")
            else:
                message.ack()
            if not self._is_paused(message):
                tickets += self._ticket(message)
        return tickets

    def run_for(self, duration: timedelta | float, *, recurring: Collection[str] | None = None) -> list[Ticket[Any]]:
        """Run what a worker would run in a span of time, and move the clock to its end.

        Each tick of a recurring task and each delayed operation or retry runs with the clock at its time. The first
        call registers the recurring tasks: their ticks begin then.

        Args:
            duration: The seconds, or a timedelta.
            recurring: The keys of the recurring tasks of classes and of the configuration file to register; None for
                all that this process declares. Tasks of `dexpy.recurring.add` always run.

        Returns:
            A ticket for each run, in order; each retry adds another one.

        Raises:
            OptionsError: No recurring task has one of the keys.
            RuntimeError: There were too many runs.

        Example:
            >>> from datetime import timedelta
            >>> from dexpy import Every, Operation, Recurring
            >>> from dexpy.testing import isolated
            >>> class CloseDay(Operation):
            ...     schedule = Recurring(Every("day at 11pm"), key="close_day")
            ...     def perform(self) -> str:
            ...         return f"{self.scheduled_for:%H:%M}"
            >>> with isolated() as test:
            ...     [ticket.result(1) for ticket in test.run_for(timedelta(days=2), recurring=["close_day"])]
            ['23:00', '23:00']
        """
        span = Span(self.runtime)
        self.runtime.dispatcher.require_tables()
        end = span.now() + (duration if isinstance(duration, timedelta) else timedelta(seconds=duration))
        span.register(recurring)
        tickets: list[Ticket[Any]] = []
        while True:
            span.enqueue_ticks()
            tickets += self.run_pending()
            if len(tickets) > MAX_RUNS:
                raise RuntimeError(f"run_for(): stopped after {len(tickets)} runs. Choose a shorter time.")
            due_at = span.next_due()
            if due_at is None or due_at > end:
                self.advance(seconds_until(end, span.now()))
                return tickets
            self.advance(seconds_until(due_at, span.now()))

    def _release_held(self) -> None:
        """Publish the runs of pauses that are over, as a worker does."""
        recorded = self.runtime.start().recorded
        if recorded is not None:
            recorded.store.pauses.refresh()
            held_runs = HeldRuns(recorded.store, self.runtime.dispatcher)
            held_runs.release()
            held_runs.make_direct_due()

    def _is_paused(self, message: Any) -> bool:
        """Return whether a message came for a run that is held because of a pause."""
        recorded = self.runtime.start().recorded
        if recorded is None:
            return False
        paused = recorded.store.pauses.current()
        return paused.exist and paused.key_for(message.queue_name, message.kwargs["class_name"]) is not None

    def _take_next(self, queues: Collection[str] | None) -> Any:
        """Return the next message, also one that a hook enqueues or that a rate limit allows now."""
        message = self._take(queues) or self._take_after_hooks(queues)
        recorded = self.runtime.services.recorded
        if message is None and recorded is not None and recorded.rates.refill() > 0:
            message = self._take(queues)
        return message

    def _take_after_hooks(self, queues: Collection[str] | None) -> Any:
        """Call the hooks of the application for the runs that have ended, then return the next message."""
        hook_runner = self.runtime.start().hook_runner
        if hook_runner is not None:
            hook_runner.run_all()
        return self._take(queues)

    def _take(self, queues: Collection[str] | None) -> Any:
        """Return the next valid message; invalid ones go to the dead messages."""
        broker: Any = self.runtime.broker
        refused: Counter[str] = Counter(broker.validator.refused)
        message = broker.claim(queues)
        for reason in broker.validator.refused - refused:
            _warn(f"a message is dead: {reason}.")
        return message

    def _ticket(self, message: Any) -> list[Ticket[Any]]:
        record_id = message.kwargs.get("record_id")
        if record_id is None:
            return [Ticket(message.options["dexpy"]["id"], message.kwargs["class_name"], None, None)]
        try:
            return [Ticket.get(record_id)]
        except RecordNotFound:
            # The record was deleted since; the job has logged that.
            return []

    def advance(self, by: timedelta | float) -> None:
        """Move the clock of this process forward until the block ends; statements on a database server use it too.

        Args:
            by: The seconds, or a timedelta.
        """
        delta = by if isinstance(by, timedelta) else timedelta(seconds=by)
        clock.advance(delta, databases=True)
        self._moved += delta

    def restore_clock(self) -> None:
        """Restore the clock from before this block; an outer block keeps its own time."""
        clock.advance(-self._moved, databases=True)
        self._moved = timedelta(0)


def _warn(text: str) -> None:
    warnings.warn(f"Isolated.run_pending: {text} Workers do not run it either.", RuntimeWarning, stacklevel=4)


@attrs.define(eq=False)
class _Block:
    """An open block, and the runtime to restore after it."""

    runtime: Runtime
    before: Runtime | None


_blocks: list[_Block] = []


def _leave(entered: _Block) -> None:
    """Restore the runtime from before a block, unless an inner block is still open."""
    inner_blocks = _blocks[_blocks.index(entered) + 1 :]
    _blocks.remove(entered)
    for block in inner_blocks:
        if block.before is entered.runtime:
            block.before = entered.before
    current = install(entered.before)
    if any(block.runtime is current for block in inner_blocks):
        install(current)


@contextmanager
def isolated(
    *,
    database: str | None = None,
    session_factory: Callable[[], Session] | None = None,
    encryptors: Mapping[str, Encryptor] | None = None,
) -> Generator[Isolated]:
    """Run a test in a runtime with a temporary database and a movable clock.

    The other settings are those of the application: the sessions of runs, the encryptors, the redactor, the columns of
    records.
    The database also transports the messages, whatever the broker of the application is.

    Args:
        database: A URL to use instead of a temporary SQLite file. Missing tables are created and kept; rows that the
            block adds to dexpy's tables are deleted after it.
        session_factory: The factory of the sessions of runs, instead of the application's.
        encryptors: The encryptors by name, instead of the application's.

    Example:
        >>> from dexpy.testing import isolated
        >>> from dexpy import records
        >>> with isolated() as test:
        ...     test.run_pending(), records.all().count()
        ([], 0)
    """
    with tempfile.TemporaryDirectory(prefix="dexpy-test-", ignore_cleanup_errors=True) as folder:
        url = database or f"sqlite:///{Path(folder) / 'test.db'}"
        configured = install(None)
        try:
            runtime = _isolated_runtime(configured, url, Path(folder), session_factory, encryptors)
            runtime.start()
            rows = None if database is None else NewRows(runtime.store)
        finally:
            install(configured)
        block = _Block(runtime, install(runtime))
        _blocks.append(block)
        test = Isolated(runtime)
        try:
            yield test
        except BaseException:
            # A later error must not hide the error of the block.
            with suppress(DexpyError, SQLAlchemyError):
                _end(test, block, rows)
            raise
        else:
            _end(test, block, rows)


def _isolated_runtime(
    configured: Runtime | None,
    url: str,
    home: Path,
    session_factory: Callable[[], Session] | None,
    encryptors: Mapping[str, Encryptor] | None,
) -> Runtime:
    """Return a runtime with the application's configuration on a database that also transports the messages."""
    settings = configured.settings if configured is not None else Settings.find()
    if encryptors is not None and DEFAULT in encryptors:
        settings = attrs.evolve(settings, encryption_keys=None)
    # Only `run_for` enqueues ticks, so that recurring tasks do not disturb a worker of the test.
    settings = attrs.evolve(settings, database=url, broker=None, skip_recurring=True, home=home, origins={})
    if configured is None:
        return Runtime(settings, session_factory, create_tables=True, encryptors=encryptors)
    return Runtime(
        settings,
        session_factory or configured.session_factory,
        configured.redactor.custom,
        create_tables=True,
        unknown_grace=configured.unknown_grace,
        encryptors=configured.configured_encryptors if encryptors is None else encryptors,
        run_context=configured.run_context,
        retention=configured.retention,
        record_columns=configured.record_columns,
        hooks=configured.hooks,
        queues=configured.queues,
    )


def _end(test: Isolated, block: _Block, rows: NewRows | None) -> None:
    _leave(block)
    test.restore_clock()
    # Stop background threads first, because they write too.
    test.runtime.close()
    try:
        if rows is not None:
            rows.delete_new()
    finally:
        test.runtime.close()
