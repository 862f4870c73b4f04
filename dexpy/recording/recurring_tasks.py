"""The rows of recurring tasks: their definitions, and the statements on them.

A row is authoritative: every process evaluates the row, not the class that declared it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final, cast

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import DataError, StatementError

from dexpy.database.column_types import MAX_COUNT, after, as_of, collecting_unreadable
from dexpy.database.dialects import dialect_of
from dexpy.database.tables import records, recurring
from dexpy.declaration.contract import Contract
from dexpy.declaration.props import construct, encode_props
from dexpy.declaration.recurring import Recurring, default_grace_s
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.redaction import class_path
from dexpy.foundation.throttle import LogThrottle
from dexpy.policies.options import DEFAULT_MAX_LOST
from dexpy.recording.encryption import DECRYPT_ERRORS, decrypt, encrypt_params
from dexpy.recording.store import Store
from dexpy.schedules.schedule import Schedule
from dexpy.schedules.text import schedule_from_json

_t = recurring.c
_unreadable = LogThrottle(every_s=float("inf"))

DEFINITION: Final = ("operation", "params", "schedule", "zone", "queue", "priority", "options", "source")
"""The columns that define a task; `definition` is their digest."""
FREE_PAUSE: Final = {"paused_at": None, "paused_by": None, "pause_reason": None, "paused_until": None}


def task_id(key: str) -> str:
    """Return the id to which the encrypted props of a task are bound, in place of the id of a run."""
    return f"recurring/{key}"


@attrs.frozen
class TaskOptions:
    """The options of a task that its row stores as JSON.

    Attributes:
        grace_s: How late a tick may be enqueued, in seconds; None for the default of the schedule.
        missed: skip or latest.
        max_waiting: 1, or None for no limit.
        overlap: allow or skip.
        jitter_s: The longest delay of a run after its tick, in seconds.
        requires_class: Whether only a process that declares the class may enqueue a tick: its policies or its
            encryption apply at the enqueue.
        loss_limit: The number of lost workers that ends a run; None for the default.
        class_queue: The queue of the class when the task was added, for processes that do not declare the class.
        class_priority: Its priority then.
    """

    grace_s: float | None = None
    missed: str = "skip"
    max_waiting: int | None = 1
    overlap: str = "allow"
    jitter_s: float = 0.0
    requires_class: bool = False
    loss_limit: int | None = None
    class_queue: str | None = None
    class_priority: int | None = None

    @classmethod
    def of(cls, task: Recurring, contract: Contract, *, stores_class_options: bool = False) -> TaskOptions:
        """Return the options of a declared task.

        Args:
            task: The task.
            contract: The contract of its operation.
            stores_class_options: Whether to store the queue and the priority of the class.
        """
        needs_class = (
            contract.once,
            contract.unique,
            contract.concurrency,
            contract.rate,
            contract.fair,
            contract.options.expires_in,
        )
        has_queue_function = task.queue is None and callable(contract.options.queue)
        return cls(
            grace_s=None if task.grace is None else task.grace_s,
            missed=task.missed,
            max_waiting=task.max_waiting,
            overlap=task.overlap,
            jitter_s=task.jitter_s,
            requires_class=has_queue_function
            or bool(contract.encrypted_props)
            or any(policy is not None for policy in needs_class),
            loss_limit=None if contract.loss_limit == DEFAULT_MAX_LOST + 1 else contract.loss_limit,
            class_queue=_plain_queue(contract) if stores_class_options else None,
            class_priority=contract.options.priority if stores_class_options else None,
        )

    @classmethod
    def from_json(cls, stored: Any) -> TaskOptions:
        """Return the options in a row; raise ValueError if they are invalid."""
        if not isinstance(stored, Mapping):
            raise ValueError(f"options: expected a JSON object, got {type(stored).__name__}")  # noqa: TRY004 - as below
        known = {field.name: field for field in attrs.fields(cls)}
        values = {name: value for name, value in cast("Mapping[str, Any]", stored).items() if name in known}
        options = cls(**values)
        numbers = (options.grace_s or 0.0, options.jitter_s)
        if not all(type(number) in (int, float) and 0 <= number < 10**10 for number in numbers):
            raise ValueError("options: expected grace_s and jitter_s as numbers of seconds")
        return options

    def grace_of(self, schedule: Schedule) -> float:
        """Return the grace of a task with this schedule, in seconds."""
        return default_grace_s(schedule) if self.grace_s is None else self.grace_s

    def to_json(self) -> dict[str, Any]:
        """Return the options as JSON."""
        added = {"class_queue": self.class_queue, "class_priority": self.class_priority}
        others = {name: value for name, value in attrs.asdict(self).items() if name not in added}
        # Without null values of later releases: the digests of stored definitions stay the same.
        return others | {name: value for name, value in added.items() if value is not None}


@attrs.frozen
class TaskDefinition:
    """What one recurring task runs and when, as its row stores it.

    Attributes:
        key: The key of the task.
        operation: The stable name of the operation.
        params: The props of a run as JSON, only those that were passed; encrypted ones in plain text.
        secret: The names of the encrypted ones.
        schedule: The schedule with its zone.
        queue: The queue; None for the default one, or the queue function of the class. For a task of `add`, None for
            that of the class.
        priority: The priority; None for that of the class.
        options: The other options.
        source: class, file or api.
        runs_at_start: Whether its first registration enqueues a run.
    """

    key: str
    operation: str
    params: Mapping[str, Any]
    secret: frozenset[str]
    schedule: Schedule
    queue: str | None
    priority: int | None
    options: TaskOptions
    source: str
    runs_at_start: bool = False

    @classmethod
    def of(cls, contract: Contract, task: Recurring, source: str, default_zone: str | None = None) -> TaskDefinition:
        """Return the definition of a declared task.

        Args:
            contract: The contract of the operation.
            task: The task, with its key and valid options.
            source: class, file or api.
            default_zone: The zone of a schedule without one; UTC if it is None.

        Raises:
            PropsError: Props are invalid.
            NotSerializable: A prop has no JSON form.
            DeclarationError: An annotation of the class cannot be resolved.
        """
        values = task.props or {}
        passed_props = tuple(prop for prop in contract.props if prop.name in values)
        checked = construct(contract.cls.__qualname__, passed_props, values)
        # The class of a task of `add` may change without another registration: each tick reads its options.
        queue, priority = (None, None) if source == "api" else (_plain_queue(contract), contract.options.priority)
        return cls(
            key=str(task.key),
            operation=contract.name,
            params=encode_props(contract.cls.__qualname__, passed_props, checked),
            secret=frozenset(contract.encrypted_props) & checked.keys(),
            schedule=task.schedule.with_zone(default_zone),
            queue=queue if task.queue is None else task.queue,
            priority=priority if task.priority is None else task.priority,
            options=TaskOptions.of(task, contract, stores_class_options=source == "api"),
            source=source,
            runs_at_start=task.run_at_start,
        )

    @property
    def digest(self) -> str:
        """The digest of the definition, without the values of encrypted props."""
        columns = self._columns({name: value for name, value in self.params.items() if name not in self.secret})
        text = json.dumps([columns, sorted(self.secret)], sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def columns(self, contract: Contract) -> dict[str, Any]:
        """Return the columns of `DEFINITION` and the digest, with encrypted props.

        Raises:
            EncryptorMissing: The encryptor of a prop is not configured.
        """
        params = encrypt_params(contract, dict(self.params), task_id(self.key))
        return {**self._columns(params), "definition": self.digest}

    def _columns(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "operation": self.operation,
            "params": dict(params) or None,
            "schedule": self.schedule.to_json(),
            "zone": self.schedule.zone,
            "queue": self.queue,
            "priority": self.priority,
            "options": self.options.to_json(),
            "source": self.source,
        }

    def is_stored_in(self, row: Row[Any]) -> bool:
        """Return whether a row has this definition, with the same values of encrypted props."""
        if row.definition != self.digest:
            return False
        if not self.secret:
            return True
        try:
            return bool(decrypt(row.operation, row.params, task_id(self.key), "params") == dict(self.params))
        except DECRYPT_ERRORS:
            return False


def _plain_queue(contract: Contract) -> str | None:
    return None if callable(contract.options.queue) else contract.options.queue


def schedule_of(row: Row[Any]) -> Schedule:
    """Return the schedule of a row.

    Raises:
        DeclarationError: Its text or its zone is invalid.
        ConfigurationError: The zone database is not installed.
    """
    return schedule_from_json(row.schedule, zone=row.zone)


def task_query() -> sa.Select[Any]:
    """Return the query for rows with ``now``, the time of the database's clock."""
    return sa.select(recurring, as_of(0).label("now"))


