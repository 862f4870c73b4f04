"""The broker that needs no server of its own: messages are rows of a table, beside the records or anywhere else.

::

    put ─> free ──claim──> held ──ack──> gone        held: has an owner (a worker process) and a lease
             ^               │ └──nack─> dead
             └─ give back, lease over ─┘

A message waits in the table until a consumer has a thread for it. A delay is a moment in a row, no message in memory,
and what is due is claimed by priority, so neither the far future nor a long queue holds up what is urgent.
All writing about held messages goes through one `Leases` for each process.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, cast

import attrs
import dramatiq
import sqlalchemy as sa
from dramatiq.errors import DecodeError, QueueJoinTimeout, QueueNotFound
from sqlalchemy.engine import Connection

from dexpy.background.brokers.claimed import ClaimedMessage
from dexpy.background.brokers.consumer import Consumer
from dexpy.background.brokers.hiccups import as_broker_errors
from dexpy.background.brokers.leases import Leases
from dexpy.background.brokers.places import ThreadCount
from dexpy.background.brokers.postings import Posting, insert, insert_together
from dexpy.foundation.errors import ConfigurationError
from dexpy.recording import messages as sql
from dexpy.recording.database import Database
from dexpy.recording.sqlite import take_write_lock

JOIN_POLL_S = 0.02
"""How often `SqlBroker.join` looks, in seconds."""


@attrs.frozen
class Pending:
    """How many messages there are, without the dead ones.

    Attributes:
        due: Free, and to be run now.
        delayed: Free, and to be run later.
        leased: Held by a worker process.
    """

    due: int
    delayed: int
    leased: int


class SqlBroker(dramatiq.Broker):
    """A Dramatiq broker over one table of a SQL database.

    Args:
        database: Where the table is.
        lease_s: For how long a process that has died keeps its messages, in seconds.
            Those of a live one are renewed at a third of it, however long they run.
        poll_s: How often an empty queue is looked at within a second of its last message, in seconds.
        idle_poll_s: How often after that, in seconds. Neither delays what this very process enqueues: see `ring`.
        middleware: All of Dramatiq's middleware, instead of its default.

    Raises:
        ConfigurationError: A number of seconds is not above 0.

    Example:
        >>> broker = SqlBroker(Database("sqlite:///:memory:"))
        >>> broker.create_tables()
        >>> broker.pending()
        Pending(due=0, delayed=0, leased=0)
    """

    def __init__(
        self,
        database: Database,
        *,
        lease_s: float = 60.0,
        poll_s: float = 0.02,
        idle_poll_s: float = 0.1,
        middleware: list[dramatiq.Middleware] | None = None,
    ) -> None:
        for name, value in {"lease_s": lease_s, "poll_s": poll_s, "idle_poll_s": idle_poll_s}.items():
            if value <= 0:
                raise ConfigurationError(f"SqlBroker({name}={value!r}) wants a number of seconds above 0.")
        super().__init__(middleware)
        self._threads = ThreadCount()
        self.add_middleware(self._threads)
        self.queues: set[str] = set()
        self.database = database
        self.lease_s = lease_s
        self.poll_s = poll_s
        self.idle_poll_s = idle_poll_s
        self._leases_by_pid: dict[int, Leases] = {}

    @property
    def _leases(self) -> Leases:
        # By process, without a lock of our own that a fork could copy while it is taken.
        pid = os.getpid()
        found = self._leases_by_pid.get(pid)
        return found if found is not None else self._leases_by_pid.setdefault(pid, Leases(self))

    def create_tables(self) -> None:
        """Create the table where it is missing.

        Raises:
            DatabaseUnavailable: The database cannot be opened.
        """
        with self.database.begin() as connection:
            if not sa.inspect(connection).has_table(sql.messages.name):
                take_write_lock(connection)
                sql.messages.create(connection, checkfirst=True)

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue; a worker that runs here begins to consume it."""
        with self._leases.declaring:
            if queue_name not in self.queues:
                self.emit_before("declare_queue", queue_name)
                self.queues.add(queue_name)
                self.emit_after("declare_queue", queue_name)

    def get_declared_queues(self) -> set[str]:
        """The names of all queues declared so far."""
        return set(self.queues)

    def put(
        self,
        connection: Connection,
        message: dramatiq.Message[Any],
        *,
        due_at: datetime | None = None,
        wait_s: float = 0.0,
        priority: int = 0,
    ) -> None:
        """Enqueue a message in the caller's own transaction: it exists if and when that commits.

        Whoever commits calls `ring` afterwards, so that workers of this process look at once.

        Args:
            connection: Of this broker's database, in a transaction.
            message: Of any queue, declared here or not.
            due_at: An aware moment; None to count from now.
            wait_s: So many seconds from now, by the database's clock, where no moment is given.
            priority: Higher runs sooner.
        """
        posting = Posting(message, due_at, wait_s, priority)
        delay = posting.delay_ms
        self.emit_before("enqueue", message, delay)
        insert(connection, posting)
        self.emit_after("enqueue", message, delay)

    def put_together(self, connection: Connection, postings: Sequence[Posting]) -> None:
        """Enqueue many messages in the caller's own transaction, in one statement; see `put`.

        Args:
            connection: Of this broker's database, in a transaction.
            postings: What and when.
        """
        if len(postings) == 1:
            (one,) = postings
            self.put(connection, one.message, due_at=one.due_at, wait_s=one.wait_s, priority=one.priority)
            return
        for posting in postings:
            self.emit_before("enqueue", posting.message, posting.delay_ms)
        insert_together(connection, postings)
        for posting in postings:
            self.emit_after("enqueue", posting.message, posting.delay_ms)

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        """Enqueue a message in a transaction of its own.

        Args:
            message: Of any queue, declared here or not. One that was claimed here (a retry) keeps its priority.
            delay: How many milliseconds from now it is due; it waits in the table.

        Raises:
            ConnectionClosed: The database did not take it.
        """
        # A retry comes as the proxy of the first try.
        priority = message.priority if isinstance(message, ClaimedMessage) else 0
        self.emit_before("enqueue", message, delay)
        with as_broker_errors(), self.database.begin() as connection:
            insert(connection, Posting(message, wait_s=(delay or 0) / 1000, priority=priority))
        self.emit_after("enqueue", message, delay)
        if not delay:
            self._leases.ring([message.queue_name])
        return message

    def ring(self) -> None:
        """Make the idle consumers of this process look at their queues at once."""
        self._leases.ring()

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30000) -> dramatiq.Consumer:
        """A consumer of one queue.

        Args:
            queue_name: A declared queue.
            prefetch: How many messages Dramatiq's worker would have it fetch ahead.
            timeout: The longest time that the consumer waits for a message, in milliseconds.

        Raises:
            QueueNotFound: The queue was never declared.
        """
        if queue_name not in self.queues:
            raise QueueNotFound(queue_name)  # type: ignore[no-untyped-call]
        # What Dramatiq asks for besides, in reserve, is to hide the network. Here it does harm: it lies behind a run of
        # this process while another one idles, and what is more urgent cannot pass it any more. There is little to
        # hide either: an acknowledgement brings the next message along.
        places = self._threads.places(prefetch)
        consumer = Consumer(self, self._leases, queue_name, capacity=places, timeout_s=timeout / 1000)
        with as_broker_errors():
            self._leases.enter(consumer)
        return consumer

    def take(self, queues: Collection[str] | None = None) -> ClaimedMessage | None:
        """Claim the message that is next, in the calling thread; its `ack` or `nack` ends the claim.

        Its lease is renewed only while a worker runs in this process.

        Args:
            queues: Where to look; None is every queue of the table.

        Raises:
            ConnectionClosed: The database did not answer.
        """
        with as_broker_errors():
            while claim := self._leases.take(queues):
                if message := self._leases.open(claim):
                    return message
        return None

    def pending(self, queues: Collection[str] | None = None) -> Pending:
        """Count the messages.

        Args:
            queues: Where to count; None is every queue of the table.
        """
        with self.database.connect() as connection:
            # MariaDB sums up to a Decimal.
            return Pending(*map(int, connection.execute(sql.counts(queues)).one()))

    def standing(self, queue: str) -> Iterator[dramatiq.Message[Any]]:
        """The messages of a queue that wait or are held, in no order, without those that cannot be read."""
        with self.database.connect() as connection:
            rows = connection.execution_options(yield_per=1000).execute(sql.PAYLOADS, {"p_queue": queue})
            for payload in rows.scalars():
                with contextlib.suppress(DecodeError):
                    yield cast(Any, dramatiq.Message).decode(payload.encode())

    def join(self, queue_name: str, *, timeout: int | None = None) -> None:
        """Wait until a queue holds nothing that is due, delayed or being run.

        Args:
            queue_name: A declared queue.
            timeout: The longest time to wait, in milliseconds; None is for ever.

        Raises:
            QueueNotFound: The queue was never declared.
            QueueJoinTimeout: The time is over.
        """
        if queue_name not in self.queues:
            raise QueueNotFound(queue_name)  # type: ignore[no-untyped-call]
        deadline = None if timeout is None else time.monotonic() + timeout / 1000
        while self._any_alive(queue_name):
            if deadline is not None and time.monotonic() >= deadline:
                raise QueueJoinTimeout(queue_name)  # type: ignore[no-untyped-call]
            time.sleep(JOIN_POLL_S)

    def _any_alive(self, queue_name: str) -> bool:
        with self.database.connect() as connection:
            return bool(connection.execute(sql.ANY_ALIVE, {"p_queue": queue_name}).scalar())

    def flush(self, queue_name: str) -> None:
        """Delete all messages of a queue: waiting, delayed, held and dead."""
        self._delete_all([queue_name])

    def flush_all(self) -> None:
        """Delete all messages of all declared queues."""
        self._delete_all(sorted(self.queues))

    def _delete_all(self, queues: list[str]) -> None:
        with self.database.begin() as connection:
            connection.execute(sql.everything_in(queues))

    def close(self) -> None:
        """End what runs for this broker in this process; the database stays open."""
        self._leases.close()
