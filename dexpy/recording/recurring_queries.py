"""Queries for recurring tasks, and `RecurringTask`, their result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.database.dialects import dialect_of
from dexpy.database.tables import STATUSES, records, recurring
from dexpy.foundation.errors import RecurringTaskNotFound, did_you_mean
from dexpy.foundation.safe_text import is_plain_text, shortened
from dexpy.recording import recurring_tasks
from dexpy.recording.encryption import redact_params
from dexpy.recording.recurring_tasks import FREE_PAUSE, TaskOptions, schedule_of
from dexpy.schedules.schedule import Schedule

State = Literal["active", "paused", "ended", "retired"]
MAX_SUGGESTED = 1000
"""The number of keys that are compared with an unknown one for a hint."""
_t = recurring.c


@attrs.frozen
class RecurringTask:
    """A recurring task when it was read; all times are UTC.

    Attributes:
        key: Its key.
        operation: The stable name of the operation.
        params: The props of each run as JSON, those that the task sets; secrets are redacted.
        schedule: Its schedule with its zone.
        queue: The queue of its runs; None for ``default``, or if a function of the class names it. Of a task of `add`
            that names none: that of the class when it was added.
        priority: Their priority; None for 0; as for `queue`.
        source: ``class``, ``file`` or ``api``: where it is defined.
        state: ``active``, ``paused``, ``ended`` (it has no further tick), or ``retired`` (no worker declares it).
        next_at: The next tick; None if it has ended.
        last_at: The last tick that had a run.
        last_late_s: How many seconds after that tick its run was enqueued; None if its record was deleted.
        last_run_id: The id of the newest run with its key, which a tick or `run_now` has enqueued.
        last_status: The status of that run; None if its record was deleted.
        missed_count: How many ticks were enqueued by no worker within the grace.
        first_missed_at: The first of them.
        last_missed_at: The last of them.
        skipped_count: How many ticks had no run because of an earlier run.
        last_skipped_at: The last of them.
        paused_at: The time of its pause.
        paused_by: Who has paused it.
        pause_reason: Why.
        paused_until: When the pause ends by itself.
        until: The time after which it has no ticks.
        remaining: The number of runs that it still has; None without a limit.
        grace_s: How late a tick may be enqueued, in seconds.
        missed: ``skip`` or ``latest``.
        max_waiting: 1, or None.
        overlap: ``allow`` or ``skip``.
        jitter_s: The longest delay of a run after its tick, in seconds.
        retired_at: The time when it was retired.
        created_at: The time of its creation.
        updated_at: The time of the last change, also by a tick.
    """

    key: str
    operation: str
    params: Mapping[str, Any]
    schedule: Schedule
    queue: str | None
    priority: int | None
    source: str
    state: State
    next_at: datetime | None
    last_at: datetime | None
    last_late_s: float | None
    last_run_id: str | None
    last_status: str | None
    missed_count: int
    first_missed_at: datetime | None
    last_missed_at: datetime | None
    skipped_count: int
    last_skipped_at: datetime | None
    paused_at: datetime | None
    paused_by: str | None
    pause_reason: str | None
    paused_until: datetime | None
    until: datetime | None
    remaining: int | None
    grace_s: float
    missed: str
    max_waiting: int | None
    overlap: str
    jitter_s: float
    retired_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @property
    def zone(self) -> str:
        """The name of the time zone of its schedule."""
        return self.schedule.zone or "UTC"


def task_from(row: Row[Any]) -> RecurringTask:
    """Return the task of a row of `query`.

    Raises:
        ValueError, TypeError, DeclarationError: The schedule or the options of the row are invalid.
    """
    options = TaskOptions.from_json(row.options)
    is_paused = row.paused_at is not None and (row.paused_until is None or row.paused_until > row.now)
    state: State = "active"
    if row.retired_at is not None:
        state = "retired"
    elif row.next_at is None:
        state = "ended"
    elif is_paused:
        state = "paused"
    last_run_id, last_status = _last_run(row)
    computed = ("state", "params", "schedule", "until", "grace_s", "missed", "max_waiting", "overlap", "jitter_s")
    from_runs = ("last_late_s", "last_run_id", "last_status", "queue", "priority")
    same = {field.name for field in attrs.fields(RecurringTask)}.difference(computed, from_runs)
    values = {name: getattr(row, name) for name in same}
    pause = dict.fromkeys(FREE_PAUSE) if not is_paused else {}
    schedule = schedule_of(row)
    return RecurringTask(
        **{**values, **pause},
        **{name: getattr(options, name) for name in ("missed", "max_waiting", "overlap", "jitter_s")},
        grace_s=options.grace_of(schedule),
        params=redact_params(row.operation, row.params or {}),
        schedule=schedule,
        state=state,
        until=row.until_at,
        queue=options.class_queue if row.queue is None else row.queue,
        priority=options.class_priority if row.priority is None else row.priority,
        last_late_s=None if row.ticked_at is None else (row.ticked_at - row.last_at).total_seconds(),
        last_run_id=last_run_id,
        last_status=last_status,
    )


def query() -> sa.Select[Any]:
    """Return the query for tasks with the id of their newest run of each status."""
    ticked_at = sa.select(records.c.created_at).where(records.c.id == _t.last_run_id, records.c.run_at == _t.last_at)
    return recurring_tasks.task_query().add_columns(
        ticked_at.correlate(recurring).scalar_subquery().label("ticked_at"),
        *(_newest_run(status) for status in STATUSES),
    )


def _newest_run(status: str) -> sa.Label[Any]:
    # Reads one entry of ix_operation_recurring, however many runs a task has.
    newest = sa.select(records.c.id).where(records.c.recurring_key == _t.key, records.c.status == status)
    return (
        newest.order_by(records.c.id.desc()).limit(1).correlate(recurring).scalar_subquery().label(f"newest_{status}")
    )


def _last_run(row: Row[Any]) -> tuple[str | None, str | None]:
    """Return the id and the status of the last run of a row of `query`.

    The column ``last_run_id`` is that of the last tick: `run_now` must not lock the row in a transaction of the caller.
    """
    runs = {str(run_id): status for status in STATUSES if (run_id := getattr(row, f"newest_{status}")) is not None}
    last = max(runs, default=None)
    if row.last_run_id is not None and (last is None or row.last_run_id > last):
        # Its record was deleted.
        return str(row.last_run_id), None
    return last, None if last is None else runs[last]


def keys_query() -> sa.Select[Any]:
    """Return the query for the keys to suggest."""
    return sa.select(_t.key).order_by(_t.key).limit(MAX_SUGGESTED)


def read(connection: Connection, key: str, where: str) -> Row[Any]:
    """Return the row of a task, as `task_from` takes it.

    Args:
        connection: In a transaction.
        key: The key of the task.
        where: The subject of the error message.

    Raises:
        RecurringTaskNotFound: No task has this key.
    """
    return _first(connection, query().where(_t.key == key), key, where)


def lock(connection: Connection, key: str, where: str) -> Row[Any]:
    """Lock the row of a task and return it; wait for a round that enqueues its tick.

    Raises:
        RecurringTaskNotFound: No task has this key.
    """
    dialect_of(connection).acquire_write_lock(connection)
    return _first(connection, recurring_tasks.task_query().where(_t.key == key).with_for_update(), key, where)


def _first(connection: Connection, rows: sa.Select[Any], key: str, where: str) -> Row[Any]:
    row = connection.execute(rows).first() if is_plain_text(key) else None
    if row is None:
        raise not_found(connection.execute(keys_query()).all(), key, where)
    return row


def not_found(rows: Iterable[Row[Any]], key: object, where: str) -> RecurringTaskNotFound:
    """Return the error for an unknown key, with a suggestion from rows of `keys_query`."""
    hint = did_you_mean(str(key), [str(row.key) for row in rows]) if is_plain_text(key) else ""
    return RecurringTaskNotFound(f"{where}: no recurring task has the key {shortened(key)}.{hint}")