def read_task(connection: Connection, key: str) -> Row[Any] | None:
    """Return the row of a task; None if there is none, or if a value in it cannot be read, which is logged once."""
    try:
        with collecting_unreadable() as kinds:
            row = connection.execute(task_query().where(_t.key == key)).first()
    except (ValueError, OverflowError, DataError) as error:
        kinds, row = [class_path(error)], None
    if kinds:
        report_unreadable(key, kinds)
        return None
    return row


def read_all(connection: Connection, *conditions: sa.ColumnElement[bool]) -> list[Row[Any]]:
    """Return the readable rows in the order of their keys; the others are logged once each."""
    try:
        with collecting_unreadable() as kinds:
            rows = list(connection.execute(task_query().where(*conditions).order_by(_t.key)).all())
    except (ValueError, OverflowError, DataError):
        kinds, rows = ["row"], []
    if not kinds:
        return rows
    keys = connection.execute(sa.select(_t.key).where(*conditions).order_by(_t.key)).scalars().all()
    return [row for key in keys if (row := read_task(connection, key)) is not None]


def report_unreadable(key: str, kinds: Sequence[str]) -> None:
    """Log once that the row of a task has unreadable values."""
    columns = ",".join(sorted(set(kinds)))
    advice = "correct the row in operation_recurring, or delete it"
    _unreadable.log(LogEvent.RECURRING_UNREADABLE, f"{key} {columns}", key=key, columns=columns, advice=advice)


