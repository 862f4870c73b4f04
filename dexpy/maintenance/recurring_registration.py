"""`RecurringRegistration`: keeps the rows of recurring tasks in step with what the live workers declare.

Each worker stores which tasks it declares, with the digests of their definitions. The row of a task has the definition
of the live worker that was started last, so that a worker of an earlier release does not replace it. A task that no
live worker declares is retired; see docs/decisions/0026-recurring-tasks.md.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, cast

import attrs
from sqlalchemy.engine import Connection, Row

from dexpy.configuration.values import RecurringEntry
from dexpy.database import lock_timeouts
from dexpy.database.column_types import after, database_time
from dexpy.database.error_codes import is_locked
from dexpy.database.errors import is_away, is_conflict
from dexpy.declaration import registry
from dexpy.declaration.contract import Contract
from dexpy.foundation.errors import ConfigurationError, DexpyError, UnknownOperation
from dexpy.foundation.failpoints import failpoint
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path
from dexpy.foundation.throttle import LogThrottle
from dexpy.liveness import worker_registry
from dexpy.liveness.heartbeat import Heartbeat
from dexpy.maintenance.recovery import LOCK_WAIT_S
from dexpy.maintenance.recurring_file import task_of, why_unknown
from dexpy.maintenance.tick_plan import next_tick
from dexpy.recording import recurring_tasks
from dexpy.recording.recurring_tasks import TaskDefinition, schedule_of
from dexpy.recording.store import Store
from dexpy.schedules.schedule import Schedule

CHECK_EVERY_S = 5.0
"""How often a worker compares the rows with the declarations of all live workers, in seconds."""
RESTART_GRACE = timedelta(minutes=10)
"""How long a retired task keeps its next tick: the restart of the only workers that declare it loses no tick."""
UNKNOWN_GRACE = timedelta(hours=24)
"""How long a task whose operation no live worker knows keeps its ticks."""


@attrs.frozen
class DeclaredTask:
    """A recurring task of this process.

    Attributes:
        contract: The contract of its operation.
        definition: Its definition.
    """

    contract: Contract
    definition: TaskDefinition


@attrs.frozen
class Declarations:
    """The recurring tasks of this process.

    Attributes:
        tasks: Those that can be registered, by key.
        broken: The keys of those that cannot; they are declared, so that they are not retired.
    """

    tasks: Mapping[str, DeclaredTask]
    broken: tuple[str, ...]

    def to_json(self, started_at: datetime) -> dict[str, Any]:
        """Return the form that the worker's row stores."""
        digests: dict[str, str | None] = {key: task.definition.digest for key, task in self.tasks.items()}
        return {"started_at": _sortable(started_at), "keys": digests | dict.fromkeys(self.broken)}


@attrs.frozen
class LiveWorker:
    """What a live worker declares.

    Attributes:
        id: Its id.
        names: The names of its operations.
        started_at: When its process was started; None if it has not stored its tasks.
        digests: The digests of its definitions by key; None if it has not stored them.
    """

    id: str
    names: frozenset[str]
    started_at: str | None
    digests: Mapping[str, str | None] | None

    @classmethod
    def of(cls, row: Row[Any]) -> LiveWorker:
        """Return the worker of a row of names."""
        stored_names: object = row.names
        stored_keys: object = row.recurring_keys
        names = cast("list[object]", stored_names) if isinstance(stored_names, list) else list[object]()
        stored = cast("Mapping[str, object]", stored_keys if isinstance(stored_keys, Mapping) else {})
        digests, started_at = stored.get("keys"), stored.get("started_at")
        is_complete = isinstance(digests, Mapping) and isinstance(started_at, str)
        return cls(
            row.worker,
            frozenset(name for name in names if isinstance(name, str)),
            cast("str", started_at) if is_complete else None,
            cast("Mapping[str, str | None]", digests) if is_complete else None,
        )


def declared_tasks(default_zone: str | None = None, *, entries: Sequence[RecurringEntry] = ()) -> Declarations:
    """Return the recurring tasks of the classes and the configuration file; log those that cannot be registered.

    Args:
        default_zone: The zone of a schedule without one; UTC if it is None.
        entries: The recurring tasks of the configuration file.
    """
    tasks: dict[str, DeclaredTask] = {}
    broken: list[str] = []
    for cls in registry.scheduled_classes():
        contract: Contract = cls.contract
        for task in contract.recurring:
            try:
                definition = TaskDefinition.of(contract, task, "class", default_zone)
            except Exception as error:  # noqa: BLE001 - a default or a codec of the application may raise anything
                broken.append(str(task.key))
                _log_refused(str(task.key), contract.name, error)
            else:
                tasks[definition.key] = DeclaredTask(contract, definition)
    for entry in entries:
        try:
            contract, task = task_of(entry)
            tasks[entry.key] = DeclaredTask(contract, TaskDefinition.of(contract, task, "file", default_zone))
        except UnknownOperation as error:
            # Not declared: a process of another application, with the same file, may know the operation.
            _log_refused(entry.key, entry.class_name, ConfigurationError(why_unknown(error, entry)))
        except Exception as error:  # noqa: BLE001 - a default or a codec of the application may raise anything
            if entry.key not in tasks:
                broken.append(entry.key)
            _log_refused(entry.key, entry.class_name, error)
    return Declarations(tasks, tuple(broken))


