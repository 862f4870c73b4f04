"""A job: its queue and time, its message, and how it is stored in one transaction and published after it.

A message carries a record's id, or the params themselves. The keyword arguments of the two actors are exactly these;
everything else is in ``options["dexpy"]``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal, TypeAlias

import attrs
import dramatiq
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from dexpy.brokers.bulk_publish import enqueue_together
from dexpy.brokers.diagnostics import CLUSTER_REASON, describe_error, is_of_cluster, is_of_server
from dexpy.brokers.message_validation import DIRECT_JOB, RECORD_JOB
from dexpy.brokers.sql.broker import SqlBroker
from dexpy.brokers.sql.inserts import MessageRow
from dexpy.brokers.urls import display_of
from dexpy.database.column_types import FromNow, database_time
from dexpy.database.dialects import dialect_of
from dexpy.declaration.contract import Contract
from dexpy.enqueue.keyed_insert import KeyedInsert
from dexpy.enqueue.transports import Transport, seconds_until
from dexpy.foundation.errors import BrokerUnavailable, OptionsError
from dexpy.foundation.failpoints import failpoint
from dexpy.policies.options import AsyncOptions, check_queue, delay_seconds
from dexpy.recording.store import insert_record, insert_records
from dexpy.recording.ticket import Ticket

DEFAULT_QUEUE = "default"
Turn: TypeAlias = Literal["waiting", "later"]
"""Of a run with a fair key: it waits for its turn in the queue, or does so from the delivery of its message on."""

VERSION = 1
"""The version of the message format."""


@attrs.frozen
class EnqueueOptions:
    """The queue, priority and time of one operation, with every option resolved.

    Attributes:
        queue: The queue's name.
        priority: Higher runs sooner.
        wait_s: Seconds from now on; None without a delay.
        at: The moment; None without one.
        expires_in_s: Seconds from now on, after which a run that has not started expires; None for never.
    """

    queue: str
    priority: int
    wait_s: float | None
    at: datetime | None
    expires_in_s: float | None

    @classmethod
    def of(cls, operation: Any, contract: Contract, call_options: AsyncOptions) -> EnqueueOptions:
        """Merge the options of a call over those of its class.

        Raises:
            OptionsError: The queue function returned an invalid name, or the run would expire before it is due.
        """
        options, where = call_options.merged_over(contract.options), contract.cls.__qualname__
        queue = options.queue if options.queue is not None else DEFAULT_QUEUE
        if callable(queue):
            queue = check_queue(queue(operation), f"{where}.async_ (its queue function)")
        wait_s = None if options.in_ is None else delay_seconds(options.in_, "in_", where)
        expires_in_s = None if options.expires_in is None else delay_seconds(options.expires_in, "expires_in", where)
        resolved = cls(queue, options.priority or 0, wait_s, options.at, expires_in_s)
        if expires_in_s is not None and expires_in_s <= resolved.delay_s:
            raise OptionsError(
                f"{where}.async_: expires_in: expected more than the delay of {resolved.delay_s:g} s, "
                f"got {expires_in_s:g} s. The run would expire before it is due."
            )
        return resolved

    @property
    def delay_s(self) -> float:
        """Seconds until it is due, 0 for now."""
        if self.wait_s is not None:
            return self.wait_s
        return 0.0 if self.at is None else seconds_until(self.at)


@attrs.frozen(eq=False)
class PreparedJob:
    """One operation that is ready to be stored and published.

    Attributes:
        ticket: The ticket of its run, or of an earlier run that holds one of its keys.
        options: Its queue, priority and time.
        message: The message for the broker.
        is_due: Whether its message is published right after the commit; decided once, because the due time may pass
            between the insert and the commit.
        has_message_row: Whether its message is a row, written in the same transaction.
        columns: The columns of its row, without those of `row`; None without a record before the end.
        keyed: Stores the row of a job with keys.
    """

    ticket: Ticket[Any]
    options: EnqueueOptions
    message: dramatiq.Message[Any]
    is_due: bool
    has_message_row: bool
    columns: Mapping[str, Any] | None = None
    keyed: KeyedInsert | None = None

    def row(self, now: datetime | None = None) -> dict[str, Any]:
        """The columns of its row.

        Args:
            now: The time of the database's clock; None to compute it there.
        """
        options, is_sent = self.options, self.is_due or self.has_message_row
        from_now: Callable[[float], Any] = FromNow if now is None else partial(_after, now)
        scheduled_at: Any = options.at if options.wait_s is None else from_now(options.wait_s)
        columns = dict(self.columns or {})
        if "fair_key" in columns and options.delay_s == 0:
            columns["fair_queue"] = columns["queue"]
        if scheduled_at is None and ("fair_key" in columns or not is_sent):
            # The relay selects records by the time at which they became due, and a key's runs are sorted by it.
            scheduled_at = from_now(0)
        return {
            **columns,
            "scheduled_at": scheduled_at,
            "expires_at": None if options.expires_in_s is None else from_now(options.expires_in_s),
            "enqueued_at": from_now(0) if is_sent else None,
            "send_count": int(is_sent),
        }


def _after(now: datetime, seconds: float) -> datetime:
    return now + timedelta(seconds=seconds)


def note_position(error: Exception, number: int, of: int) -> None:
    """Note on an exception which of many operations failed; *number* counts from 0."""
    error.add_note(f"enqueue_all: item {number + 1} of {of}; nothing was stored or sent.")


def is_direct(contract: Contract) -> bool:
    """Whether a message carries the params of a class, although runs are recorded."""
    return contract.record is None or not contract.record.params


@attrs.frozen
class DirectPayload:
    """The content of a direct job's message: the params, because no record stores them.

    A direct run is lost when its message is lost, for example by a crash between a commit and the publication.

    Attributes:
        class_name: The operation's stable name.
        params: The props as JSON.
        trace: The frame as JSON.
        run_id: Of the run, the same in every attempt.
        attempt: Which attempt this will be, from 1.
        counts: Attempts so far for each retry rule.
        priority: The priority of its message; not part of the payload.
    """

    class_name: str
    params: Mapping[str, Any]
    trace: Mapping[str, Any]
    run_id: str
    attempt: int = 1
    counts: Mapping[str, int] = attrs.field(factory=dict[str, int])
    priority: int = 0

    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments of the message."""
        return {"class_name": self.class_name, "params": dict(self.params), "trace": dict(self.trace)}

    def options(self) -> dict[str, Any]:
        """The values of ``options["dexpy"]`` beside the version."""
        return {"id": self.run_id, "attempt": self.attempt, "counts": dict(self.counts)}