def find_soon(connection: Connection, horizon_s: float, limit: int, without: Collection[str]) -> Sequence[Row[Any]]:
    """Return ``key``, ``next_at`` and ``now`` of active tasks that are due within a time, the earliest first."""
    query = sa.select(_t.key, _t.next_at, as_of(0).label("now")).where(
        _t.next_at <= as_of(horizon_s),
        _t.retired_at.is_(None),
        sa.or_(_t.paused_at.is_(None), _t.paused_until <= as_of(0)),
    )
    if without:
        query = query.where(_t.key.not_in(list(without)))
    with collecting_unreadable():
        rows: Sequence[Row[Any]] = cast("Any", connection.execute(query.order_by(_t.next_at).limit(limit))).all()
    return rows


_LOCK: Final = task_query().with_for_update(skip_locked=True)
# A process that freezes before the commit must not hold the task without end.
_LOCK_WITH_TIMEOUT: Final = _LOCK.add_columns(sa.func.set_config("idle_in_transaction_session_timeout", "10s", True))


def lock_task(connection: Connection, key: str) -> Row[Any] | None:
    """Lock the row of a task until the transaction ends; None if there is none, or another transaction has it."""
    dialect = dialect_of(connection)
    dialect.acquire_write_lock(connection)
    query = _LOCK_WITH_TIMEOUT if dialect.ends_idle_transactions else _LOCK
    return connection.execute(query.where(_t.key == key)).first()


def update_task(connection: Connection, key: str, **values: Any) -> int:
    """Update columns of a task; return the number of rows."""
    statement = sa.update(recurring).where(_t.key == key).values(updated_at=after(0), **values)
    with _hidden_parameters():
        return int(connection.execute(statement).rowcount)


def insert_task(connection: Connection, key: str, values: Mapping[str, Any]) -> bool:
    """Insert the row of a new task; return False if there is one with its key."""
    row = {"key": key, "created_at": after(0), "updated_at": after(0), **values}
    statement = dialect_of(connection).insert_or_ignore(recurring).values(row)
    with _hidden_parameters():
        return bool(connection.execute(statement).rowcount)


@contextmanager
def _hidden_parameters() -> Generator[None]:
    """Hide the props of a task, which errors of an application's engine would show."""
    try:
        yield
    except StatementError as error:
        error.hide_parameters = True
        raise


def delete_task(connection: Connection, key: str) -> bool:
    """Delete the row of a task; return False if there is none."""
    return bool(connection.execute(sa.delete(recurring).where(_t.key == key)).rowcount)


def has_tick(connection: Connection, key: str, tick: datetime) -> bool:
    """Return whether a tick has a record."""
    query = sa.select(records.c.id).where(records.c.recurring_key == key, records.c.run_at == tick)
    return connection.execute(query).first() is not None


def has_run(connection: Connection, key: str, *statuses: str) -> bool:
    """Return whether a run of a task has one of these statuses."""
    query = sa.select(records.c.id).where(records.c.recurring_key == key, records.c.status.in_(statuses))
    return connection.execute(query.limit(1)).first() is not None


def added(count: int | None, more: int) -> int:
    """Return a counter of a row plus a number, at most its maximum."""
    return min(max(count or 0, 0) + more, MAX_COUNT)


def delay_of(key: str, tick: datetime, jitter_s: float) -> timedelta:
    """Return the jitter of a tick: the same in every process."""
    text = f"{key}\0{tick.isoformat()}"
    share = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
    return timedelta(seconds=jitter_s * share)


def stored_task(store: Store, key: str) -> Row[Any] | None:
    """Return the row of a task; None if there is none."""
    rows = store.rows(task_query().where(_t.key == key))
    return rows[0] if rows else None
