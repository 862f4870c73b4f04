"""Recurring tasks at run time: ``from dexpy import recurring``.

Every change takes effect in all processes within two seconds.
The module is long because the reference of each public function is its docstring.

Example:
    >>> from dexpy import Every, Operation, recurring
    >>> from dexpy.testing import isolated
    >>> class SyncInventory(Operation):
    ...     shop: int
    ...     def perform(self) -> None: ...
    >>> with isolated():
    ...     task = recurring.add("sync shop 7", SyncInventory(shop=7), Every("15 minutes"))
    ...     [task.key for task in recurring.all()]
    ['sync shop 7']
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.database.column_types import after, as_of
from dexpy.database.tables import recurring
from dexpy.declaration import registry
from dexpy.declaration.contract import Contract
from dexpy.declaration.props import decode_props
from dexpy.declaration.recurring import Missed, Overlap, Recurring, check_key, why_not_recurring
from dexpy.deferred.deferral import defer
from dexpy.enqueue.jobs import PreparedJob
from dexpy.enqueue.recurring_runs import prepare_run
from dexpy.enqueue.stored_changes import (
    checked_session,
    checked_text,
    checked_until,
    recording_dispatcher,
    recording_store,
    write_in,
)
from dexpy.foundation.errors import (
    DeclarationError,
    OptionsError,
)
from dexpy.foundation.safe_text import is_plain_text, shortened
from dexpy.operation import Operation
from dexpy.policies.options import Delay
from dexpy.recording import recurring_queries, recurring_tasks
from dexpy.recording.encryption import decrypt
from dexpy.recording.recurring_queries import RecurringTask
from dexpy.recording.recurring_tasks import FREE_PAUSE, TaskDefinition, TaskOptions, schedule_of
from dexpy.recording.store import Store
from dexpy.runtime import current_runtime
from dexpy.schedules.schedule import Schedule, in_utc
from dexpy.schedules.zones import zone_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from dexpy.recording.ticket import Ticket

    AnySession = Session | Connection

__all__ = [
    "RecurringTask",
    "add",
    "all",
    "edit",
    "get",
    "next_ticks",
    "pause",
    "remove",
    "resume",
    "run_now",
]

T = TypeVar("T")
_t = recurring.c
_KEPT: Any = object()
SUBJECT = "recurring tasks"
"""What requires a database, in messages."""
EXAMPLE = "recurring.add"
"""The call of the advice for sessions of asyncio."""
MAX_TICKS = 10_000
MAX_COUNT = 2**31 - 1


def add(
    key: str,
    target: Any,
    schedule: Schedule,
    *,
    props: Mapping[str, Any] | None = None,
    queue: str | None = None,
    priority: int | None = None,
    grace: Delay | None = None,
    missed: Missed = "skip",
    max_waiting: Literal[1] | None = 1,
    overlap: Overlap = "allow",
    jitter: Delay | None = None,
    run_at_start: bool = False,
    until: datetime | None = None,
    times: int | None = None,
    replace: bool = False,
    session: AnySession | None = None,
) -> RecurringTask:
    """Add a recurring task.

    Args:
        key: Its key, unique in the database.
        target: An operation, an operation class, or a function or method that is registered with `deferrable`.
        schedule: `Every` or `Cron`.
        props: The props of each run of a class, or the arguments of a function by name; those that are left out get
            their defaults when a run is enqueued.
        queue: The queue of its runs, instead of that of the class.
        priority: Their priority, instead of that of the class; higher runs sooner.
        grace: See `Recurring`, like `missed`, `max_waiting`, `overlap` and `jitter`.
        missed: ``"skip"`` or ``"latest"``.
        max_waiting: 1, or None for no limit.
        overlap: ``"allow"`` or ``"skip"``.
        jitter: Seconds or a timedelta.
        run_at_start: Whether it also runs at once.
        until: An aware datetime after which it has no ticks.
        times: The number of its runs, after which it has ended.
        replace: Whether to replace a task with this key that was added before.
        session: The session or connection whose transaction stores the task. Default: the current session.

    Returns:
        The task.

    Raises:
        OptionsError: An option is invalid, or a task with this key exists.
        DeclarationError: The class cannot recur, because its runs have no record or workers cannot import it.
        PropsError: Props are invalid.
    """
    where = f"recurring.add({shortened(key)})"
    contract, run_props = _target_of(target, props, where)
    task = _checked(
        Recurring(
            schedule,
            key=key,
            props=run_props,
            queue=queue,
            priority=priority,
            grace=grace,
            missed=missed,
            max_waiting=max_waiting,
            overlap=overlap,
            jitter=jitter,
            run_at_start=run_at_start,
        ),
        contract,
        where,
    )
    definition = TaskDefinition.of(contract, task, "api", current_runtime().settings.zone)
    _check_complete(contract, definition, where)
    limits = {"until_at": checked_until(until, where), "remaining": _checked_times(times, where)}

    def write(connection: Connection) -> Row[Any]:
        now = _now(connection)
        values = {**definition.columns(contract), **limits}
        values["next_at"] = now if run_at_start else _next_at(definition.schedule, now, until, where)
        # A refused insert locks the row for reading: two calls that then lock it for a change would be a deadlock.
        exists = recurring_tasks.read_task(connection, key) is not None
        if exists or not recurring_tasks.insert_task(connection, key, values):
            existing = recurring_queries.lock(connection, key, where)
            if not replace:
                raise OptionsError(
                    f"{where}: a recurring task with this key exists; it runs {existing.operation} "
                    f"{schedule_of(existing)}. Choose another key, edit the task, or pass replace=True."
                )
            _require_api(existing, where)
            if run_at_start or existing.definition == definition.digest:
                values["next_at"] = _kept_or_next(existing, definition.schedule, until, where)
            recurring_tasks.update_task(connection, key, **values, retired_at=None, undeclared_at=None)
        return recurring_queries.read(connection, key, where)

    return recurring_queries.task_from(_write(session, where, write))


def edit(
    key: str,
    *,
    schedule: Schedule = _KEPT,
    props: Mapping[str, Any] = _KEPT,
    queue: str | None = _KEPT,
    priority: int | None = _KEPT,
    grace: Delay | None = _KEPT,
    missed: Missed = _KEPT,
    max_waiting: Literal[1] | None = _KEPT,
    overlap: Overlap = _KEPT,
    jitter: Delay | None = _KEPT,
    until: datetime | None = _KEPT,
    times: int | None = _KEPT,
    session: AnySession | None = None,
) -> RecurringTask:
    """Change a task that `add` has created; what is not passed stays, and no tick is repeated.

    With another schedule its next tick is the first one after now. A task that `times` has ended stays ended without
    another `times`.

    Args:
        key: Its key.
        schedule: See `add`, like all other arguments.
        props: All props of each run.
        queue: A name; None for that of the class.
        priority: A number; None for that of the class.
        grace: Seconds or a timedelta; None for the default.
        missed: ``"skip"`` or ``"latest"``.
        max_waiting: 1, or None for no limit.
        overlap: ``"allow"`` or ``"skip"``.
        jitter: Seconds or a timedelta; None for none.
        until: An aware datetime; None for no end.
        times: The number of runs from now on; None for no limit.
        session: See `add`.

    Returns:
        The task.

    Raises:
        RecurringTaskNotFound: No task has this key.
        OptionsError: An option is invalid, or a class defines the task.
        UnknownOperation: This process does not declare its class.
        PropsError: Props are invalid.
    """
    where = f"recurring.edit({shortened(key)})"
    options: dict[str, Any] = {
        "schedule": schedule, "props": props, "queue": queue, "priority": priority, "grace": grace, "missed": missed,
        "max_waiting": max_waiting, "overlap": overlap, "jitter": jitter,
    }  # fmt: skip
    changes = {name: value for name, value in options.items() if value is not _KEPT}
    limits: dict[str, Any] = {}
    if until is not _KEPT:
        limits["until_at"] = checked_until(until, where)
    if times is not _KEPT:
        limits["remaining"] = _checked_times(times, where)

    def write(connection: Connection) -> Row[Any]:
        row = recurring_queries.lock(connection, key, where)
        _require_api(row, where)
        contract: Contract = registry.find(row.operation).contract
        task = _checked(attrs.evolve(_task_of(row, contract), **changes), contract, where)
        definition = TaskDefinition.of(contract, task, "api", current_runtime().settings.zone)
        _check_complete(contract, definition, where)
        end = limits.get("until_at", row.until_at)
        values = {**definition.columns(contract), **limits}
        if not _stays_ended(row, definition.schedule, end, limits.get("remaining", row.remaining)):
            values["next_at"] = _kept_or_next(row, definition.schedule, end, where)
        recurring_tasks.update_task(connection, key, **values)
        return recurring_queries.read(connection, key, where)

    return recurring_queries.task_from(_write(session, where, write))


def pause(
    key: str,
    *,
    by: str | None = None,
    reason: str | None = None,
    until: datetime | None = None,
    session: AnySession | None = None,
) -> RecurringTask:
    """Pause a task: its ticks have no runs, and are not counted as missed.

    Args:
        key: Its key.
        by: Who pauses it, for people.
        reason: Why, for people.
        until: An aware datetime at which the pause ends.
        session: See `add`.

    Returns:
        The task.

    Raises:
        RecurringTaskNotFound: No task has this key.
        OptionsError: An argument is invalid.
    """
    where = f"recurring.pause({shortened(key)})"
    texts = {
        "paused_by": checked_text(by, "by", 255, where),
        "pause_reason": checked_text(reason, "reason", 1000, where),
    }
    paused_until = checked_until(until, where)

    def write(connection: Connection) -> Row[Any]:
        recurring_queries.lock(connection, key, where)
        recurring_tasks.update_task(connection, key, paused_at=after(0), paused_until=paused_until, **texts)
        return recurring_queries.read(connection, key, where)

    return recurring_queries.task_from(_write(session, where, write))


def resume(key: str, *, session: AnySession | None = None) -> RecurringTask:
    """End the pause of a task; its next tick is the first one after now.

    Args:
        key: Its key.
        session: See `add`.

    Returns:
        The task.

    Raises:
        RecurringTaskNotFound: No task has this key.
    """
    where = f"recurring.resume({shortened(key)})"

    def write(connection: Connection) -> Row[Any]:
        row = recurring_queries.lock(connection, key, where)
        if row.paused_at is not None:
            next_at = None if row.next_at is None else _first_after(schedule_of(row), row.now, row.until_at)
            recurring_tasks.update_task(connection, key, next_at=next_at, **FREE_PAUSE)
        return recurring_queries.read(connection, key, where)

    return recurring_queries.task_from(_write(session, where, write))


def run_now(key: str, *, session: AnySession | None = None) -> Ticket[Any]:
    """Enqueue a run of a task now, also while it is paused; its ticks stay as they are.

    In the run, ``self.scheduled_for`` is None.

    Args:
        key: Its key.
        session: The session or connection whose transaction stores the run. Default: the current session.

    Returns:
        The ticket of the run.

    Raises:
        RecurringTaskNotFound: No task has this key.
        UnknownOperation: This process does not declare its class, and the policies of the class are needed.
    """
    where = f"recurring.run_now({shortened(key)})"
    dispatcher, session = recording_dispatcher(where, SUBJECT), checked_session(session, where, EXAMPLE)
    row = dispatcher.write_joined(session, lambda connection: recurring_queries.read(connection, key, where))
    options = TaskOptions.from_json(row.options)
    contract: Contract | None = registry.contract_of(row.operation)
    if contract is None and options.requires_class:
        registry.find(row.operation)

    def prepare(transaction: Any, commit_state: Any) -> PreparedJob:
        return prepare_run(dispatcher, row, contract, options, transaction=transaction, commit_state=commit_state)

    return dispatcher.enqueue_job(prepare, session)


def remove(key: str, *, session: AnySession | None = None) -> None:
    """Delete a task that `add` has created, or one that is retired; its runs stay.

    Args:
        key: Its key.
        session: See `add`.

    Raises:
        RecurringTaskNotFound: No task has this key.
        OptionsError: A class defines the task: remove its schedule there, or pause the task.
    """
    where = f"recurring.remove({shortened(key)})"

    def write(connection: Connection) -> None:
        row = recurring_queries.lock(connection, key, where)
        if row.retired_at is None:
            _require_api(row, where)
        recurring_tasks.delete_task(connection, key)

    _write(session, where, write)


def get(key: str) -> RecurringTask:
    """Return a task.

    Raises:
        RecurringTaskNotFound: No task has this key.
    """
    where = f"recurring.get({shortened(key)})"
    rows = _store(where).rows(recurring_queries.query().where(_t.key == key)) if is_plain_text(key) else ()
    if not rows:
        raise recurring_queries.not_found(_store(where).rows(recurring_queries.keys_query()), key, where)
    return recurring_queries.task_from(rows[0])


def all(*, retired: bool = False) -> builtins.list[RecurringTask]:  # noqa: A001 - reads as recurring.all()
    """Return all tasks in the order of their keys; a row that cannot be read is left out and logged.

    Args:
        retired: Whether to include the tasks that no worker declares any more.
    """
    conditions = [] if retired else [_t.retired_at.is_(None)]
    store = _store("recurring.all()")
    readable: builtins.list[RecurringTask] = []
    for row in store.rows(recurring_queries.query().where(*conditions).order_by(_t.key)):
        try:
            readable.append(recurring_queries.task_from(row))
        except (ValueError, TypeError, DeclarationError):
            recurring_tasks.report_unreadable(str(row.key), ["schedule or options"])
    return readable


def next_ticks(key: str, count: int = 10, after: datetime | None = None) -> builtins.list[datetime]:
    """Return the next ticks of a task, in its time zone.

    Args:
        key: Its key.
        count: The maximum number of ticks.
        after: An aware datetime; the ticks after now when None.

    Returns:
        The ticks; none if the task has ended, is retired, or is paused without an end.

    Raises:
        RecurringTaskNotFound: No task has this key.
        OptionsError: An argument is invalid.
    """
    where = f"recurring.next_ticks({shortened(key)})"
    if type(count) is not int or not 0 <= count <= MAX_TICKS:
        raise OptionsError(f"{where}: count={shortened(count)}: expected an int from 0 to {MAX_TICKS}.")
    task = get(key)
    if task.next_at is None or task.state in ("ended", "retired") or (task.paused_at and task.paused_until is None):
        return []
    start = _clock_now(where) if after is None else in_utc(after, "next_ticks")
    start = max(start, task.paused_until or start)
    limit = count if task.remaining is None else min(count, task.remaining)
    ticks = task.schedule.upcoming(start, limit)
    zone = zone_of(task.schedule.zone)
    return [tick.astimezone(zone) for tick in ticks if task.until is None or tick <= task.until]


def _target_of(target: Any, props: Mapping[str, Any] | None, where: str) -> tuple[Contract, Mapping[str, Any]]:
    """Return the contract of a target, and the props of its runs."""
    if props is not None and not isinstance(props, Mapping):
        raise OptionsError(f"{where}: props={shortened(props)}: expected a mapping of props by name.")
    # Not isinstance: the metaclass of operations is that of protocols.
    kind: type[Any] = target if isinstance(target, type) else type(target)
    if Operation in kind.__mro__:
        contract: Contract = kind.contract
        if kind is target:
            return contract, props or {}
        if props is not None:
            raise OptionsError(f"{where}: expected an operation, or a class with props=, got both. Leave out props=.")
        return contract, {prop.name: vars(target)[prop.name] for prop in contract.props}
    if not callable(target):
        raise OptionsError(
            f"{where}: expected an operation, an operation class or a function registered with @deferrable, "
            f"got {shortened(target)}."
        )
    return defer.operation_of(target).contract, props or {}


def _checked(task: Recurring, contract: Contract, where: str) -> Recurring:
    try:
        check_key(task.key, where)
        task.check(where)
    except DeclarationError as error:
        raise OptionsError(str(error)) from None
    if contract.unreachable is not None:
        raise DeclarationError(f"{contract.cls.__qualname__}: workers cannot import the class: {contract.unreachable}.")
    if (missing := why_not_recurring(contract.record)) is not None:
        raise DeclarationError(f"{contract.cls.__qualname__}: {missing}.")
    return task


def _check_complete(contract: Contract, definition: TaskDefinition, where: str) -> None:
    """Refuse a task whose props cannot build the operation."""
    missing = [prop.name for prop in contract.props if prop.required and prop.name not in definition.params]
    if missing:
        names = ", ".join(repr(name) for name in missing)
        raise OptionsError(f"{where}: {names} has no default. Pass it: props={{{missing[0]!r}: ...}}.")


def _task_of(row: Row[Any], contract: Contract) -> Recurring:
    """Return the declaration that a row was made from."""
    options = TaskOptions.from_json(row.options)
    stored = decrypt(row.operation, row.params or {}, recurring_tasks.task_id(row.key), "params")
    values, _ = decode_props(contract.cls.__qualname__, contract.props, stored)
    return Recurring(
        schedule_of(row),
        key=row.key,
        props=values,
        queue=row.queue,
        priority=row.priority,
        grace=options.grace_s,
        missed=cast("Missed", options.missed),
        max_waiting=cast("Literal[1] | None", options.max_waiting),
        overlap=cast("Overlap", options.overlap),
        jitter=options.jitter_s or None,
    )


def _checked_times(times: object, where: str) -> int | None:
    if times is not None and (type(times) is not int or not 0 < times <= MAX_COUNT):
        raise OptionsError(f"{where}: times={shortened(times)}: expected an int of at least 1, or None for no limit.")
    return times


def _first_after(schedule: Schedule, moment: datetime, until: datetime | None) -> datetime | None:
    try:
        tick = schedule.next_after(moment)
    except OptionsError:
        return None
    return None if until is not None and tick > until else tick


def _next_at(schedule: Schedule, now: datetime, until: datetime | None, where: str) -> datetime:
    tick = _first_after(schedule, now, until)
    if tick is None:
        raise OptionsError(f"{where}: {schedule!r} has no tick before its end, until={until!r}.")
    return tick


def _kept_or_next(row: Row[Any], schedule: Schedule, until: datetime | None, where: str) -> datetime:
    """Return the next tick of an edited task: the same one unless the schedule has changed."""
    if row.next_at is not None and schedule == schedule_of(row) and (until is None or row.next_at <= until):
        kept: datetime = row.next_at
        return kept
    return _next_at(schedule, row.now, until, where)


def _stays_ended(row: Row[Any], schedule: Schedule, until: datetime | None, remaining: int | None) -> bool:
    """Return whether an ended task stays ended, because the edit does not change what ended it."""
    if row.next_at is not None:
        return False
    if row.remaining == 0:
        return remaining == 0
    return until == row.until_at and schedule == schedule_of(row)


def _require_api(row: Row[Any], where: str) -> None:
    if row.source != "api":
        raise OptionsError(
            f"{where}: the task is defined by {row.operation} ({row.source}). Change its schedule there, or pause it: "
            f"recurring.pause({row.key!r})."
        )


def _store(where: str) -> Store:
    return recording_store(where, SUBJECT)


def _write(session: Any, where: str, write: Callable[[Connection], T]) -> T:
    return write_in(session, where, SUBJECT, EXAMPLE, write)


def _now(connection: Connection) -> datetime:
    now: datetime = connection.execute(sa.select(as_of(0))).scalar_one()
    return now


def _clock_now(where: str) -> datetime:
    now: datetime = _store(where).rows(sa.select(as_of(0)))[0][0]
    return now