def record_message(
    class_name: str, record_id: str, trace_id: str, queue: str, priority: int, *, turn: Turn | None = None
) -> dramatiq.Message[Any]:
    """Build the message of a recorded run: it refers to the record, which stores everything else.

    Args:
        class_name: The operation's stable name.
        record_id: The id of its record.
        trace_id: For tools that read the broker.
        queue: Its queue's name.
        priority: Higher runs sooner.
        turn: Of a run with a fair key: whether it waits for its turn; None for other runs.
    """
    kwargs = {"class_name": class_name, "record_id": record_id, "trace": {"id": trace_id}}
    fields: dict[str, Any] = {"v": VERSION, "priority": priority} if priority else {"v": VERSION}
    if turn is not None:
        fields["fair"] = turn
    return dramatiq.Message(queue_name=queue, actor_name=RECORD_JOB, args=(), kwargs=kwargs, options={"dexpy": fields})


def direct_message(payload: DirectPayload, queue: str) -> dramatiq.Message[Any]:
    """Build the message of a direct run."""
    options = {"dexpy": {"v": VERSION, **payload.options()}}
    return dramatiq.Message(queue_name=queue, actor_name=DIRECT_JOB, args=(), kwargs=payload.kwargs(), options=options)


def store_jobs(jobs: Sequence[PreparedJob], connection: Connection, sql_queue: SqlBroker | None) -> None:
    """Store records and messages in a transaction that the caller commits; an exception leaves nothing of them.

    Args:
        jobs: At least one.
        connection: In the transaction.
        sql_queue: Takes the messages that are rows.
    """
    # Only keyed inserts fail here; a transaction of dexpy's own is rolled back as a whole.
    in_savepoint = len(jobs) > 1 and any(job.keyed is not None and job.keyed.is_joined for job in jobs)
    with savepoint_block(connection) if in_savepoint else nullcontext():
        _store_records(jobs, connection)
        failpoint("after_insert")
        rows: list[MessageRow] = []
        for job in jobs:
            if job.has_message_row and not job.ticket.duplicate:
                options = job.options
                rows.append(MessageRow(job.message, options.at, options.wait_s or 0.0, options.priority))
        if sql_queue is not None and rows:
            sql_queue.insert_all(connection, rows)


