"""The broker that needs no server of its own: messages are rows of a table, beside the records or anywhere else.

::

    put ─> free ──claim──> held ──ack──> gone        held: has an owner (a worker process) and a lease
             ^               │ └──nack─> dead
             └─ give back, lease over ─┘

A message waits in the table until a consumer has a thread for it. A delay is a moment in a row, no message in memory,
and what is due is claimed by priority, so neither the far future nor a long queue holds up what is urgent.
All writing about held messages goes through one `_Leases` for each process: acknowledgements that come together share
a transaction, and bring the next messages along in it.

Broker, consumer and leases are one mechanism with one lock order, which is why they share a file of this length.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, cast

import attrs
import dramatiq
import sqlalchemy as sa
from dramatiq.errors import ConnectionClosed, DecodeError, QueueJoinTimeout, QueueNotFound
from dramatiq.middleware.threading import Interrupt
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Row

from dexpy.background.brokers.doorbell import Doorbell, has_doorbell
from dexpy.foundation.clock import clock
from dexpy.foundation.errors import ConfigurationError, DatabaseUnavailable
from dexpy.recording import messages as sql
from dexpy.recording.database import Database
from dexpy.recording.metadata import moment
from dexpy.recording.sqlite import take_write_lock

HICCUPS = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError, DatabaseUnavailable)
"""What a database says that is away, restarting, locked or in a deadlock: it will be back."""


@attrs.frozen
class Posting:
    """One message on its way into the table.

    Attributes:
        message: Of any queue.
        due_at: An aware moment; None to count from now.
        wait_s: So many seconds from now, by the database's clock, where no moment is given.
        priority: Higher runs sooner.
    """

    message: dramatiq.Message[Any]
    due_at: datetime | None = None
    wait_s: float = 0.0
    priority: int = 0

    @property
    def delay_ms(self) -> int | None:
        """As Dramatiq's middleware is told of it."""
        if self.due_at is None:
            return round(self.wait_s * 1000) or None
        return max(0, round((self.due_at - clock.now()).total_seconds() * 1000))


DATABASE_ERRORS = (exc.SQLAlchemyError, DatabaseUnavailable)
"""Whatever a database says."""

PAUSES_S = (0.05, 0.25, 1.0)
"""How long an acknowledgement waits between its tries, in seconds."""

JOIN_POLL_S = 0.02
"""How often `SqlBroker.join` looks, in seconds."""

LIVELY_S = 1.0
"""How long after its last message a consumer polls at the quicker pace, in seconds."""


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


@attrs.define(eq=False)
class _Claim:
    """One row that this process holds."""

    id: int
    queue: str
    priority: int
    payload: str
    consumer: _Consumer | None
    settled: bool = False


