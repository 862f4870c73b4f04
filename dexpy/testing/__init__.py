"""Test helpers for applications: an isolated runtime, a method that runs what is due, and a clock to move."""

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

from dexpy.brokers.validation import DEAD_REASON
from dexpy.foundation.clock import clock
from dexpy.foundation.encryption import DEFAULT
from dexpy.foundation.errors import DexpyError, RecordNotFound
from dexpy.foundation.settings import Settings
from dexpy.recording.ticket import Ticket
from dexpy.runtime import Runtime, install
from dexpy.testing.rows import NewRows

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from dexpy.foundation.encryption import Encryptor

__all__ = ["Isolated", "isolated"]

MAX_RUNS = 10_000
"""More runs in one `Isolated.run_pending` count as an endless loop."""


class Isolated:
    """The result of `isolated`: a runtime with a database of its own.

    Attributes:
        runtime: The current runtime inside the block.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._moved = timedelta(0)

    def run_pending(self, queues: Collection[str] | None = None) -> list[Ticket[Any]]:
        """Run what is due, in this thread, as a worker would: through the real encoder, table and decoder.

        Operations enqueued meanwhile run too if they are due; later ones wait until the clock is moved.
        A message that no worker would run goes to the dead messages, with a RuntimeWarning that gives the reason.

        Args:
            queues: The queues to run; None for all.

        Returns:
            A ticket for each run, in order; a retry counts as one more.
        """
        broker: Any = self.runtime.broker
        self.runtime.dispatcher.require_tables()
        tickets: list[Ticket[Any]] = []
        while (message := self._take(queues)) is not None:
            if len(tickets) == MAX_RUNS:
                raise RuntimeError(f"{MAX_RUNS} runs in one run_pending(): does an operation send itself for ever?")
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
                _warn(f"The message of {message.kwargs['class_name']} was put with the dead ones: {reason}.")
            else:
                message.ack()
            tickets += self._ticket(message)
        return tickets

    def _take(self, queues: Collection[str] | None) -> Any:
        """Return the next valid message; invalid ones go to the dead messages."""
        broker: Any = self.runtime.broker
        refused: Counter[str] = Counter(broker.validator.refused)
        message = broker.claim(queues)
        for reason in broker.validator.refused - refused:
            _warn(f"A message was put with the dead ones: {reason}.")
        return message

    def _ticket(self, message: Any) -> list[Ticket[Any]]:
        record_id = message.kwargs.get("record_id")
        if record_id is None:
            return [Ticket(message.options["dexpy"]["id"], message.kwargs["class_name"], None, None)]
        try:
            return [Ticket.get(record_id)]
        except RecordNotFound:
            # Deleted since it was enqueued, which the job has logged.
            return []

    def advance(self, by: timedelta | float) -> None:
        """Move the clock of this process forward until the block ends, also for a database server.

        Args:
            by: Seconds, or a timedelta.
        """
        delta = by if isinstance(by, timedelta) else timedelta(seconds=by)
        clock.advance(delta, databases=True)
        self._moved += delta

    def restore_clock(self) -> None:
        """Undo what this block has moved; an outer block keeps its own time."""
        clock.advance(-self._moved, databases=True)
        self._moved = timedelta(0)


def _warn(text: str) -> None:
    warnings.warn(f"Isolated.run_pending: {text} No worker would run it.", RuntimeWarning, stacklevel=4)


@attrs.define(eq=False)
class _Block:
    """An open block, and the runtime to install again after it."""

    runtime: Runtime
    before: Runtime | None


_blocks: list[_Block] = []


def _leave(entered: _Block) -> None:
    """Install the runtime from before a block again, unless an inner block is still open."""
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
    """Give one test a runtime with a temporary database and a clock that can be moved.

    Everything else is as the application has configured it: the sessions of runs, encryptors, the redactor.
    Messages go through the database, whatever the broker of the application is.

    Args:
        database: A URL to use instead of a temporary SQLite file. Missing tables are created and stay; the rows that
            the block added to dexpy's tables are deleted after it.
        session_factory: Makes the sessions of runs, instead of the application's.
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
            # The error of the block must not be hidden by a later one.
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
    """Return a runtime with the application's configuration, on a database that carries the messages too."""
    settings = configured.settings if configured is not None else Settings.find()
    if encryptors is not None and DEFAULT in encryptors:
        settings = attrs.evolve(settings, encryption_keys=None)
    settings = attrs.evolve(settings, database=url, broker=None, home=home, database_source=None)
    if configured is None:
        return Runtime(settings, session_factory, create_tables=True, encryptors=encryptors)
    return Runtime(
        settings,
        session_factory or configured.session_factory,
        configured.redactor.custom,
        create_tables=True,
        unknown_grace=configured.unknown_grace,
        recover_within=configured.recover_within,
        encryptors=configured.given_encryptors if encryptors is None else encryptors,
        run_context=configured.run_context,
    )


def _end(test: Isolated, block: _Block, rows: NewRows | None) -> None:
    _leave(block)
    test.restore_clock()
    # Background threads end first: they write too.
    test.runtime.close()
    try:
        if rows is not None:
            rows.delete_new()
    finally:
        test.runtime.close()
