"""Enqueue operations: prepare a job, store it, publish its message.

The module is long because the three steps, for one job or many and with or without a record, are read together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import dramatiq
from sqlalchemy.engine import Connection, Row

from dexpy.brokers.bulk_publish import enqueue_together
from dexpy.brokers.queue_gate import QueueGate
from dexpy.brokers.sql.broker import SqlBroker
from dexpy.database.current_transaction import transaction_scope
from dexpy.enqueue.batch_ends import BatchEnds
from dexpy.enqueue.jobs import (
    DirectPayload,
    EnqueueOptions,
    PreparedJob,
    Turn,
    direct_message,
    note_position,
    publish_jobs,
    record_message,
    savepoint_block,
    store_jobs,
)
from dexpy.enqueue.keyed_insert import RETRY_PAUSE_S
from dexpy.enqueue.prepare import JobPreparer
from dexpy.enqueue.queue_limits import QueueLimits
from dexpy.enqueue.transports import Transport
from dexpy.foundation.errors import OptionsError
from dexpy.foundation.failpoints import failpoint
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path
from dexpy.liveness import worker_registry
from dexpy.policies.options import AsyncOptions
from dexpy.policies.queue_selection import QueueSelection
from dexpy.recording import batch_locks
from dexpy.recording.keys import RetryTransaction
from dexpy.recording.store import Store
from dexpy.recording.ticket import Ticket
from dexpy.recording.transitions import is_applied
from dexpy.transactions import commit_hooks
from dexpy.transactions.async_commits import run_off_loop
from dexpy.transactions.commit_hooks import CommitState
from dexpy.transactions.sessions import (
    EnqueueTransaction,
    ExternalConnection,
    ExternalSession,
    as_external,
    check_transactional,
)

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


T = TypeVar("T")
StoreJobs: TypeAlias = Callable[[Connection], None]
"""Stores the records and messages of prepared jobs."""
PrepareJob: TypeAlias = Callable[[EnqueueTransaction, CommitState], PreparedJob]
"""Prepares a job for a transaction of the application, or None for one of dexpy's own."""