class ClaimedMessage(dramatiq.MessageProxy):
    """A message that this process holds, to be acknowledged or refused."""

    def __init__(self, message: dramatiq.Message[Any], claim: _Claim, leases: _Leases) -> None:
        super().__init__(message)  # pyright: ignore[reportUnknownMemberType]
        self.claim = claim
        self.priority = claim.priority
        self.content = message
        self._leases = leases

    def ack(self) -> None:
        """The message is done: delete it, unless its lease was lost to another process."""
        self._leases.ack(self.claim)

    def nack(self) -> None:
        """The message is refused for good: keep it as dead."""
        self._leases.nack(self.claim)

    def give_back(self) -> None:
        """The message was not run: free it."""
        self._leases.give_back([self.claim])


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
        self.queues: set[str] = set()
        self.database = database
        self.lease_s = lease_s
        self.poll_s = poll_s
        self.idle_poll_s = idle_poll_s
        self._leases_by_pid: dict[int, _Leases] = {}

    @property
    def _leases(self) -> _Leases:
        # By process, without a lock of our own that a fork could copy while it is taken.
        pid = os.getpid()
        found = self._leases_by_pid.get(pid)
        return found if found is not None else self._leases_by_pid.setdefault(pid, _Leases(self))

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
        delay = Posting(message, due_at, wait_s).delay_ms
        self.emit_before("enqueue", message, delay)
        _insert(connection, message, priority=priority, due_at=due_at, wait_s=wait_s)
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
        # Asked once, so that every value is a plain one, and the driver can send all rows together.
        now = moment(connection)
        rows: list[dict[str, Any]] = []
        for posting in postings:
            due_at = posting.due_at or now + timedelta(seconds=posting.wait_s)
            self.emit_before("enqueue", posting.message, posting.delay_ms)
            values = _facts(posting.message, posting.priority)
            rows.append(values | {"due_at": due_at, "dead": False, "created_at": now})
        connection.execute(sa.insert(sql.messages), rows)
        if connection.dialect.name == "postgresql":
            for queue in {row["queue"] for row in rows if row["due_at"] <= now}:
                connection.execute(sql.RING, {"p_queue": queue})
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
        with _as_broker_errors(), self.database.begin() as connection:
            _insert(connection, message, priority=priority, wait_s=(delay or 0) / 1000)
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
            prefetch: Twice the number of worker threads, as Dramatiq's worker has it.
            timeout: The longest time that the consumer waits for a message, in milliseconds.

        Raises:
            QueueNotFound: The queue was never declared.
        """
        if queue_name not in self.queues:
            raise QueueNotFound(queue_name)  # type: ignore[no-untyped-call]
        # Dramatiq asks for two messages a thread, one to run and one in reserve, to hide the network.
        # Here a reserve does harm: it lies behind a running job while another process idles, and what is more urgent
        # cannot pass it any more. There is little to hide either: an acknowledgement brings the next message along.
        consumer = _Consumer(self, self._leases, queue_name, capacity=max(1, prefetch // 2), timeout_s=timeout / 1000)
        with _as_broker_errors():
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
        with _as_broker_errors():
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


class _Consumer(dramatiq.Consumer):
    """What Dramatiq's consumer thread of one queue reads from."""

    def __init__(self, broker: SqlBroker, leases: _Leases, queue: str, *, capacity: int, timeout_s: float) -> None:
        self.queue = queue
        self.capacity = capacity
        self.more_expected = False
        self._wake = threading.Event()
        self._timeout_s = timeout_s
        self._poll_s = broker.poll_s
        self._idle_poll_s = broker.idle_poll_s
        self._leases = leases
        self._arrived: deque[_Claim] = deque()
        self._active_at = time.monotonic()

    def __next__(self) -> ClaimedMessage | None:
        # Cleared before looking, so that a ring while looking is not slept over.
        self._wake.clear()
        if not self._arrived and not self._fetch():
            self._wake.wait(self._pause_s())
        while self._arrived:
            if message := self._leases.open(self._arrived.popleft()):
                return message
        return None

    def _fetch(self) -> bool:
        if self._leases.room(self) <= 0:
            return False
        with _as_broker_errors():
            return self._leases.fetch(self)

    def _pause_s(self) -> float:
        if self._leases.room(self) <= 0:
            # An acknowledgement wakes it.
            return self._timeout_s
        lively = time.monotonic() - self._active_at < LIVELY_S
        return min(self._timeout_s, self._poll_s if lively else self._idle_poll_s)

    def receive(self, claims: Iterable[_Claim]) -> None:
        """Take in what was claimed for this consumer, in any thread."""
        self._arrived.extend(claims)
        self.touch()

    def touch(self) -> None:
        """Something happened in this queue: look soon, and often for a while."""
        self._active_at = time.monotonic()
        self._wake.set()

    def ack(self, message: dramatiq.MessageProxy) -> None:
        cast(ClaimedMessage, message).ack()

    def nack(self, message: dramatiq.MessageProxy) -> None:
        cast(ClaimedMessage, message).nack()

    def requeue(self, messages: Iterable[dramatiq.MessageProxy]) -> None:
        with _as_broker_errors():
            self._leases.give_back([cast(ClaimedMessage, message).claim for message in messages])

    def close(self) -> None:
        """Give back what has not reached the worker; what runs stays held until it is acknowledged."""
        self._leases.leave(self)
        left, self._arrived = list(self._arrived), deque()
        with _as_broker_errors():
            self._leases.give_back(left)


