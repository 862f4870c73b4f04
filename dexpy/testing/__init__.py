"""For the tests of applications: a runtime of one's own, a way to run what is due, a clock to move."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dexpy.foundation.clock import clock
from dexpy.foundation.errors import RecordNotFound
from dexpy.foundation.settings import Settings
from dexpy.runtime import Runtime, install

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from dexpy.declaration.encryption import Encryptor
    from dexpy.recording.ticket import Ticket

__all__ = ["Isolated", "isolated"]

MANY = 10_000
"""So many runs in one `Isolated.run_pending` are taken for a loop."""


class Isolated:
    """What `isolated` gives: a runtime with a database of its own.

    Attributes:
        runtime: In force while the block lasts.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def run_pending(self, queues: Collection[str] | None = None) -> list[Ticket[Any]]:
        """Run what is due, in this thread, as a worker would: through the real encoder, table and decoder.

        What is sent meanwhile and is due runs too; what is due later waits until the clock is moved.

        Args:
            queues: Only these; None for all.

        Returns:
            A ticket for each run, in order; a retry counts as one more.
        """
        broker: Any = self.runtime.broker
        self.runtime.dispatcher.prepare()
        tickets: list[Ticket[Any]] = []
        while (message := broker.take(queues)) is not None:
            if len(tickets) == MANY:
                raise RuntimeError(f"{MANY} runs in one run_pending(): does an operation send itself for ever?")
            try:
                broker.emit_before("process_message", message)
                actor = broker.get_actor(message.actor_name)
                result = actor(*message.args, **message.kwargs)
                broker.emit_after("process_message", message, result=result)
            except BaseException as error:
                broker.emit_after("process_message", message, exception=error)
                message.nack()
                raise
            message.ack()
            tickets += self._ticket(message)
        return tickets

    def _ticket(self, message: Any) -> list[Ticket[Any]]:
        from dexpy.recording.ticket import Ticket

        record_id = message.kwargs.get("record_id")
        if record_id is None:
            return [Ticket(message.options["dexpy"]["id"], message.kwargs["class_name"], None, None)]
        try:
            return [Ticket.get(record_id)]
        except RecordNotFound:
            # Deleted since it was sent: the job has said so in the log.
            return []

    def advance(self, by: timedelta | float) -> None:
        """Move the clock of this process on.

        Args:
            by: Seconds, or a timedelta.
        """
        clock.advance(by)


@contextmanager
def isolated(
    *,
    database: str | None = None,
    session_factory: Callable[[], Session] | None = None,
    encryptors: Mapping[str, Encryptor] | None = None,
) -> Generator[Isolated]:
    """A runtime for one test: a database of its own, gone with the block, and a clock that can be moved.

    Args:
        database: A URL to use instead of a temporary SQLite file.
        session_factory: Makes the sessions of runs.
        encryptors: What encrypts, by name.

    Example:
        >>> from dexpy.testing import isolated
        >>> from dexpy import records
        >>> with isolated() as test:
        ...     test.run_pending(), records.all().count()
        ([], 0)
    """
    with tempfile.TemporaryDirectory(prefix="dexpy-test-", ignore_cleanup_errors=True) as folder:
        url = database or f"sqlite:///{Path(folder) / 'test.db'}"
        runtime = Runtime(Settings(database=url, home=Path(folder)), session_factory, encryptors=encryptors)
        before = install(runtime)
        try:
            yield Isolated(runtime)
        finally:
            install(before)
            clock.reset()
            runtime.close()
