"""One worker process: imports the application, serves its queues with Dramatiq's worker, and stops on a signal."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, cast

import attrs
import dramatiq

from dexpy.brokers.bulk_publish import is_rabbitmq
from dexpy.brokers.sql.broker import SqlBroker
from dexpy.configuration.loading import command_flags
from dexpy.configuration.table import default_of
from dexpy.database.engine import is_only_down
from dexpy.declaration import registry
from dexpy.enqueue.jobs import DEFAULT_QUEUE
from dexpy.enqueue.queues import declare_new_queues
from dexpy.enqueue.transports import Transport
from dexpy.foundation.errors import DexpyError
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path
from dexpy.policies.queue_selection import QueueSelection
from dexpy.worker.application import load_application
from dexpy.worker.dumps import DUMP_SIGNALS, Dumper
from dexpy.worker.early_acks import warn_of_long_runs
from dexpy.worker.health import HealthReports, PollingWorker
from dexpy.worker.importing import contain_exits, describe_error
from dexpy.worker.loaded_files import LoadedFiles
from dexpy.worker.log_setup import complete_logging, set_up_logging
from dexpy.worker.recycling import EXIT_RECYCLED, Recycling, exit_after, num_unfinished, stop_fetching
from dexpy.worker.services import WorkerServices, current_worker
from dexpy.worker.signals import STOP_SIGNALS, StopSignals, reset_signals_in_children, terminate_children
from dexpy.worker.startup import compare_clocks, compare_databases, wait_for_broker, wait_for_database

STOP_POLL_S = 0.2
"""How often the main thread checks whether the worker should stop, in seconds."""
EXIT_GRACE_S = 5.0
"""How long after the shutdown timeout a recycled process may take to exit, in seconds."""
EXIT_REASON_LOGGED = 75
"""The exit status of a process that ends by itself and has logged the reason."""


@attrs.frozen
class WorkerOptions:
    """The options of one worker process.

    Attributes:
        modules: The modules to import and the applications to load: they declare the operations, and may configure
            dexpy.
        threads: How many runs at a time.
        queues: The queues to serve, the most urgent first; None for all.
        burst: Whether to stop when nothing is due or running.
        shutdown_timeout_s: How long running operations may take to end after a signal, in seconds.
        log_level: The level of `logging`.
        polling_interval_s: The longest pause between two polls of an idle queue, in seconds.
        group: The name of its worker group in the configuration file; None without groups.
        flags: The flags of the command line, for the settings of the process.
        log_format: The format of log lines; None to leave the application's logging alone.
        max_runs: The runs after which the process is replaced; None for no limit.
        max_memory: The resident memory at which the process is replaced, in bytes; None for no limit.
        dump_signal: The name of the signal at which the process logs its threads, or "off".
        reports_files: Whether the process reports the files that it has loaded.
        reports_health: Whether the process reports its health to its parent.
    """

    modules: tuple[str, ...]
    threads: int = default_of("workers.threads")
    queues: QueueSelection | None = None
    burst: bool = False
    shutdown_timeout_s: float = default_of("workers.shutdown_timeout")
    log_level: int = logging.INFO
    polling_interval_s: float = default_of("workers.polling_interval")
    group: str | None = None
    flags: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False)
    log_format: str | None = None
    max_runs: int | None = None
    max_memory: int | None = None
    dump_signal: str = default_of("dump_signal")
    reports_files: bool = False
    reports_health: bool = False


def run_process(options: WorkerOptions, parent: int, report: Callable[[str, str], None]) -> int:
    """Run a worker until it is stopped.

    Args:
        options: The options of the process.
        parent: The pid of the parent; the worker stops when its parent has ended.
        report: Called with "ready", or with a text and "error", or "away" for a server that is only unreachable; with
            "dumped" after each dump, and with "health" and a text every second if `reports_health` is set.

    Returns:
        The exit status.
    """
    command_flags.set(options.flags)
    set_up_logging(options.log_level, options.log_format)
    stop, dumper = StopSignals(), Dumper(lambda: report("dumped", ""))
    stop.install()
    dumper.install(options.dump_signal)
    reset_signals_in_children((*STOP_SIGNALS, *filter(None, [DUMP_SIGNALS.get(options.dump_signal)])))
    loaded = LoadedFiles(report) if options.reports_files else None
    try:
        with contain_exits("Cannot start the worker"):
            services, worker = _prepare(options, parent, stop, loaded)
            dumper.watchdog = services.watchdog
            recycling = Recycling(options.max_runs, options.max_memory, services.watchdog)
    except DexpyError as error:
        if options.log_level <= logging.DEBUG:
            traceback.print_exc()
        if loaded is not None:
            loaded.report(error)
        report("away" if is_only_down(error) else "error", str(error))
        return 2
    if worker is None:
        return 0
    # Before the worker starts: an operation that kills it at once does not mean that workers cannot start.
    report("ready", "")
    if loaded is not None:
        loaded.report()
    worker.start()
    send = report if options.reports_health else None
    health = HealthReports(services, worker, options.polling_interval_s, send)
    served = "all" if options.queues is None else str(options.queues)
    log_event(LogEvent.WORKER_STARTED, pid=os.getpid(), threads=options.threads, queues=served, group=options.group)
    exit_status, patience_s = 0, options.shutdown_timeout_s
    try:
        exit_status, patience_s = _wait_for_stop(services, worker, options, parent, stop, recycling, loaded, health)
    except BaseException as error:  # noqa: BLE001 - from a signal handler of the application
        log_event(LogEvent.WORKER_FAILED, pid=os.getpid(), error=class_path(error), error_message=describe_error(error))
        exit_status = EXIT_REASON_LOGGED
    health.end()
    if exit_status == EXIT_RECYCLED:
        recycling.log_end()
        exit_after(patience_s + EXIT_GRACE_S, EXIT_RECYCLED)
    else:
        reason = "a signal" if stop else "the burst is over" if options.burst else None
        log_event(LogEvent.WORKER_DRAINING, pid=os.getpid(), reason=reason, timeout_s=patience_s)
    stop.install()
    worker.stop(timeout=int(patience_s * 1000))
    services.close()
    terminate_children()
    log_event(LogEvent.WORKER_STOPPED, pid=os.getpid())
    return exit_status


def _prepare(
    options: WorkerOptions, parent: int, stop: StopSignals, loaded: LoadedFiles | None
) -> tuple[WorkerServices, dramatiq.Worker] | tuple[WorkerServices, None]:
    """Import the application and connect to its servers; no worker if the process was stopped meanwhile."""
    try:
        load_application(options.modules)
    finally:
        stop.install()
        complete_logging(options.log_level, options.log_format)
    if loaded is not None:
        # Before the servers are awaited: a file that changes meanwhile must restart this process too.
        loaded.report()
    services = current_worker.get()
    dispatcher = services.dispatcher
    if options.burst:
        dispatcher.require_tables()
    elif not wait_for_database(dispatcher.require_tables, lambda: bool(stop) or os.getppid() != parent):
        return services, None
    wait_for_broker(dispatcher.broker, options.queues.names if options.queues is not None else class_queues())
    worker = build_worker(services, options)
    # Again: code of the application may have changed the handlers meanwhile.
    stop.install()
    return services, worker


def _wait_for_stop(
    services: WorkerServices,
    worker: dramatiq.Worker,
    options: WorkerOptions,
    parent: int,
    stop: StopSignals,
    recycling: Recycling,
    loaded: LoadedFiles | None,
    health: HealthReports,
) -> tuple[int, float]:
    """Wait until the worker should stop; return the exit status and the shutdown timeout in seconds."""
    dispatcher = services.dispatcher
    idle_polls, is_recycling = 0, False
    while not stop:
        time.sleep(STOP_POLL_S)
        # A library may have replaced the handlers since.
        stop.install()
        if loaded is not None:
            loaded.report()
        health.report_if_due()
        if os.getppid() != parent:
            log_event(LogEvent.WORKER_ORPHANED, pid=os.getpid())
            break
        if dispatcher.store is not None and dispatcher.store.database.is_file_replaced:
            log_event(
                LogEvent.DATABASE_FILE_REPLACED,
                path=dispatcher.store.database.path,
                advice="the file was deleted or replaced while the worker had it open; the worker stops",
            )
            return EXIT_REASON_LOGGED, options.shutdown_timeout_s
        if services.watchdog.stuck_threads >= options.threads:
            log_event(
                LogEvent.WORKER_STUCK, pid=os.getpid(), reason="every thread runs an operation that ignores its timeout"
            )
            # The ends of these runs are written already, and none of them can be stopped.
            return EXIT_REASON_LOGGED, 0.0
        if recycling.is_due():
            # Each time, because threads that have died are replaced.
            stop_fetching(worker)
            if not is_recycling:
                is_recycling = True
                services.watchdog.interrupt()
                health.end()
                log_event(LogEvent.WORKER_DRAINING, pid=os.getpid(), reason=recycling.reason)
            if num_unfinished(worker) <= services.watchdog.stuck_threads:
                return EXIT_RECYCLED, options.shutdown_timeout_s if not services.watchdog.stuck_threads else 0.0
        if options.burst and dispatcher.is_idle(options.queues) and not worker.work_queue.unfinished_tasks:
            # Twice, because a consumer may have a message that the worker has not received yet.
            idle_polls += 1
            if dispatcher.transactional or idle_polls > 1:
                break
        else:
            idle_polls = 0
    return 0, options.shutdown_timeout_s


def build_worker(services: WorkerServices, options: WorkerOptions) -> dramatiq.Worker:
    """Check clocks and sessions, announce what this process serves, and return its worker, which has not started.

    Raises:
        ConfigurationError: The sessions of `session_factory` do not work.
    """
    dispatcher = services.dispatcher
    warn_of_long_runs(
        dispatcher.broker,
        registry.names(),
        has_records=dispatcher.store is not None,
        has_database=dispatcher.transport.sql_queue is not None,
    )
    if dispatcher.store is not None:
        compare_clocks(dispatcher.store.database)
        compare_databases(dispatcher.store)
    if services.heartbeat is not None:
        services.heartbeat.serve(options.threads, None if options.queues is None else options.queues.patterns)
    return make_worker(dispatcher.transport, options)


def make_worker(transport: Transport, options: WorkerOptions) -> dramatiq.Worker:
    """Return a Dramatiq worker for the queues known now; it serves others as soon as they are declared."""
    broker: Any = transport.broker
    if options.queues is not None and hasattr(broker, "gate"):
        # Before the first consumer starts.
        broker.gate.selection = options.queues
    for name in class_queues().union(() if options.queues is None else options.queues.names):
        transport.broker.declare_queue(name)
    declare_new_queues(transport)
    # The longest wait of a consumer for a message; on Redis also the longest pause between two polls.
    timeout_ms = round(options.polling_interval_s * 1000)
    if isinstance(transport.broker, SqlBroker):
        transport.broker.set_polling_interval(options.polling_interval_s)
    worker = PollingWorker(transport.broker, worker_threads=options.threads, worker_timeout=timeout_ms)
    if options.queues is not None:
        # Not an argument: Dramatiq would make a set of its members.
        worker.consumer_whitelist = cast("Any", options.queues)
    if is_rabbitmq(transport.broker) and not hasattr(transport.broker, "prefetch"):
        # The application's own broker: prefetch at most one message for each thread and queue.
        worker.queue_prefetch = options.threads
    return worker


def class_queues() -> frozenset[str]:
    """Return the queues that the declared operations name."""
    queues: set[str] = {DEFAULT_QUEUE}
    for name in registry.names():
        queue: Any = registry.find(name).contract.options.queue
        if isinstance(queue, str):
            queues.add(queue)
    return frozenset(queues)