def _store_records(jobs: Sequence[PreparedJob], connection: Connection) -> None:
    plain: list[PreparedJob] = []
    keyed: list[PreparedJob] = []
    for job in jobs:
        if job.columns is not None:
            (plain if job.keyed is None else keyed).append(job)
    if len(plain) == 1:
        insert_record(connection, plain[0].row())
    elif plain:
        # One query for the time, so that all values are plain and the driver can send all rows together.
        now = database_time(connection)
        insert_records(connection, [job.row(now) for job in plain], now)
    # One order in all processes, so that two such transactions never deadlock.
    keyed.sort(key=_key_order)
    for job in keyed:
        assert job.keyed is not None  # noqa: S101 - the loop above selects them by it
        try:
            job.keyed.insert(connection, job.row())
        except Exception as error:
            if len(jobs) > 1:
                note_position(error, jobs.index(job), len(jobs))
            raise


def _key_order(job: PreparedJob) -> tuple[str, ...]:
    return () if job.keyed is None else job.keyed.order


def publish_jobs(jobs: Sequence[PreparedJob], transport: Transport) -> Iterator[PreparedJob]:
    """Publish the messages of stored jobs after the commit.

    Args:
        jobs: The jobs, already stored.
        transport: Takes the messages, if they are not rows beside the records.

    Yields:
        The jobs whose messages the broker refused.
    """
    if any(job.has_message_row for job in jobs):
        transport.wake_workers()
    for queue in dict.fromkeys(job.options.queue for job in jobs):
        transport.register_queue(queue)
    failpoint("before_publish")
    refused = list(_publish_due(jobs, transport))
    failpoint("after_publish")
    yield from refused


def _publish_due(jobs: Sequence[PreparedJob], transport: Transport) -> Iterator[PreparedJob]:
    unpublished = [job for job in jobs if not job.has_message_row and not job.ticket.duplicate]
    due = [job for job in unpublished if job.is_due]
    # A record that is due later waits in its row; a direct run with a short delay waits in the broker.
    later = [job for job in unpublished if job.columns is None and not job.is_due]
    for job in later:
        if not _publish([job], transport, job.options.delay_s):
            yield job
    if due and not _publish(due, transport):
        yield from due


def _publish(jobs: Sequence[PreparedJob], transport: Transport, delay_s: float = 0.0) -> bool:
    messages = [job.message for job in jobs]
    if transport.sql_queue is None:
        # There is no database to store them for later: the caller gets the error.
        try:
            enqueue_together(transport.broker, messages, delay_s)
        except Exception as error:
            if not is_of_server(error):
                raise
            reason = CLUSTER_REASON if is_of_cluster(error) else describe_error(error)
            raise BrokerUnavailable(
                f"{display_of(transport.broker)} has not accepted the message: {reason} Without a database nothing "
                "stores it for later. Enqueue again when the broker is back, or configure a database: "
                "dexpy.configure(database=...)."
            ) from error
        return True
    return transport.publish(messages, delay_s)


@contextmanager
def savepoint_block(connection: Connection) -> Generator[None]:
    """A savepoint in an application's transaction, which continues when an exception has rolled back the block."""
    # On SQLite first: a savepoint that begins a transaction would commit with its release.
    dialect_of(connection).acquire_write_lock(connection)
    savepoint = connection.begin_nested()
    try:
        yield
    except BaseException:
        # A deadlock on MariaDB has removed the savepoint, and is the error to raise.
        with suppress(DBAPIError):
            savepoint.rollback()
        raise
    savepoint.commit()