class _Leases:
    """What one process holds of one broker's messages.

    The owner in the table is the process, not the consumer, for Dramatiq replaces a consumer after an error or a pause
    while messages of the old one are still being run. A message that is held here is never handed out here
    a second time, so the owner is fence enough against whoever comes late.
    """

    def __init__(self, broker: SqlBroker) -> None:
        self.declaring = threading.RLock()
        self.owner = f"{socket.gethostname()[:32]}:{os.getpid()}:{secrets.token_hex(6)}"
        self._logger = broker.logger
        self._database = broker.database
        self._lease_s = broker.lease_s
        # One transaction at a time claims or acknowledges; the acknowledgements that wait for it are written together.
        self._turn = threading.Lock()
        # For what follows; never held over a statement.
        self._guard = threading.Lock()
        self._held: dict[int, _Claim] = {}
        self._consumers: list[_Consumer] = []
        self._keeper: _Keeper | None = None
        self._doorbell: Doorbell | None = None
        self._served: set[str] = set()
        self._unsure = False
        self._acks: deque[_Claim] = deque()

    def enter(self, consumer: _Consumer) -> None:
        """A consumer begins, or begins again after an error."""
        if consumer.queue in self._served:
            self._free_strays(consumer.queue)
        self._served.add(consumer.queue)
        with self._guard:
            self._consumers.append(consumer)
            if self._keeper is None:
                self._keeper = _Keeper(self.renew, self._lease_s / 3)
                self._keeper.start()
            if self._doorbell is None and has_doorbell(self._database):
                self._doorbell = Doorbell(self._database, self.ring)
                self._doorbell.start()

    def _free_strays(self, queue: str) -> None:
        """Free what is ours in the table and not in hand: claimed when the answer was lost, or not given back then."""
        with self._turn, self._database.begin() as connection:
            self._free_strays_on(connection, queue)

    def _free_strays_on(self, connection: Connection, queue: str) -> None:
        held = {"p_owner": self.owner, "p_queue": queue, "p_ids": list(self._held)}
        if freed := connection.execute(sql.FREE_STRAYS, held).rowcount:
            self._logger.warning("%d messages of queue %r were held by nobody here: freed.", freed, queue)

    def leave(self, consumer: _Consumer) -> None:
        """A consumer ends; once this returns nobody claims for it."""
        with self._turn, self._guard:
            if consumer in self._consumers:
                self._consumers.remove(consumer)
        self.close(only_if_idle=True)

    def ring(self, queues: Collection[str] | None = None) -> None:
        """Wake the consumers of these queues, or of all."""
        for consumer in list(self._consumers):
            if queues is None or consumer.queue in queues:
                consumer.touch()

    def close(self, *, only_if_idle: bool = False) -> None:
        """Stop renewing; if asked so, only when nothing is held and nobody is left to claim."""
        with self._guard:
            if only_if_idle and (self._consumers or self._held):
                return
            keeper, self._keeper = self._keeper, None
            doorbell, self._doorbell = self._doorbell, None
        if keeper is not None:
            keeper.end()
        if doorbell is not None:
            doorbell.end()

    def room(self, consumer: _Consumer, done: Collection[int] = ()) -> int:
        """How many more messages a consumer may hold, not counting those that are done."""
        held = list(self._held.values())
        return consumer.capacity - sum(claim.consumer is consumer and claim.id not in done for claim in held)

    def fetch(self, consumer: _Consumer) -> bool:
        """Claim what a consumer has room for, and say whether there was anything."""
        # A plain read first: an idle poller must not take SQLite's write lock.
        with self._database.connect() as connection:
            consumer.more_expected = sql.most_urgent(connection, consumer.queue) is not None
        if not consumer.more_expected:
            return False
        with self._turn:
            if consumer not in self._consumers:
                return False
            with self._database.begin() as connection:
                claims = self._claim_for(consumer, connection)
            self._hold(claims)
            consumer.receive(claims)
        return bool(claims)

    def take(self, queues: Collection[str] | None) -> _Claim | None:
        """Claim the one message that is next."""
        statement = sql.next_of(queues)
        with self._database.connect() as connection:
            if connection.execute(statement).first() is None:
                return None
        with self._turn:
            with self._database.begin() as connection:
                claims = self._claim(connection, lambda: connection.execute(statement).all(), None)
            self._hold(claims)
        return claims[0] if claims else None

    def open(self, claim: _Claim) -> ClaimedMessage | None:
        """The message of a claim; None for one that cannot be read, which is dead from now on."""
        try:
            message: dramatiq.Message[Any] = cast(Any, dramatiq.Message).decode(claim.payload.encode())
        except DecodeError:
            self._logger.exception("Message row %d of queue %r cannot be decoded and is dead.", claim.id, claim.queue)
            self.nack(claim)
            return None
        if message.queue_name != claim.queue:
            # The row was moved; Dramatiq's worker looks for the consumer by the message's own word.
            message = dataclasses.replace(message, queue_name=claim.queue)
        return ClaimedMessage(message, claim, self)

    def _claim_for(self, consumer: _Consumer, connection: Connection, done: Collection[int] = ()) -> list[_Claim]:
        """What fits into a consumer, all of one priority: the next look brings the next one."""
        room = self.room(consumer, done)
        if room <= 0:
            return []
        claims = self._claim(connection, lambda: sql.claimable(connection, consumer.queue, room), consumer)
        consumer.more_expected = bool(claims)
        return claims

    def _claim(
        self, connection: Connection, find: Callable[[], Sequence[Row[Any]]], consumer: _Consumer | None
    ) -> list[_Claim]:
        take_write_lock(connection)
        rows = find()
        if not rows:
            return []
        self._execute(connection, sql.LEASE, [row.id for row in rows], p_lease_s=self._lease_s)
        # A message of our own whose lease had run out is still being run here: it is renewed, not run a second time.
        return [
            _Claim(row.id, row.queue, row.priority, row.payload, consumer) for row in rows if row.id not in self._held
        ]

    def _hold(self, claims: list[_Claim]) -> None:
        with self._guard:
            self._held.update({claim.id: claim for claim in claims})

    def _drop(self, claims: Iterable[_Claim]) -> None:
        """Hold these no longer, and tell their consumers that there is room."""
        with self._guard:
            for claim in claims:
                if self._held.get(claim.id) is claim:
                    del self._held[claim.id]
                    if claim.consumer is not None:
                        claim.consumer.touch()
        self.close(only_if_idle=True)

    def ack(self, claim: _Claim) -> None:
        """Delete a message that is done."""
        self._acks.append(claim)
        self._insist(lambda: self._write_acks(claim), claim)

    def nack(self, claim: _Claim) -> None:
        """Make a message dead."""
        self._insist(lambda: self._end(sql.BURY, [claim]), claim)

    def give_back(self, claims: list[_Claim]) -> None:
        """Free messages that were not run."""
        if not claims:
            return
        try:
            self._end(sql.GIVE_BACK, claims)
        finally:
            self._drop(claims)
        self.ring({claim.queue for claim in claims})

    def renew(self) -> bool:
        """Renew all leases in one statement, and say whether that went well."""
        with self._guard:
            ids = list(self._held)
        try:
            if ids:
                with self._database.begin() as connection:
                    self._execute(connection, sql.RENEW, ids, p_lease_s=self._lease_s)
        except DATABASE_ERRORS as error:
            self._logger.warning("The leases of %d messages could not be renewed: %s", len(ids), error)
            return False
        return True

    def _write_acks(self, mine: _Claim) -> None:
        """Write this acknowledgement and all that have come meanwhile, and claim what the freed threads can run."""
        with self._turn:
            if mine.settled:
                return
            acks = {mine.id: mine}
            while self._acks:
                claim = self._acks.popleft()
                acks[claim.id] = claim
            with self._database.begin() as connection:
                if self._unsure:
                    # The try before may have been written, with claims that nobody here has heard of.
                    for queue in {consumer.queue for consumer in self._consumers}:
                        self._free_strays_on(connection, queue)
                self._execute(connection, sql.DELETE, list(acks))
                brought = self._refill(connection, acks)
            self._unsure = False
            for claim in acks.values():
                claim.settled = True
            self._drop(acks.values())
            for consumer, claims in brought:
                self._hold(claims)
                consumer.receive(claims)

    def _refill(self, connection: Connection, done: Collection[int]) -> list[tuple[_Consumer, list[_Claim]]]:
        hungry = [consumer for consumer in self._consumers if consumer.more_expected]
        return [(consumer, self._claim_for(consumer, connection, done)) for consumer in hungry]

    def _end(self, statement: sa.Update, claims: list[_Claim]) -> None:
        with self._turn:
            with self._database.begin() as connection:
                self._execute(connection, statement, [claim.id for claim in claims])
            self._drop(claims)

    def _insist(self, write: Callable[[], None], claim: _Claim) -> None:
        """Write the end of a message, in several tries; after the last one it is left to run again."""
        failure: BaseException | None = None
        for pause_s in (0.0, *PAUSES_S):
            try:
                time.sleep(pause_s)
                return write()
            except Interrupt as late:
                # A time limit or shutdown meant for the job, which has ended: it must not end the worker's thread.
                failure = late
            except DATABASE_ERRORS as error:
                failure = error
                self._unsure = True
        self._logger.error(
            "The end of message row %d of queue %r could not be written; it runs again when its lease is over: %s",
            *(claim.id, claim.queue, failure),
        )
        self._drop([claim])

    def _execute(self, connection: Connection, statement: sa.Update | sa.Delete, ids: list[int], **more: Any) -> None:
        changed = connection.execute(statement, {"p_ids": ids, "p_owner": self.owner, **more}).rowcount
        if changed < len(ids) and statement is not sql.RENEW:
            self._logger.warning(
                "%d of the message rows %s were not ours any more: a lease was lost, or the queue was flushed.",
                *(len(ids) - changed, ids),
            )


