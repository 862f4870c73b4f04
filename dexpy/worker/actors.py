"""Declares the two Dramatiq actors, ``dexpy.RecordJob`` and ``dexpy.DirectJob``, on any broker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import dramatiq
from dramatiq.middleware import CurrentMessage

from dexpy.brokers.message_validation import DIRECT_JOB, RECORD_JOB
from dexpy.foundation.errors import UnknownOperation
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.worker.signals import DramatiqSignals
from dexpy.worker.watchdog import Watchdog

NO_TIME_LIMIT_MS = 366 * 24 * 3600 * 1000
"""Replaces Dramatiq's time limit of ten minutes: the operation's own timeout applies instead."""


class ShutdownMiddleware(dramatiq.Middleware):
    """Releases the runs that do not end before the worker's shutdown timeout; also under plain ``dramatiq``.

    Args:
        watchdog: Tracks the runs of this process.
        release_runs: Releases the records of the runs that have not ended.
    """

    def __init__(self, watchdog: Watchdog, release_runs: Callable[[], None]) -> None:
        self._watchdog = watchdog
        self._release_runs = release_runs

    def before_worker_boot(self, broker: Any, worker: Any) -> None:
        """Interrupt no run of a worker that starts after another one of this process has stopped."""
        self._watchdog.resume()

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
        """Interrupt the runs that another worker can continue."""
        self._watchdog.interrupt()

    def after_worker_shutdown(self, broker: Any, worker: Any) -> None:
        """Release the runs that have not ended."""
        self._release_runs()


def refuse_record(class_name: str, record_id: str, trace: Mapping[str, Any], **_later: Any) -> None:
    """Refuse a message of ``dexpy.RecordJob`` in a process without a database; see `RecordJob.run`.

    Raises:
        UnknownOperation: Always.
    """
    reason = "the run has a record, but this worker has no database"
    log_event(LogEvent.MESSAGE_REFUSED, operation=class_name, run_id=record_id, trace_id=trace.get("id"), reason=reason)
    raise UnknownOperation(
        f"{class_name} {record_id}: the run has a record, but this worker has no database. "
        "Start the worker with the settings of the application."
    )


def declare_actors(
    broker: dramatiq.Broker,
    watchdog: Watchdog,
    *,
    run_record: Callable[..., None],
    run_direct: Callable[..., None],
    release_runs: Callable[[], None],
) -> None:
    """Declare the two actors on a broker; its other actors and its middleware do not change.

    Args:
        broker: The transport of the messages.
        watchdog: Tracks the runs of this process.
        run_record: The body of ``dexpy.RecordJob``.
        run_direct: The body of ``dexpy.DirectJob``.
        release_runs: Releases the records of the runs that have not ended when the worker stops.
    """
    if not any(isinstance(middleware, CurrentMessage) for middleware in broker.middleware):
        broker.add_middleware(CurrentMessage())
    broker.add_middleware(ShutdownMiddleware(watchdog, release_runs))
    broker.add_middleware(DramatiqSignals())
    # dexpy decides about retries itself: a retry by Dramatiq would be a second message for the same run.
    settings = {"max_retries": 0, "time_limit": NO_TIME_LIMIT_MS}
    options: dict[str, Any] = {name: value for name, value in settings.items() if name in broker.actor_options}
    bodies: dict[str, Callable[..., None]] = {RECORD_JOB: run_record, DIRECT_JOB: run_direct}
    for name, body in bodies.items():
        actor = dramatiq.actor(actor_name=name, broker=broker, queue_name="default", **options)(body)
        # At DEBUG Dramatiq logs the whole message, including params.
        actor.logger.setLevel(logging.INFO)