class Dispatcher:
    """Stores records and publishes messages.

    Args:
        transport: The transport of the messages.
        store: The store of records; None when nothing is recorded.
        tables: The database of records or messages; None without one.
        requires_broker: Whether an enqueue is refused while the broker is unreachable.
        queue_limits: Refuses runs for full queues; None without limits.
    """

    def __init__(
        self,
        transport: Transport,
        store: Store | None,
        tables: Store | None,
        *,
        requires_broker: bool = False,
        queue_limits: QueueLimits | None = None,
    ) -> None:
        self.transport = transport
        self._requires_broker = requires_broker
        self._queue_limits = queue_limits
        # Both are optional: a server carries messages without a database, and rows of messages need no records.
        self.store = store
        self._tables = tables
        self._checked_queues: set[str] = set()
        self._preparer = JobPreparer(store, transport, self._is_joined)
        # Optional: a batch consists of records.
        self.batch_ends = None if store is None else BatchEnds(store, self)

    @property
    def broker(self) -> dramatiq.Broker:
        """The broker underneath."""
        return self.transport.broker

    @property
    def transactional(self) -> bool:
        """Whether a message is part of the transaction that stores its record."""
        return self.transport.transactional

    def enqueue(
        self,
        operation: Any,
        options: AsyncOptions,
        session: Session | Connection | None,
        token: str | None = None,
    ) -> Ticket[Any]:
        """Enqueue an operation.

        Args:
            operation: The operation.
            options: The options of the call.
            session: The session or connection whose transaction stores the record; the current session when None.
            token: The caller's own id for this call; a second call of the class with it stores nothing.

        Returns:
            Its ticket, or that of the earlier call with the token.

        Raises:
            NotSerializable: A prop has no JSON form; nothing was stored or published.
            DeclarationError: Workers cannot import the class.
            BrokerUnavailable: The broker is unreachable, and the settings require it.
            QueueFull: The queue has a limit and is full.
            SensitiveInTransit: A sensitive prop would be sent to the broker in plain text.
            OptionsError: An option is invalid, or requires a record where none is stored.
        """
        transaction = _resolve_transaction(session)
        commit_state = CommitState()
        prepared = self._preparer.prepare(operation, options, transaction, token, commit_state)
        self._store_and_publish([prepared], transaction, commit_state)
        return prepared.ticket

    def enqueue_all(
        self, operations: Sequence[Any], options: AsyncOptions, session: Session | Connection | None
    ) -> list[Ticket[Any]]:
        """Enqueue many operations, all or none; see `enqueue`.

        Returns:
            Their tickets, in order.
        """
        transaction = _resolve_transaction(session)
        commit_state = CommitState()
        prepared_jobs: list[PreparedJob] = []
        for number, operation in enumerate(operations):
            try:
                prepared_jobs.append(self._preparer.prepare(operation, options, transaction, None, commit_state))
            except Exception as error:
                note_position(error, number, len(operations))
                raise
        if prepared_jobs:
            self._store_and_publish(prepared_jobs, transaction, commit_state)
        return [prepared.ticket for prepared in prepared_jobs]

    def enqueue_job(self, prepare: PrepareJob, session: Session | Connection | None) -> Ticket[Any]:
        """Enqueue a job that the caller prepares; see `enqueue`.

        Args:
            prepare: Returns the job for a transaction and its commit state.
            session: As for `enqueue`.
        """
        transaction = _resolve_transaction(session)
        commit_state = CommitState()
        prepared = prepare(transaction, commit_state)
        self._store_and_publish([prepared], transaction, commit_state)
        return prepared.ticket

    def write_joined(self, session: Session | Connection | None, write: Callable[[Connection], T]) -> T:
        """Write in the transaction of a session on the records' database, else in one of dexpy's own.

        Args:
            session: The session or connection; the current session when None.
            write: Writes on the connection.
        """
        assert self._tables is not None  # noqa: S101 - callers need a store
        transaction = _resolve_transaction(session)
        if transaction is None or not self._is_joined(transaction):
            with self._tables.begin() as connection:
                return write(connection)
        if isinstance(transaction, ExternalConnection):
            joined = transaction.connection
        else:
            joined = transaction.session().connection()
        results: list[T] = []
        self._write_on(joined, lambda connection: results.append(write(connection)))
        return results[0]

    def prepare(
        self,
        operation: Any,
        options: AsyncOptions,
        transaction: EnqueueTransaction = None,
        commit_state: CommitState | None = None,
        token: str | None = None,
    ) -> PreparedJob:
        """Prepare an operation for `store_with`, `enqueue_job` or `enqueue_in_batches`; see `enqueue`."""
        return self._preparer.prepare(operation, options, transaction, token, commit_state or CommitState())

    def prepare_stored(
        self,
        operation: str,
        params: Mapping[str, Any],
        options: EnqueueOptions,
        loss_limit: int | None,
        transaction: EnqueueTransaction = None,
        commit_state: CommitState | None = None,
    ) -> PreparedJob:
        """Prepare a run of a class that this process may not know; see `JobPreparer.prepare_stored`."""
        state = commit_state or CommitState()
        return self._preparer.prepare_stored(operation, params, options, loss_limit, transaction, state)

    def has_room(self, job: PreparedJob) -> bool:
        """Whether the queue of a job that `store_with` stores is not full."""
        return self._queue_limits is None or self._queue_limits.has_room(job)

    def store_with(self, job: PreparedJob, write: Callable[[Connection, StoreJobs], bool]) -> None:
        """Store a prepared job together with other rows, in a transaction of dexpy's own, and publish it.

        Args:
            job: The job.
            write: Writes the other rows on the connection and calls the function that it gets, which stores the job;
                returns whether the job was stored. It is called again in a new transaction after a conflict of keys.
        """
        self.transport.broker.declare_queue(job.options.queue)
        is_stored = False

        def write_all(connection: Connection) -> None:
            nonlocal is_stored
            is_stored = write(connection, partial(store_jobs, [job], sql_queue=self.transport.sql_queue))

        self._write(write_all)
        if is_stored:
            self._publish([job], {job.options.queue}, CommitState())

    def transaction_of(self, session: Session | Connection | None) -> EnqueueTransaction:
        """Return the transaction that stores a batch: that of the given session, else the current one.

        Raises:
            OptionsError: The session or connection is in autocommit mode.
        """
        return _resolve_transaction(session)

    def enqueue_in_batches(
        self,
        jobs_by_batch: Mapping[str, Sequence[PreparedJob]],
        write: StoreJobs,
        transaction: EnqueueTransaction,
        commit_state: CommitState,
        *,
        accepting: str | None = None,
        on_commit: Callable[[], None] | None = None,
    ) -> None:
        """Enqueue prepared jobs of batches, all or none.

        Args:
            jobs_by_batch: The jobs, perhaps none, by the id of their batch.
            write: Writes or checks the rows of the batches first, in the same transaction.
            transaction: The transaction of the application that stores it all; None for one of dexpy's own.
            commit_state: The state of that transaction.
            accepting: The id of the stored batch that accepts them, whose row is locked until the commit.
            on_commit: Is called after the commit, before anything is published.
        """
        in_savepoint = self._is_joined(transaction)
        jobs = [job for batch_jobs in jobs_by_batch.values() for job in batch_jobs]

        def store(connection: Connection) -> None:
            if in_savepoint and accepting is not None and not isinstance(transaction, (ExternalConnection, type(None))):
                batch_locks.note_lock(transaction.session(), accepting)
            with savepoint_block(connection) if in_savepoint else nullcontext():
                write(connection)
                if jobs:
                    store_jobs(jobs, connection, sql_queue=self.transport.sql_queue)

        def publish() -> None:
            if on_commit is not None:
                on_commit()
            self._publish(jobs, {job.options.queue for job in jobs}, commit_state)
            for batch_id, batch_jobs in jobs_by_batch.items():
                if all(job.ticket.duplicate for job in batch_jobs):
                    self.check_batch(batch_id, "done")

        self._store_and_publish(jobs, transaction, commit_state, store, publish)

    def check_batch(self, batch_id: str, status: str) -> None:
        """Write the end of a batch if the run that ended with this status was its last one; see `BatchEnds.check`."""
        if self.batch_ends is not None:
            self.batch_ends.check(batch_id, status)

    def _is_joined(self, transaction: EnqueueTransaction) -> bool:
        """Whether a record is written in a transaction of the application."""
        if transaction is None or self._tables is None:
            return False
        return isinstance(transaction, ExternalConnection) or self._tables.shares_database(transaction.session())

    def _store_and_publish(
        self,
        jobs: Sequence[PreparedJob],
        transaction: EnqueueTransaction,
        commit_state: CommitState,
        store: StoreJobs | None = None,
        publish: Callable[[], None] | None = None,
    ) -> None:
        """Write in the session's transaction if it is on the records' database, else after it; at once without it."""
        if self._requires_broker:
            self.transport.require_reachable()
        if self._queue_limits is not None:
            self._queue_limits.admit(jobs, waits=transaction is None)
        queues = {job.options.queue for job in jobs}
        for queue in queues:
            self.transport.broker.declare_queue(queue)
        if store is None and any(job.columns is not None or job.has_message_row for job in jobs):
            store = partial(store_jobs, jobs, sql_queue=self.transport.sql_queue)
        if publish is None:
            publish = partial(self._publish, jobs, queues, commit_state)
        if transaction is None:
            self._store_then_publish(store, publish, commit_state)
        elif isinstance(transaction, ExternalConnection):
            self._store_on_connection(transaction.connection, store, commit_state)
        else:
            self._store_in_session(transaction.session(), store, publish, commit_state)

    def _store_then_publish(
        self, store: StoreJobs | None, publish: Callable[[], None], commit_state: CommitState
    ) -> None:
        """Write in a transaction of its own, and publish."""
        try:
            if store is not None:
                self._write(store)
            else:
                # Queue names are stored as rows.
                self.require_tables()
        except BaseException:
            commit_state.roll_back()
            raise
        publish()

    def _store_in_session(
        self, session: Session, store: StoreJobs | None, publish: Callable[[], None], commit_state: CommitState
    ) -> None:
        """Write in the session's transaction if it is on the records' database, else after it; publish after it."""
        commit_state.open = True
        if self._tables is not None and store is not None and self._tables.shares_database(session):
            self._write_on(session.connection(), store)
        else:
            if self._tables is not None and not self._tables.database.dialect.has_one_write_lock:
                # Now, so that the caller gets the error; on SQLite after this thread has released the write lock.
                self.require_tables()
            publish = partial(self._store_then_publish, store, publish, commit_state)
        commit_hooks.after_commit(session, run_off_loop(publish), commit_state.roll_back)

    def _store_on_connection(self, connection: Connection, store: StoreJobs | None, commit_state: CommitState) -> None:
        """Write in a connection's transaction, with the message if messages are rows; else the relay publishes it."""
        if self._tables is None or store is None or not self._tables.is_own_connection(connection):
            raise OptionsError(
                "async_(session=...): this Connection is not to the database of the records, and has no commit event. "
                "Pass the Session, or call async_() after the commit."
            )
        self._write_on(connection, store)
        commit_state.transaction = connection.get_transaction()

    def _write_on(self, connection: Connection, write: Callable[[Connection], None]) -> None:
        """Write in an application's transaction on the records' database."""
        assert self._tables is not None  # noqa: S101 - callers have checked
        self._tables.prepare(connection)
        with self._tables.database.with_own_schema(connection):
            write(connection)

    def _publish(self, jobs: Sequence[PreparedJob], queues: Collection[str], commit_state: CommitState) -> None:
        """Publish what is committed."""
        commit_state.open = False
        failpoint("after_commit")
        if self.transport.transactional:
            self.transport.wake_workers()
        else:
            for refused in publish_jobs(jobs, self.transport):
                self._mark_unpublished(refused)
        for queue in queues:
            if queue not in self._checked_queues:
                self._warn_if_unserved(queue)

    def _mark_unpublished(self, prepared: PreparedJob) -> None:
        """Record that the broker refused a message, so that the relay publishes it later."""
        if prepared.columns is None:
            wait_s = prepared.options.delay_s
            self._write(lambda connection: self._sql_queue.insert(connection, prepared.message, wait_s=wait_s))
        elif self.store is not None:
            with self.store.begin() as connection:
                is_applied(connection, "mark_unpublished", prepared.ticket.id)

    def _warn_if_unserved(self, queue: str) -> None:
        """Log once for each queue that no live worker serves it."""
        if self.store is None:
            return
        self._checked_queues.add(queue)
        liveness_locks = worker_registry.SqliteLivenessLocks(self.store.database)
        try:
            with self.store.begin() as connection:
                alive = worker_registry.live_workers(connection, liveness_locks)
        except Exception as error:  # noqa: BLE001 - the job is enqueued: this check is advice only
            log_event(LogEvent.QUEUE_NOT_CHECKED, queue=queue, error=class_path(error))
            return
        if alive and not any(worker_registry.serves_queue(worker, queue) for worker in alive):
            log_event(LogEvent.QUEUE_UNSERVED, queue=queue, advice=f"start a worker with -Q {queue}, or without -Q")

    def _write(self, write: Callable[[Connection], None]) -> None:
        """Write in a transaction of its own, and again in a new one after each `RetryTransaction`."""
        assert self._tables is not None  # noqa: S101 - without tables there is nothing to write
        while True:
            try:
                with self._tables.begin() as connection:
                    write(connection)
            except RetryTransaction:
                time.sleep(RETRY_PAUSE_S)
            else:
                return

    @property
    def _sql_queue(self) -> SqlBroker:
        sql_queue = self.transport.sql_queue
        assert sql_queue is not None  # noqa: S101 - callers have checked
        return sql_queue

    def require_tables(self) -> None:
        """Require that the tables exist; see `Store.prepare`.

        Raises:
            DatabaseUnavailable: The database is unreachable, or its tables are missing.
        """
        if self._tables is not None:
            self._tables.prepare()

    def is_idle(self, selection: QueueSelection | None) -> bool:
        """Whether nothing is due, unpublished or running in the queues of a selection, or in any; paused ones are idle.

        Args:
            selection: The queues; None for all.
        """
        paused = frozenset[str]() if self.store is None else self.store.pauses.current().queues
        queues: Collection[str] | None = None
        if selection is not None or paused:
            known = {*self.transport.known_queues(), *self.broker.get_declared_queues()}
            queues = [name for name in known - paused if selection is None or name in selection]
        return not (self.store is not None and self.store.has_unpublished(queues)) and self.transport.is_idle(queues)

    def close(self) -> None:
        """Close the connections of this process."""
        self.broker.close()
        if self._tables is not None:
            self._tables.database.dispose()

    def message_of(self, row: Row[Any]) -> dramatiq.Message[Any]:
        """The message of a record."""
        turn: Turn | None = None
        # A run that waits for a limit has its turn there.
        if row.fair_key is not None and row.blocked_key is None:
            turn = "later" if row.fair_queue is None else "waiting"
        return record_message(row.operation, row.id, row.trace_id or "", row.queue, row.priority, turn=turn)

    def publish_row(self, row: Row[Any]) -> bool:
        """Publish the message of a row now; False if the broker refuses it."""
        return self.transport.publish([self.message_of(row)])

    def publish_rows(self, rows: Iterable[Row[Any]]) -> None:
        """Publish the messages of rows that are committed as published, unless their messages are rows themselves."""
        if self.transactional:
            self.wake_workers()
        elif refused := [row for row in rows if not self.publish_row(row)]:
            self.mark_unpublished(refused)

    def mark_unpublished(self, rows: Iterable[Row[Any]]) -> None:
        """Record that the messages of these rows were not published: the relay publishes them."""
        assert self.store is not None  # noqa: S101 - rows exist only with a store
        with self.store.begin() as connection:
            for row in rows:
                is_applied(connection, "mark_unpublished", row.id)

    def publish_with(self, connection: Connection, row: Row[Any], *, due_at: datetime | None = None) -> None:
        """Publish a pending row: with the connection's commit where messages are rows; else the relay publishes it.

        Args:
            connection: A connection in a transaction.
            row: The record.
            due_at: When its message is due. Default: when the record is due.
        """
        if self.transactional:
            due_at = due_at or row.scheduled_at
            self._sql_queue.insert(connection, self.message_of(row), due_at=due_at, priority=row.priority)

    def republish_direct(self, payload: DirectPayload, queue: str, wait_s: float) -> None:
        """Publish the message of a direct run again, after a delay."""
        self.republish_later(direct_message(payload, queue), wait_s, payload.priority)

    def republish_later(
        self, message: dramatiq.Message[Any], wait_s: float, priority: int = 0, record_id: str | None = None
    ) -> None:
        """Publish a message again, after a delay; `record_id` names its record, if it has one."""
        if self.transport.sql_queue is None:
            enqueue_together(self.broker, [message], wait_s)
            return

        def write(connection: Connection) -> None:
            self._sql_queue.insert(connection, message, wait_s=wait_s, priority=priority)
            if record_id is not None:
                is_applied(connection, "defer_republish", record_id, wait_s=wait_s)

        self._write(write)
        self.wake_workers()

    def return_to_queue(self, message: dramatiq.Message[Any], class_name: str, record_id: str | None) -> bool:
        """Requeue a message whose class this process does not know, for a worker that declares it.

        Args:
            message: The message to publish again.
            class_name: The stable name of the class.
            record_id: The id of its record, if it has one.

        Returns:
            Whether this process claims no messages of the class for a while; else it may get this one again at once.
        """
        sql_queue = self.transport.sql_queue
        is_passed_over = self.transactional and sql_queue is not None and sql_queue.skip_class(message, class_name)
        if self.transactional or not self.transport.publish([message]):
            self.republish_later(message, 0.0, getattr(message, "priority", 0), record_id)
        gate: QueueGate | None = getattr(self.broker, "gate", None)
        if gate is not None:
            gate.pass_over(message.queue_name)
        return is_passed_over

    def wake_workers(self) -> None:
        """Wake the workers of this process."""
        self.transport.wake_workers()


def _resolve_transaction(session: Session | Connection | None) -> EnqueueTransaction:
    """Return the transaction that stores a record: that of the given session, else the current one.

    Raises:
        OptionsError: The session or connection is in autocommit mode.
    """
    if session is not None:
        check_transactional(session, "async_(session=...)")
        return as_external(session)
    transaction = transaction_scope.innermost().value
    if isinstance(transaction, ExternalSession):
        check_transactional(transaction.sqlalchemy_session, "dexpy.session(...)")
    return transaction
