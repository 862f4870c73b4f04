"""`RecurringTicks`: enqueues the due ticks of recurring tasks, in every worker and relay.

There is no leader. Each tick is a transaction of its own: it locks the row of the task, compares it with what was read,
moves it to the next tick and inserts the record. The unique constraint on key and tick is a second lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import attrs
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import IntegrityError

from dexpy.database import lock_timeouts
from dexpy.database.error_codes import is_locked
from dexpy.database.errors import is_away, is_conflict
from dexpy.declaration import registry
from dexpy.declaration.contract import Contract
from dexpy.enqueue.dispatcher import Dispatcher, StoreJobs
from dexpy.enqueue.jobs import PreparedJob
from dexpy.enqueue.recurring_runs import prepare_run
from dexpy.foundation.backoff import Backoff
from dexpy.foundation.errors import DexpyError, KeyBusy, NotUnique, OnceConflict
from dexpy.foundation.failpoints import failpoint
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.periodic import PeriodicTask
from dexpy.foundation.redaction import class_path
from dexpy.foundation.throttle import LogThrottle
from dexpy.maintenance.recovery import LOCK_WAIT_S
from dexpy.maintenance.tick_plan import Misses, TaskState, TickPlan, plan_tick
from dexpy.recording import recurring_tasks
from dexpy.recording.recurring_tasks import TaskOptions, schedule_of
from dexpy.recording.store import Store

RETRY = Backoff(0.5, 2.0)
"""The pauses after failed rounds: a database that is back must not wait for its ticks."""
SHORTEST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
"""The longest pause between two rounds, in seconds: how soon a change of a task takes effect everywhere."""
BATCH = 200
MAX_TICKS = 100
"""The maximum number of ticks of one task in one round, so that it does not delay the others."""
LOCKED_PAUSE_S = 0.2
"""The pause before another attempt at a task that another transaction has locked, in seconds."""
FAILED_PAUSE_S = 5.0
"""The pause after an error with a task, in seconds."""
KEY_WAIT_S = 0.5
"""How long a tick waits for an open transaction that holds a key of the class, in seconds: the other ticks wait too."""
UNKNOWN_WAIT_S = 5.0
"""How long a tick of an unknown class is left to other processes, in seconds, unless half its grace is shorter."""


@attrs.frozen
class _Skipped:
    """Why a tick has no run."""

    reason: str


class RecurringTicks:
    """The periodic task that enqueues due ticks.

    Args:
        dispatcher: Prepares, stores and publishes the runs.
        store: The store of records and tasks.
    """

    def __init__(self, dispatcher: Dispatcher, store: Store) -> None:
        self._dispatcher = dispatcher
        self._store = store
        self._set_aside: dict[str, float] = {}
        self._failures = LogThrottle()
        self._pause_s = SHORTEST_PAUSE_S

    def periodic_task(self, register: Callable[[], None] = lambda: None) -> PeriodicTask:
        """Return the task that enqueues due ticks; its pauses last until the nearest tick, within bounds.

        Args:
            register: Called before each round, to register the tasks of this process.
        """

        def run_once() -> bool:
            register()
            return self.run_once()

        return PeriodicTask("recurring", LONGEST_PAUSE_S, run_once, retry=RETRY, pause_s=lambda: self._pause_s)

    def run_once(self) -> bool:
        """Enqueue all due ticks.

        Returns:
            True; an error with one task is logged and delays no other.

        Raises:
            Exception: The database is away; one error of that kind delays no other task.
        """
        started = time.monotonic()
        self._set_aside = {key: until for key, until in self._set_aside.items() if until > started}
        with lock_timeouts.limited(LOCK_WAIT_S):
            with self._store.autocommit() as connection:
                soon = recurring_tasks.find_soon(connection, LONGEST_PAUSE_S, BATCH, list(self._set_aside))
            waits = [LONGEST_PAUSE_S]
            first_error: Exception | None = None
            for row in soon:
                if row.next_at is None:
                    # The query excludes NULL, so that Python cannot represent the value.
                    recurring_tasks.report_unreadable(row.key, ["next_at"])
                    self._leave(row.key, FAILED_PAUSE_S)
                    continue
                wait_s = (row.next_at - row.now).total_seconds()
                try:
                    waits.append(wait_s if wait_s > 0 else self._enqueue_due(row.key))
                except Exception as error:
                    # It may be about one task, for example params that are too large for the server.
                    self._leave(row.key, LONGEST_PAUSE_S)
                    if first_error is not None:
                        raise
                    first_error = error
            if first_error is not None:
                raise first_error
        elapsed_s = time.monotonic() - started
        waits += [until - started for until in self._set_aside.values()]
        self._pause_s = min(max(min(waits) - elapsed_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
        return True

    def _enqueue_due(self, key: str) -> float:
        """Enqueue the due ticks of one task; return the seconds until its next one."""
        try:
            for _ in range(MAX_TICKS):
                wait_s = self._enqueue_next(key)
                if wait_s > 0:
                    return wait_s
        except Exception as error:
            if is_locked(error) or is_conflict(error) or isinstance(error, (KeyBusy, IntegrityError)):
                # Another transaction has the row or a key of the class, or has enqueued the tick.
                return self._leave(key, LOCKED_PAUSE_S)
            if is_away(error):
                raise
            facts = {"error": class_path(error)}
            if isinstance(error, DexpyError):
                # Others are raised by code of the application, whose messages may contain secrets.
                facts["error_message"] = str(error)
            self._failures.log(LogEvent.RECURRING_FAILED, f"{key} {facts['error']}", key=key, **facts)
            return self._leave(key, FAILED_PAUSE_S)
        return 0.0

    def _leave(self, key: str, wait_s: float) -> float:
        """Leave a task alone for a while."""
        self._set_aside[key] = time.monotonic() + wait_s
        return wait_s

    def _enqueue_next(self, key: str) -> float:
        """Do what is due for a task; return the seconds until its next tick, 0 if that has passed too."""
        with self._store.autocommit() as connection:
            row = recurring_tasks.read_task(connection, key)
        if row is None:
            return self._leave(key, FAILED_PAUSE_S)
        if row.next_at is None or row.next_at > row.now or not is_active(row):
            return LONGEST_PAUSE_S if row.next_at is None else max((row.next_at - row.now).total_seconds(), 0.001)
        options = TaskOptions.from_json(row.options)
        plan = plan_tick(state_of(row, options), row.now)
        job: PreparedJob | None = None
        if plan.tick is not None:
            contract: Contract | None = registry.contract_of(row.operation)
            if contract is None:
                left_s = _unknown_wait_s(row, options) - (row.now - row.next_at).total_seconds()
                if left_s > 0:
                    return self._leave(key, max(left_s, SHORTEST_PAUSE_S))
                if options.requires_class:
                    return self._leave(key, FAILED_PAUSE_S)
            job = self._prepare(row, plan.tick, options, contract)
        if not self._write(row, options, plan, job):
            # Another process is at it, or has changed the task: read it again soon, because that process may die.
            return LOCKED_PAUSE_S
        return 0.0 if plan.next_at is None or plan.next_at <= row.now else (plan.next_at - row.now).total_seconds()

    def _prepare(self, row: Row[Any], tick: datetime, options: TaskOptions, contract: Contract | None) -> PreparedJob:
        due_at = tick + recurring_tasks.delay_of(row.key, tick, options.jitter_s)
        prepared = prepare_run(self._dispatcher, row, contract, options, at=due_at if due_at > row.now else None)
        keyed = prepared.keyed
        return attrs.evolve(
            prepared,
            columns={**(prepared.columns or {}), "run_at": tick, "previous_run_at": row.last_at},
            keyed=None if keyed is None else attrs.evolve(keyed, longest_wait_s=KEY_WAIT_S),
        )

    def _write(self, row: Row[Any], options: TaskOptions, plan: TickPlan, job: PreparedJob | None) -> bool:
        """Move a task to its next tick and store the run of this one; False if the task is not as it was read."""
        values: dict[str, Any] = {"next_at": plan.next_at, **_counted(row, plan.misses)}
        has_room = job is None or self._dispatcher.has_room(job)
        if row.paused_at is not None:
            values |= recurring_tasks.FREE_PAUSE
        is_moved, skipped = False, None

        def write(connection: Connection, store_job: StoreJobs | None) -> bool:
            nonlocal is_moved, skipped
            is_moved, skipped = False, None
            locked = recurring_tasks.lock_task(connection, row.key)
            if locked is None or not is_unchanged(row, locked):
                return False
            failpoint("recurring_task_locked")
            is_moved = True
            if job is None or store_job is None or plan.tick is None:
                recurring_tasks.update_task(connection, row.key, **values)
                return False
            if recurring_tasks.has_tick(connection, row.key, plan.tick):
                # Its row was moved back since, by hand or from a backup.
                recurring_tasks.update_task(connection, row.key, **values)
                return False
            if has_room:
                skipped = self._store_job(connection, row, options, job, store_job)
            else:
                skipped = _Skipped("its queue is full")
            recurring_tasks.update_task(connection, row.key, **{**values, **_ended(row, plan, job, skipped)})
            failpoint("recurring_run_stored")
            return skipped is None

        if job is None:
            with self._store.begin() as connection:
                write(connection, None)
        else:
            self._dispatcher.store_with(job, write)
        if is_moved:
            _log(row, plan, job, skipped)
        return is_moved

    def _store_job(
        self, connection: Connection, row: Row[Any], options: TaskOptions, job: PreparedJob, store_job: StoreJobs
    ) -> _Skipped | None:
        """Store a run unless its tick is skipped."""
        if options.max_waiting is not None and recurring_tasks.has_run(connection, row.key, "pending"):
            return _Skipped("an earlier run is pending")
        if options.overlap == "skip" and recurring_tasks.has_run(connection, row.key, "running"):
            return _Skipped("an earlier run is running")
        try:
            store_job(connection)
        except (NotUnique, OnceConflict):
            return _Skipped("another run has its key")
        return _Skipped("another run has its key") if job.ticket.duplicate else None


def is_active(row: Row[Any]) -> bool:
    """Return whether a task has ticks: it is neither retired nor paused."""
    if row.retired_at is not None:
        return False
    return row.paused_at is None or (row.paused_until is not None and row.paused_until <= row.now)


def state_of(row: Row[Any], options: TaskOptions) -> TaskState:
    """Return the state of an active task on which its plan depends."""
    schedule = schedule_of(row)
    return TaskState(
        schedule,
        row.next_at,
        options.grace_of(schedule),
        runs_latest=options.missed == "latest",
        until=row.until_at,
        resumed_at=row.paused_until if row.paused_at is not None else None,
    )


def is_unchanged(row: Row[Any], locked: Row[Any]) -> bool:
    """Return whether a locked row is as it was read, in all that a plan depends on."""
    columns = ("next_at", "definition", "paused_at", "paused_until", "retired_at", "until_at", "remaining", "last_at")
    return all(getattr(row, column) == getattr(locked, column) for column in columns)


def _unknown_wait_s(row: Row[Any], options: TaskOptions) -> float:
    """Return how long a process that does not declare the class leaves a tick to others, in seconds."""
    return min(UNKNOWN_WAIT_S, options.grace_of(schedule_of(row)) / 2)


def _counted(row: Row[Any], misses: Misses | None) -> dict[str, Any]:
    if misses is None:
        return {}
    return {
        "missed_count": recurring_tasks.added(row.missed_count, misses.count),
        "first_missed_at": row.first_missed_at or misses.first,
        "last_missed_at": misses.last,
    }


def _ended(row: Row[Any], plan: TickPlan, job: PreparedJob, skipped: _Skipped | None) -> dict[str, Any]:
    """Return the columns of a task after its tick was stored or skipped."""
    if skipped is not None:
        return {"skipped_count": recurring_tasks.added(row.skipped_count, 1), "last_skipped_at": plan.tick}
    values: dict[str, Any] = {"last_at": plan.tick, "last_run_id": job.ticket.id}
    if row.remaining is not None:
        values["remaining"] = max(row.remaining - 1, 0)
        if row.remaining <= 1:
            values["next_at"] = None
    return values


def _log(row: Row[Any], plan: TickPlan, job: PreparedJob | None, skipped: _Skipped | None) -> None:
    facts = {"key": row.key, "operation": row.operation}
    if (misses := plan.misses) is not None:
        log_event(
            LogEvent.RECURRING_MISSED,
            **facts,
            count=misses.count,
            first_at=misses.first,
            last_at=misses.last,
            next_at=plan.next_at,
        )
    if plan.tick is None or job is None:
        return
    if skipped is not None:
        log_event(LogEvent.RECURRING_SKIPPED, **facts, tick=plan.tick, reason=skipped.reason, next_at=plan.next_at)
    else:
        late_ms = (row.now - plan.tick).total_seconds() * 1000
        log_event(LogEvent.RECURRING_ENQUEUED, **facts, tick=plan.tick, run_id=job.ticket.id, late_ms=late_ms)
