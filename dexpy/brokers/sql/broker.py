"""The SQL broker: a Dramatiq broker that stores messages as rows of one table and needs no server of its own.

::

    insert ─> free ──claim──> held ──ack──> deleted  held: has an owner (a worker process) and a lease
                ^               │ └──nack─> dead
                └─ release, lease expired ─┘

A message stays in the table until a consumer has a free thread. A delay is stored as the row's due time, and due
messages are claimed by priority, so neither delayed messages nor a long queue delay an urgent one.
All writes to held messages go through one `Leases` object for each process.
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
from dramatiq.errors import QueueJoinTimeout, QueueNotFound
from sqlalchemy.engine import Connection

from dexpy.brokers.message_validation import InvalidMessage, MessageValidator
from dexpy.brokers.prefetch import ThreadCount
from dexpy.brokers.queue_gate import QueueGate
from dexpy.brokers.sql import statements as sql
from dexpy.brokers.sql.consumer import Consumer
from dexpy.brokers.sql.inbox import Inbox
from dexpy.brokers.sql.inserts import MessageRow, insert, insert_many
from dexpy.brokers.sql.leases import ClaimedMessage, Leases, broker_errors
from dexpy.database.dialects import dialect_of
from dexpy.database.engine import Database
from dexpy.database.schema_names import inspector as inspector_of
from dexpy.database.tables import messages
from dexpy.foundation.errors import ConfigurationError

JOIN_POLL_S = 0.02
"""How often `SqlBroker.join` polls, in seconds."""


@attrs.frozen
class Pending:
    """The number of messages, without the dead ones.

    Attributes:
        due: Messages that can be claimed now.
        delayed: Messages that can be claimed later.
        leased: Messages that a worker process holds.
    """

    due: int
    delayed: int
    leased: int


class SqlBroker(dramatiq.Broker):
    """A Dramatiq broker over one table of a SQL database.

    Args:
        database: The database of the table.
        lease_s: How long a dead process still holds its messages, in seconds.
            A live process renews its leases after a third of that time, however long a message runs.
        poll_s: How often an empty queue is polled within a second of its last message, in seconds.
        idle_poll_s: How often it is polled after that, in seconds. Messages that this process enqueues itself wake
            its consumers at once.
        middleware: The middleware of Dramatiq to use instead of the default.

    Raises:
        ConfigurationError: A number of seconds is not more than 0.

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
                raise ConfigurationError(f"SqlBroker({name}=): expected seconds, more than 0; got {value!r}.")
        super().__init__(middleware)
        self.validator = MessageValidator(self)
        self.queues: set[str] = set()
        self.gate = QueueGate(self.get_declared_queues)
        self._threads = ThreadCount()
        self.add_middleware(self._threads)
        self.database = database
        self.lease_s = lease_s
        self.poll_s = poll_s
        self.idle_poll_s = idle_poll_s
        self._leases_by_pid: dict[int, Leases] = {}

    @property
    def _leases(self) -> Leases:
        # For each process, without a lock: a fork could copy a lock that is held.
        pid = os.getpid()
        leases = self._leases_by_pid.get(pid)
        if leases is None:
            new_leases = Leases(self.database, self.validator, self.lease_s, self.gate)
            leases = self._leases_by_pid.setdefault(pid, new_leases)
        return leases

    def create_tables(self) -> None:
        """Create the table where it is missing.

        Raises:
            DatabaseUnavailable: The database does not open.
        """
        with self.database.begin() as connection:
            inspector, schema = inspector_of(connection)
            if not inspector.has_table(messages.name, schema=schema):
                dialect_of(connection).acquire_write_lock(connection)
                messages.create(connection, checkfirst=True)

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue, which a worker of this process then consumes."""
        with self._leases.declare_lock:
            if queue_name not in self.queues:
                self.emit_before("declare_queue", queue_name)
                self.queues.add(queue_name)
                self.emit_after("declare_queue", queue_name)

    def get_declared_queues(self) -> set[str]:
        """The names of all queues declared so far."""
        return set(self.queues)

    def insert(
        self,
        connection: Connection,
        message: dramatiq.Message[Any],
        *,
        due_at: datetime | None = None,
        wait_s: float = 0.0,
        priority: int = 0,
    ) -> None:
        """Enqueue a message in the caller's transaction, with which it is committed or rolled back.

        Call `wake_consumers` after the commit, so that workers of this process poll at once.

        Args:
            connection: A connection to this broker's database, in a transaction.
            message: A message of any queue, declared here or not.
            due_at: An aware datetime; None to count from now.
            wait_s: The delay in seconds from now, by the database's clock; used if *due_at* is None.
            priority: The priority; higher runs sooner.
        """
        message_row = MessageRow(message, due_at, wait_s, priority)
        delay = message_row.delay_ms
        self.emit_before("enqueue", message, delay)
        insert(connection, message_row, self.database.schema)
        self.emit_after("enqueue", message, delay)

    def insert_all(self, connection: Connection, message_rows: Sequence[MessageRow]) -> None:
        """Enqueue many messages in the caller's transaction, in one statement; see `insert`.

        Args:
            connection: A connection to this broker's database, in a transaction.
            message_rows: The messages with their due times and priorities.
        """
        if len(message_rows) == 1:
            (row,) = message_rows
            self.insert(connection, row.message, due_at=row.due_at, wait_s=row.wait_s, priority=row.priority)
            return
        for message_row in message_rows:
            self.emit_before("enqueue", message_row.message, message_row.delay_ms)
        insert_many(connection, message_rows, self.database.schema)
        for message_row in message_rows:
            self.emit_after("enqueue", message_row.message, message_row.delay_ms)

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        """Enqueue a message in a separate transaction.

        Args:
            message: A message of any queue, declared here or not. One that was claimed here, a retry, keeps its
                priority.
            delay: The time until it is due, in milliseconds; it waits in the table.

        Raises:
            ConnectionClosed: The database was unreachable or busy.
        """
        # Dramatiq enqueues a retry as the message proxy of the first attempt.
        priority = message.priority if isinstance(message, ClaimedMessage) else 0
        self.emit_before("enqueue", message, delay)
        with broker_errors(), self.database.begin() as connection:
            row = MessageRow(message, wait_s=(delay or 0) / 1000, priority=priority)
            insert(connection, row, self.database.schema)
        self.emit_after("enqueue", message, delay)
        if not delay:
            self._leases.wake([message.queue_name])
        return message

    def set_polling_interval(self, seconds: float) -> None:
        """Set the longest pause between two polls of an idle queue, for consumers that start later.

        Args:
            seconds: The pause; a queue that had a message within a second is still polled at `poll_s` if that is less.
        """
        self.idle_poll_s = seconds
        self.poll_s = min(self.poll_s, seconds)

    def stop_fetching(self) -> None:
        """Claim no more messages for the consumers of this process; acknowledgements and leases continue."""
        self._leases.stop_claiming()

    def wake_consumers(self) -> None:
        """Make the idle consumers of this process poll their queues at once."""
        self._leases.wake()

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30000) -> dramatiq.Consumer:
        """Return a consumer of one queue.

        Args:
            queue_name: A declared queue.
            prefetch: The number of messages that Dramatiq's worker would have it fetch ahead.
            timeout: The longest time that the consumer waits for a message, in milliseconds.

        Raises:
            QueueNotFound: The queue was never declared.
        """
        if queue_name not in self.queues:
            raise QueueNotFound(queue_name)  # type: ignore[no-untyped-call]
        # No prefetch beyond the threads: a prefetched message would wait behind a run while another process is idle or
        # a more urgent message is due. An acknowledgement claims the next message in its transaction.
        inbox = Inbox(queue_name, capacity=self._threads.capacity(prefetch))
        with broker_errors():
            self._leases.add_inbox(inbox)
        return Consumer(self._leases, inbox, timeout_s=timeout / 1000, poll_s=self.poll_s, idle_poll_s=self.idle_poll_s)

    def claim(self, queues: Collection[str] | None = None) -> ClaimedMessage | None:
        """Claim the next message in the calling thread; its `ack` or `nack` ends the claim.

        Its lease is renewed only while a worker runs in this process.

        Args:
            queues: The queues to claim from; None for every queue of the table.

        Raises:
            ConnectionClosed: The database did not answer.
        """
        with broker_errors():
            while claim := self._leases.claim(queues):
                if message := self._leases.open(claim):
                    return message
        return None

    def pending(self, queues: Collection[str] | None = None, *, without: Collection[str] = ()) -> Pending:
        """Count the messages.

        Args:
            queues: The queues to count; None for every queue of the table.
            without: The names of classes whose messages do not count as due.
        """
        with self.database.connect() as connection:
            # MariaDB returns sums as Decimal.
            return Pending(*map(int, connection.execute(sql.counts(queues, without)).one()))

    def skip_class(self, message: dramatiq.Message[Any], class_name: str) -> bool:
        """Claim no messages of a class for a while, so that other processes claim them.

        Args:
            message: A message of the class, which its worker is about to requeue.
            class_name: The class, as the message names it.

        Returns:
            Whether the class is skipped; False if the encoded message does not contain the class name as JSON.
        """
        encoded: bytes = cast(Any, message).encode()
        return sql.class_marker(class_name).encode() in encoded and self._leases.skipped_classes.add(class_name)

    @property
    def skipped_classes(self) -> frozenset[str]:
        """The classes whose messages this process does not claim now."""
        return self._leases.skipped_classes.names()

    def iter_messages(self, queue: str) -> Iterator[dramatiq.Message[Any]]:
        """Yield the readable messages of a queue that are due or held, in no particular order."""
        with self.database.connect() as connection:
            rows = connection.execution_options(yield_per=1000).execute(sql.PAYLOADS, {"p_queue": queue})
            for payload in rows.scalars():
                with contextlib.suppress(InvalidMessage):
                    yield self.validator.read(payload.encode("utf-8", "replace"), queue, moves=True)

    def record_ids(self, queue: str) -> set[str]:
        """Return the ids of the records of a queue's messages."""
        return {
            str(message.kwargs["record_id"]) for message in self.iter_messages(queue) if "record_id" in message.kwargs
        }

    def join(self, queue_name: str, *, timeout: int | None = None) -> None:
        """Wait until a queue has no due, delayed or running message.

        Args:
            queue_name: A declared queue.
            timeout: The longest time to wait, in milliseconds; None to wait without a limit.

        Raises:
            QueueNotFound: The queue was never declared.
            QueueJoinTimeout: The timeout has expired.
        """
        if queue_name not in self.queues:
            raise QueueNotFound(queue_name)  # type: ignore[no-untyped-call]
        deadline = None if timeout is None else time.monotonic() + timeout / 1000
        while self._has_live_messages(queue_name):
            if deadline is not None and time.monotonic() >= deadline:
                raise QueueJoinTimeout(queue_name)  # type: ignore[no-untyped-call]
            time.sleep(JOIN_POLL_S)

    def _has_live_messages(self, queue_name: str) -> bool:
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
            connection.execute(sql.delete_all_in(queues))

    def close(self) -> None:
        """Stop the broker's threads of this process; the database stays open."""
        self._leases.close()