def _sortable(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")


_refused = LogThrottle(every_s=float("inf"))


def _log_refused(key: str, operation: str, error: Exception) -> None:
    reason = str(error) if isinstance(error, DexpyError) else class_path(error)
    _refused.log(LogEvent.RECURRING_NOT_REGISTERED, f"{key} {reason}", key=key, operation=operation, reason=reason)


class RecurringRegistration:
    """Registers the recurring tasks of this process, and retires those that no process declares.

    Args:
        store: The store of the tasks.
        heartbeat: The heartbeat of this process.
        find_tasks: Returns the recurring tasks of this process.
    """

    def __init__(
        self, store: Store, heartbeat: Heartbeat, find_tasks: Callable[[], Declarations] = declared_tasks
    ) -> None:
        self._store = store
        self._heartbeat = heartbeat
        self._find_tasks = find_tasks
        self._checked_at = float("-inf")
        self._started: dict[int, datetime] = {}
        self._stored: tuple[str, Mapping[str, Any]] | None = None

    def run_if_due(self) -> None:
        """Compare the rows with the declarations, if this process is a worker and the last time was long enough ago."""
        worker_id = self._heartbeat.registered_worker
        is_new = self._stored is None or self._stored[0] != worker_id
        if worker_id is None or (not is_new and time.monotonic() - self._checked_at < CHECK_EVERY_S):
            return
        self._checked_at = time.monotonic()
        try:
            with lock_timeouts.limited(LOCK_WAIT_S):
                self._run(worker_id)
        except Exception as error:
            if is_away(error):
                raise
            # The ticks of registered tasks go on.
            _log_refused("", "", error)

    def _run(self, worker_id: str) -> None:
        declarations = self._find_tasks()
        self._store_declarations(worker_id, declarations)
        with self._store.begin() as connection:
            rows = {row.key: row for row in recurring_tasks.read_all(connection)}
            if not rows and not declarations.tasks:
                return
            workers = self._live_workers(connection)
        away: list[Exception] = []
        for key, task in declarations.tasks.items():
            self._each(key, partial(self._register, task, rows.get(key), worker_id, workers), away)
        for row in rows.values():
            if row.source == "api":
                self._each(row.key, partial(self._correct_added, row, worker_id, workers), away)
            elif row.retired_at is None:
                self._each(row.key, partial(self._check_declared, row, workers), away)
        if away:
            raise away[0]

    def _each(self, key: str, write: Callable[[], None], away: list[Exception]) -> None:
        """Write one row; an error with it stops no other, and a second one that the database is away is raised."""
        try:
            write()
        except Exception as error:
            if is_locked(error) or is_conflict(error):
                return
            if not is_away(error):
                _log_refused(key, "", error)
            elif away:
                raise
            else:
                away.append(error)

    def _store_declarations(self, worker_id: str, declarations: Declarations) -> None:
        started_at = self._started.get(os.getpid())
        with self._store.begin() as connection:
            if started_at is None:
                started_at = self._started[os.getpid()] = database_time(connection)
            declared = declarations.to_json(started_at)
            if self._stored == (worker_id, declared):
                return
            is_stored = worker_registry.update_recurring(connection, worker_id, declared)
        failpoint("recurring_declared")
        if is_stored:
            self._stored = worker_id, declared

    def _live_workers(self, connection: Connection) -> list[LiveWorker]:
        alive = worker_registry.live_workers(connection, self._heartbeat.liveness_locks)
        stored = worker_registry.stored_names(connection, [row.id for row in alive])
        return [LiveWorker.of(row) for row in stored]

    def _register(
        self, task: DeclaredTask, row: Row[Any] | None, worker_id: str, workers: Sequence[LiveWorker]
    ) -> None:
        definition = task.definition
        facts = {"key": definition.key, "operation": definition.operation}
        if row is None:
            self._insert(task)
            return
        if row.source == "api":
            reason = "dexpy.recurring.add() has created a task with its key; remove that task or choose another key"
            _refused.log(LogEvent.RECURRING_NOT_REGISTERED, f"{definition.key} api", **facts, reason=reason)
            return
        started_at = self._started[os.getpid()]
        newer = youngest(definition.key, workers)
        if newer is not None and (newer.started_at or "", newer.id) > (_sortable(started_at), worker_id):
            return
        if not definition.is_stored_in(row):
            self._change(task, row, started_at, LogEvent.RECURRING_CHANGED)
        elif row.retired_at is not None:
            self._change(task, row, started_at, LogEvent.RECURRING_REGISTERED)
        elif row.next_at is not None and row.next_at > row.now:
            self._correct(definition.schedule, row)

    def _insert(self, task: DeclaredTask) -> None:
        definition = task.definition
        with self._store.begin() as connection:
            now = database_time(connection)
            next_at = now if definition.runs_at_start else next_tick(definition.schedule, now)
            values = {
                **definition.columns(task.contract),
                "declared_at": self._started[os.getpid()],
                "next_at": next_at,
            }
            is_new = recurring_tasks.insert_task(connection, definition.key, values)
        if is_new:
            self._log(LogEvent.RECURRING_REGISTERED, definition, next_at)

    def _change(self, task: DeclaredTask, row: Row[Any], started_at: datetime, event: LogEvent) -> None:
        """Replace the definition of a task; with another schedule its next tick is the first one from now on."""
        definition = task.definition
        with self._store.begin() as connection:
            locked = recurring_tasks.lock_task(connection, definition.key)
            if locked is None or locked.updated_at != row.updated_at:
                # Another process has changed it: compare again in the next round.
                return
            next_at = locked.next_at
            was_away = locked.retired_at is not None and locked.now - locked.retired_at > RESTART_GRACE
            if next_at is None or was_away or not _has_schedule(locked, definition):
                next_at = next_tick(definition.schedule, locked.now, locked.until_at)
            recurring_tasks.update_task(
                connection,
                definition.key,
                **definition.columns(task.contract),
                declared_at=started_at,
                next_at=next_at,
                undeclared_at=None,
                retired_at=None,
            )
        self._log(event, definition, next_at)

    def _correct_added(self, row: Row[Any], worker_id: str, workers: Sequence[LiveWorker]) -> None:
        """Correct the next tick of a task that was added at run time; only the worker that was started last does."""
        last = max(workers, key=lambda worker: (worker.started_at or "", worker.id), default=None)
        if last is not None and last.id == worker_id and row.next_at is not None and row.next_at > row.now:
            self._correct(schedule_of(row), row)

    def _correct(self, schedule: Schedule, row: Row[Any]) -> None:
        """Correct a next tick that the schedule does not have any more, after an update of the zone database."""
        expected = next_tick(schedule, max(row.now, row.last_at or row.now), row.until_at)
        if expected == row.next_at:
            return
        with self._store.begin() as connection:
            locked = recurring_tasks.lock_task(connection, row.key)
            if locked is not None and locked.updated_at == row.updated_at:
                recurring_tasks.update_task(connection, row.key, next_at=expected)

    def _log(self, event: LogEvent, definition: TaskDefinition, next_at: datetime | None) -> None:
        log_event(
            event,
            key=definition.key,
            operation=definition.operation,
            schedule=str(definition.schedule),
            source=definition.source,
            next_at=next_at,
        )

    def _check_declared(self, row: Row[Any], workers: Sequence[LiveWorker]) -> None:
        """Retire a task that no live worker declares, unless its workers may only be away."""
        if any(worker.digests is not None and row.key in worker.digests for worker in workers):
            if row.undeclared_at is not None:
                self._update_undeclared(row, undeclared_at=None)
            return
        if any(worker.digests is None for worker in workers):
            # It may declare the task: it was just started, or runs an earlier release of dexpy.
            return
        is_known = any(row.operation in worker.names for worker in workers)
        if is_known or (row.undeclared_at is not None and row.now - row.undeclared_at >= UNKNOWN_GRACE):
            if self._update_undeclared(row, retired_at=after(0), undeclared_at=row.undeclared_at or after(0)):
                log_event(LogEvent.RECURRING_RETIRED, key=row.key, operation=row.operation)
        elif row.undeclared_at is None:
            self._update_undeclared(row, undeclared_at=after(0))

    def _update_undeclared(self, row: Row[Any], **values: Any) -> bool:
        with self._store.begin() as connection:
            locked = recurring_tasks.lock_task(connection, row.key)
            if locked is None or locked.updated_at != row.updated_at:
                return False
            return bool(recurring_tasks.update_task(connection, row.key, **values))


def _has_schedule(row: Row[Any], definition: TaskDefinition) -> bool:
    """Return whether a row has the schedule of a definition, in the same zone."""
    return bool((row.schedule, row.zone) == (definition.schedule.to_json(), definition.schedule.zone))


def youngest(key: str, workers: Sequence[LiveWorker]) -> LiveWorker | None:
    """Return the worker that was started last, of those that declare a task."""
    declaring = [worker for worker in workers if worker.digests is not None and key in worker.digests]
    return max(declaring, key=lambda worker: (worker.started_at or "", worker.id), default=None)
