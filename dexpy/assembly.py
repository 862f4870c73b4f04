"""Creates and wires all services of a runtime: `build_store`, `build_transport` and `build`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from typing import Any

import attrs
import dramatiq
from sqlalchemy.orm import Session

from dexpy.brokers.message_validation import MessageValidator, ValidationMiddleware
from dexpy.brokers.sql.broker import SqlBroker
from dexpy.brokers.urls import broker_from_url, is_database
from dexpy.configuration.values import RecurringEntry, RetentionSettings
from dexpy.database.current_transaction import current_transaction
from dexpy.database.engine import Database
from dexpy.database.table_layout import set_layout
from dexpy.declaration.contract import Contract
from dexpy.enqueue import queues
from dexpy.enqueue.dispatcher import Dispatcher
from dexpy.enqueue.keyed_insert import build_call_key_claim
from dexpy.enqueue.queue_limits import QueueLimits, check_countable
from dexpy.enqueue.rate_limiter import RateLimiter
from dexpy.enqueue.transports import ServerTransport, SqlTransport, Transport
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.periodic import PeriodicTask
from dexpy.foundation.redaction import Redactor
from dexpy.foundation.run_end import Hook
from dexpy.foundation.trace import Frame
from dexpy.liveness.heartbeat import Heartbeat
from dexpy.liveness.intervals import RecoveryIntervals
from dexpy.locks.backends import Locks
from dexpy.maintenance.once_call_leases import HeartbeatLease
from dexpy.maintenance.pause_check import PauseCheck
from dexpy.maintenance.pruning import Pruning
from dexpy.maintenance.recovery import Recovery
from dexpy.maintenance.recurring_registration import RecurringRegistration, declared_tasks
from dexpy.maintenance.recurring_ticks import RecurringTicks
from dexpy.maintenance.relay import Relay
from dexpy.maintenance.unfinished_claims import UnfinishedClaims
from dexpy.policies.once import OnceOptions
from dexpy.policies.queue_limit import QueueLimit
from dexpy.policies.record_column import RecordColumn
from dexpy.recording import own_columns
from dexpy.recording.end_writer import EndWriter
from dexpy.recording.idempotent_recorder import IdempotentRecorder
from dexpy.recording.queries import RecordQuery
from dexpy.recording.record import Record
from dexpy.recording.store import Sender, Store
from dexpy.worker.actors import declare_actors, refuse_record
from dexpy.worker.direct_job import DirectJob
from dexpy.worker.early_acks import EarlyAcks
from dexpy.worker.hook_runner import HookRunner
from dexpy.worker.periodic import PeriodicTasks
from dexpy.worker.record_job import RecordJob
from dexpy.worker.services import WorkerServices
from dexpy.worker.threads import CHECK_EVERY_S as REPLACE_EVERY_S
from dexpy.worker.threads import ThreadReplacer
from dexpy.worker.unknown_operations import UnknownOperations, UnknownRecords, unknown_policy
from dexpy.worker.watchdog import CHECK_EVERY_S as WATCH_EVERY_S
from dexpy.worker.watchdog import Watchdog


@attrs.frozen
class Recorded:
    """The services that exist only if runs are recorded.

    Attributes:
        store: The store of records.
        heartbeat: The heartbeat of this process.
        end_writer: Writes the ends of runs, and retries while the database is unreachable.
        lease: The lease of synchronous calls with an idempotency key.
        record_job: Runs records.
        relay: Publishes, recovers and expires records.
        recurring: Enqueues the ticks of recurring tasks.
        pruning: Deletes old records.
        prunes: Whether workers and relays delete old records.
        rates: Publishes the runs that wait for a rate limit.
    """

    store: Store
    heartbeat: Heartbeat
    end_writer: EndWriter
    lease: HeartbeatLease
    record_job: RecordJob
    relay: Relay
    recurring: RecurringTicks
    pruning: Pruning
    prunes: bool
    rates: RateLimiter

    def once_recorder(
        self,
        operation: Any,
        contract: Contract,
        once: OnceOptions,
        run_id: str,
        frame: Frame,
        redactor: Redactor,
        own_values: Mapping[str, Any],
    ) -> IdempotentRecorder:
        """Return the recorder of a synchronous run with an idempotency key."""
        store, outer = self.store, current_transaction()
        key_claim = build_call_key_claim(operation, contract, once, store, outer)
        return IdempotentRecorder(
            store,
            contract,
            operation,
            run_id,
            frame,
            redactor,
            own_values=own_values,
            lease=self.lease,
            outer=outer,
            key_claim=key_claim,
        )


@attrs.frozen
class Services(WorkerServices):
    """The objects behind a runtime's background runs.

    Attributes:
        recorded: What there is only where runs are recorded; None elsewhere.
        hook_runner: Calls the hooks of the application; None without hooks.
    """

    recorded: Recorded | None
    hook_runner: HookRunner | None

    def close(self) -> None:
        """Close the connections that this process holds."""
        if self.recorded is not None:
            self.recorded.end_writer.close()
        WorkerServices.close(self)


def build_store(
    url: str,
    *,
    session_factory: Callable[[], Session] | None,
    run_context: Callable[[], AbstractContextManager[Any]] | None,
    redactor: Redactor,
    create_tables: bool,
    db_command: Callable[[str], str],
    find_sender: Callable[[], Sender | None],
    is_shared: bool,
    schema: str | None,
    record_columns: Sequence[RecordColumn],
    redis: Callable[[], tuple[Any, str]] | None,
) -> Store:
    """Create the store of records, with its locks.

    Args:
        url: The URL of the database.
        session_factory: Creates the sessions of runs.
        run_context: Returns a context manager that is entered around each background run.
        redactor: Redacts texts about failures.
        create_tables: Whether missing tables are created on a server too.
        db_command: Returns the command of ``dexpy db`` for an action, for messages.
        find_sender: Returns the publisher of the messages of records; None without one.
        is_shared: Whether other processes use the database too.
        schema: The configured schema of dexpy's tables; None without one.
        record_columns: The application's columns of the records.
        redis: Returns the client of the broker's Redis and the prefix of its keys; None without one.
    """
    database = Database(url, schema=schema)
    return Store(
        database,
        locks=Locks(database, is_shared=is_shared, redis=redis),
        session_factory=session_factory,
        run_context=run_context,
        redactor=redactor,
        create_tables=create_tables,
        db_command=db_command,
        find_sender=find_sender,
        record_columns=record_columns,
    )


def check_record_columns(columns: Sequence[RecordColumn]) -> tuple[RecordColumn, ...]:
    """Return the application's columns of the records, checked.

    Raises:
        ConfigurationError: A column is invalid, or its name is taken.
    """
    return own_columns.check_columns(columns, {*dir(Record), *inspect.signature(RecordQuery.where).parameters})


def own_values_of(columns: Sequence[RecordColumn], operation: Any, contract: Contract) -> Mapping[str, Any]:
    """Return the values of the application's columns for a synchronous run.

    Raises:
        OptionsError: A value does not fit, or belongs to a sensitive prop.
    """
    owner = contract.cls.__qualname__
    return own_columns.column_values(columns, owner, contract, own_columns.readable_params(operation, contract))


def use_layout(prefix: str, columns: Sequence[RecordColumn]) -> None:
    """Give dexpy's tables in this process a prefix, and the records the columns of the application.

    Args:
        prefix: The prefix of the names; "" for the standard names.
        columns: The columns.
    """
    set_layout(prefix, own_columns.table_columns(tuple(columns)))


def build_transport(
    broker: str | dramatiq.Broker | None,
    store: Store | None,
    intervals: RecoveryIntervals,
    *,
    is_in_database: bool,
    schema: str | None,
) -> Transport:
    """Create the transport of the messages.

    Args:
        broker: A URL, or the application's own broker.
        store: The store of records; None when nothing is recorded.
        intervals: The intervals of leases and recovery.
        is_in_database: Whether the messages are rows in the records' database.
        schema: The configured schema of dexpy's tables; None without one.
    """
    if store is not None and is_in_database:
        return SqlTransport(SqlBroker(store.database, lease_s=intervals.lease_s))
    if isinstance(broker, str):
        if not is_database(broker):
            broker = broker_from_url(broker, heartbeat_timeout_s=intervals.lease_s)
        elif store is None:
            return SqlTransport(SqlBroker(Database(broker, schema=schema)))
        else:
            broker = SqlBroker(Database(broker, schema=schema))
            broker.create_tables()
    assert broker is not None  # noqa: S101 - without a store there is a broker
    return ServerTransport(broker, None if store is None else SqlBroker(store.database))


def build(
    transport: Transport,
    store: Store | None,
    *,
    intervals: RecoveryIntervals,
    redactor: Redactor,
    session_store: Callable[[], Store],
    unknown_grace: timedelta | None,
    requires_broker: bool,
    create_tables: bool,
    relay_interval_s: float,
    relay_batch_size: int,
    default_zone: str | None,
    skips_recurring: bool,
    recurring_entries: Sequence[RecurringEntry],
    retention: RetentionSettings,
    hooks: Mapping[str, Hook],
    queue_limits: Mapping[str, QueueLimit],
) -> Services:
    """Create the services of background runs, and add the actors and the middleware to the broker.

    Args:
        transport: The transport of the messages.
        store: The store of records; None when nothing is recorded.
        intervals: The intervals of leases and recovery.
        redactor: Redacts texts about failures.
        session_store: Returns the store that creates the sessions of runs.
        unknown_grace: How long a run of an unknown operation waits for a worker that knows it.
        requires_broker: Whether an enqueue is refused while the broker is unreachable.
        create_tables: Whether missing tables are created on a server too.
        relay_interval_s: The pause between two polls for due records without a message, in seconds.
        relay_batch_size: How many records the relay publishes in one transaction.
        default_zone: The time zone of schedules without one; UTC if it is None.
        skips_recurring: Whether this process enqueues no ticks of recurring tasks.
        recurring_entries: The recurring tasks of the configuration file.
        retention: The settings of the deletion of old records.
        hooks: The hooks of the application, by name.
        queue_limits: The limits of queues, by name.
    """
    broker = transport.broker
    tables = store
    if store is None and transport.sql_queue is not None:
        tables = Store(transport.sql_queue.database, create_tables=create_tables)
    limits = QueueLimits(queue_limits, store, transport) if queue_limits else None
    if queue_limits and store is None:
        check_countable(transport)
    dispatcher = Dispatcher(transport, store, tables, requires_broker=requires_broker, queue_limits=limits)

    def declare_new_queues() -> bool:
        dispatcher.require_tables()
        return queues.declare_new_queues(transport)

    discover = declare_new_queues if store is None else PauseCheck(store, dispatcher, declare_new_queues).run_once
    tasks = [PeriodicTask("queues", queues.DISCOVERY_INTERVAL_S, discover, retry=queues.DISCOVERY_RETRY)]
    recorded: Recorded | None = None
    unknown_operations: UnknownOperations
    if store is None:
        log_event(LogEvent.RECORDING_DISABLED, reason="a broker is configured and no database")
        unknown_operations = UnknownOperations(dispatcher, unknown_policy(unknown_grace, is_alone=True))
        watchdog = Watchdog(lambda ids: (), give_up=lambda run: None)
        run_record, release_runs = refuse_record, lambda: None
    else:
        unknown_operations = unknown_records = UnknownRecords(dispatcher, unknown_policy(unknown_grace), store)
        # The callbacks use objects that are created below; they are called only after the start.
        heartbeat = Heartbeat(
            store,
            intervals,
            transport.keep_alive,
            reconcile=lambda: unfinished_claims.run_once(),
            names_registered=unknown_records.make_due,
        )
        watchdog = Watchdog(store.cancelled_among, give_up=lambda run: record_job.give_up(run))
        end_writer = EndWriter(store)
        rates = RateLimiter(store, dispatcher)
        record_job = RecordJob(dispatcher, store, redactor, heartbeat, end_writer, unknown_records, watchdog, rates)
        unfinished_claims = UnfinishedClaims(dispatcher, store, heartbeat, end_writer)
        relay = Relay(dispatcher, heartbeat, intervals, rates, batch_size=relay_batch_size)
        lease = HeartbeatLease(heartbeat, Recovery(dispatcher, store, heartbeat), end_writer)
        recurring_ticks = RecurringTicks(dispatcher, store)
        pruning = Pruning(store, retention.keep_s, interval_s=retention.interval_s, batch_size=retention.batch_size)
        recorded = Recorded(
            store, heartbeat, end_writer, lease, record_job, relay, recurring_ticks, pruning, retention.prunes, rates
        )
        run_record, release_runs = record_job.run, record_job.release_runs
        # Before the actors' middleware, so that the heartbeat stops after unfinished runs are released.
        broker.add_middleware(heartbeat)
        broker.add_middleware(rates)
        tasks.append(PeriodicTask("relay", intervals.recovery_interval_s, relay.run_once))
        find_tasks = partial(declared_tasks, default_zone, entries=recurring_entries)
        registration = RecurringRegistration(store, heartbeat, find_tasks)
        if not skips_recurring:
            tasks.append(recurring_ticks.periodic_task(registration.run_if_due))
        tasks.append(pruning.rules_task(is_worker=True))
        if retention.prunes:
            tasks.append(pruning.periodic_task())
        if not transport.transactional:
            tasks.append(PeriodicTask("send", relay_interval_s, relay.publish_unpublished))
    hook_runner = HookRunner(store, hooks, redactor) if hooks else None
    if hook_runner is not None:
        tasks.append(hook_runner.periodic_task())
    report_end = None if hook_runner is None else hook_runner.ended_directly
    direct_job = DirectJob(dispatcher, store, redactor, session_store, unknown_operations, watchdog, report_end)
    tasks.append(PeriodicTask("watch", WATCH_EVERY_S, watchdog.check, while_draining=True))
    early_acks = EarlyAcks.task(broker, None if transport.sql_queue is None else transport.sql_queue.database)
    if early_acks is not None:
        tasks.append(early_acks)
    thread_replacer = ThreadReplacer()
    broker.add_middleware(thread_replacer)
    tasks.append(PeriodicTask("threads", REPLACE_EVERY_S, thread_replacer.check))
    if not hasattr(broker, "validator"):
        broker.add_middleware(ValidationMiddleware(MessageValidator(broker)))
    broker.add_middleware(PeriodicTasks(*tasks))
    declare_actors(broker, watchdog, run_record=run_record, run_direct=direct_job.run, release_runs=release_runs)
    return Services(dispatcher, watchdog, None if recorded is None else recorded.heartbeat, recorded, hook_runner)