class _Keeper(threading.Thread):
    """Renews the leases of a process, whatever its jobs are doing."""

    def __init__(self, renew: Callable[[], bool], interval_s: float) -> None:
        super().__init__(name="dexpy-leases", daemon=True)
        self._renew = renew
        self._interval_s = interval_s
        self._over = threading.Event()

    def run(self) -> None:
        pause_s = self._interval_s
        while not self._over.wait(pause_s):
            pause_s = self._interval_s if self._renew() else self._interval_s / 10

    def end(self) -> None:
        """Stop, and wait for a renewal that is under way, so that the database can be closed afterwards."""
        self._over.set()
        self.join()


def _insert(
    connection: Connection,
    message: dramatiq.Message[Any],
    *,
    priority: int,
    due_at: datetime | None = None,
    wait_s: float = 0.0,
) -> None:
    values: dict[str, Any] = {f"p_{name}": value for name, value in _facts(message, priority).items()}
    if due_at is None:
        statement, is_due = sql.INSERT_AFTER, wait_s <= 0
        values["p_wait_s"] = wait_s
    else:
        statement, is_due = sql.INSERT_AT, due_at <= clock.now()
        values["p_due_at"] = due_at
    rings = is_due and connection.dialect.name == "postgresql"
    connection.execute(sql.RINGING[statement] if rings else statement, values)


def _facts(message: dramatiq.Message[Any], priority: int) -> dict[str, Any]:
    return {
        "queue": message.queue_name,
        "priority": priority,
        "message_id": message.message_id,
        "payload": _text(message),
    }


def _text(message: dramatiq.Message[Any]) -> str:
    try:
        return message.encode().decode()
    except UnicodeDecodeError:
        raise ConfigurationError(
            "The SQL broker keeps messages as text, and Dramatiq's encoder here makes bytes that are not UTF-8. "
            "Use dramatiq.JSONEncoder, or another one that writes text."
        ) from None


@contextmanager
def _as_broker_errors() -> Generator[None, None, None]:
    """What Dramatiq's worker knows how to survive, for what the database says when it is away."""
    try:
        yield
    except HICCUPS as error:
        raise ConnectionClosed(error) from error  # type: ignore[no-untyped-call]
