"""Queues at run time: ``from dexpy import queues``.

Pause and resume a queue or an operation, and see what waits. A pause takes effect in all workers within two seconds.

Example:
    >>> from dexpy import Operation, queues
    >>> from dexpy.testing import isolated
    >>> class SendMail(Operation):
    ...     def perform(self) -> str:
    ...         return "sent"
    >>> with isolated() as test:
    ...     ticket = SendMail().async_(queue="mailers").call()
    ...     pause = queues.pause("mailers", by="ada", reason="the mail server is away")
    ...     held = test.run_pending()
    ...     mailers = queues.get("mailers")
    ...     was_paused = queues.resume("mailers")
    ...     test.run_pending()[0].result(1)
    'sent'
    >>> (mailers.due, mailers.is_paused, was_paused)
    (1, True, True)
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dexpy.database.column_types import after, as_of
from dexpy.database.tables import queues as queue_names
from dexpy.database.tables import records
from dexpy.declaration import registry
from dexpy.deferred.deferral import defer
from dexpy.enqueue.stored_changes import checked_text, checked_until, recording_store, write_in
from dexpy.foundation.errors import OptionsError, did_you_mean
from dexpy.foundation.safe_text import is_plain_text, shortened
from dexpy.liveness import worker_registry
from dexpy.policies.options import Delay, check_queue, delay_seconds
from dexpy.recording import pauses as pause_rows
from dexpy.recording.pauses import Kind, Pause
from dexpy.recording.queue_counts import QueueCounts, count_runs
from dexpy.recording.store import Store
from dexpy.worker.process import class_queues

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    AnySession = Session | Connection

__all__ = ["Pause", "Queue", "all", "get", "pause", "pauses", "resume"]

T = TypeVar("T")
SUBJECT = "queues"
"""What requires a database, in messages."""
WINDOW = timedelta(minutes=5)
"""The default window in which ended runs are counted."""
LONGEST_WINDOW_S = 366 * 86400.0


@attrs.frozen
class Queue:
    """The state of a queue.

    Attributes:
        name: Its name.
        waiting: The number of pending runs, due or scheduled.
        due: The number of pending runs that are due; also those that wait for a slot, or for the end of a pause.
        oldest_due_at: Since when the run that is due longest is due; None if none is due.
        oldest_age_s: The seconds since then; None if none is due.
        running: The number of running runs.
        scheduled: The number of pending runs that are due later.
        per_minute: How many runs have ended per minute in the window.
        workers: The ids of the live workers that serve it.
        pause: Its pause; None if it is not paused.
    """

    name: str
    waiting: int
    due: int
    oldest_due_at: datetime | None
    oldest_age_s: float | None
    running: int
    scheduled: int
    per_minute: float
    workers: tuple[str, ...]
    pause: Pause | None

    @property
    def is_paused(self) -> bool:
        """Whether it is paused."""
        return self.pause is not None


def pause(
    queue: str | None = None,
    *,
    operation: Any = None,
    by: str | None = None,
    reason: str | None = None,
    for_: Delay | None = None,
    until: datetime | None = None,
    session: AnySession | None = None,
) -> Pause:
    """Pause a queue or an operation: two seconds later no worker starts a run of it; running ones finish.

    Its runs wait without an attempt. A second pause keeps the beginning, and replaces the other values.

    Args:
        queue: The name of a queue, also one that is not in use yet.
        operation: Instead of a queue: an operation class, a deferred function, or a stable name.
        by: Who pauses it, for people.
        reason: Why, for people.
        for_: Seconds or a timedelta after which it is resumed by itself.
        until: Instead of `for_`: an aware datetime.
        session: The session or connection whose transaction stores the pause. Default: the current session.

    Returns:
        The pause.

    Raises:
        OptionsError: An argument is invalid, or no process knows the operation.
        NotRecorded: No database is configured.
    """
    kind, name, where = _target(queue, operation, "pause")
    if for_ is not None and until is not None:
        raise OptionsError(f"{where}: expected for_ or until, got both. Leave out one of them.")
    values: dict[str, Any] = {
        "paused_by": checked_text(by, "by", 255, where),
        "reason": checked_text(reason, "reason", 1000, where),
        "paused_until": checked_until(until, where) if for_ is None else after(_checked_for(for_, where)),
    }

    def write(connection: Connection) -> Pause:
        if kind == "operation":
            _require_known(connection, name, where)
        return pause_rows.pause_from(pause_rows.write_pause(connection, kind, name, **values))

    return _write(session, where, write)


def resume(queue: str | None = None, *, operation: Any = None, session: AnySession | None = None) -> bool:
    """End the pause of a queue or an operation; its runs that are due start within two seconds.

    Args:
        queue: The name of a queue.
        operation: Instead of a queue: see `pause`.
        session: See `pause`.

    Returns:
        Whether it was paused.

    Raises:
        OptionsError: An argument is invalid.
        NotRecorded: No database is configured.
    """
    kind, name, where = _target(queue, operation, "resume")
    return _write(session, where, lambda connection: pause_rows.delete_pause(connection, kind, name))


def pauses() -> builtins.list[Pause]:
    """Return the pauses of queues and operations that are in force: the queues first, each by name.

    Raises:
        NotRecorded: No database is configured.
    """
    return pause_rows.pauses_from(_store("queues.pauses()").rows(pause_rows.active_query()))


def get(name: str, *, window: Delay = WINDOW) -> Queue:
    """Return the state of a queue; of a name that is not in use, one without runs.

    Args:
        name: Its name.
        window: Seconds or a timedelta back from now, in which the ended runs are counted.

    Raises:
        OptionsError: An argument is invalid.
        NotRecorded: No database is configured.
    """
    where = f"queues.get({shortened(name)})"
    check_queue(name, where)
    return _read(where, window, name)[0]


def all(*, window: Delay = WINDOW) -> builtins.list[Queue]:  # noqa: A001 - reads as queues.all()
    """Return the state of all queues in the order of their names.

    These are the queues of the operations that this process declares, those that have runs or have had messages, those
    that live workers name, and those that are paused. Runs without a record are not counted.

    Args:
        window: Seconds or a timedelta back from now, in which the ended runs are counted.

    Raises:
        OptionsError: The window is invalid.
        NotRecorded: No database is configured.
    """
    return _read("queues.all()", window, None)


def _read(where: str, window: Delay, only: str | None) -> builtins.list[Queue]:
    window_s = delay_seconds(window, "window", where)
    if not 0 < window_s <= LONGEST_WINDOW_S:
        raise OptionsError(f"{where}: window={shortened(window)}: expected more than 0 seconds, and at most a year.")
    store = _store(where)
    with store.begin() as connection:
        now: datetime = connection.execute(sa.select(as_of(0))).scalar_one()
        counts = count_runs(connection, window_s, only)
        active = pause_rows.pauses_from(connection.execute(pause_rows.active_query()).all())
        liveness_locks = worker_registry.SqliteLivenessLocks(store.database)
        alive = [row for row in worker_registry.live_workers(connection, liveness_locks) if row.threads]
        names = {only} if only is not None else {*counts, *class_queues(), *_named_queues(connection, alive)}
    paused = {each.queue: each for each in active}
    names.update(name for name in paused if name is not None and only is None)
    return [
        _queue(
            name,
            counts.get(name, QueueCounts()),
            now,
            window_s,
            tuple(row.id for row in alive if worker_registry.serves_queue(row, name)),
            paused.get(name),
        )
        for name in sorted(names)
    ]


def _named_queues(connection: Connection, alive: builtins.list[Any]) -> set[str]:
    """Return the queues that have had messages, and those that live workers name exactly."""
    stored = connection.execute(sa.select(queue_names.c.name)).scalars()
    names: set[str] = {name for name in stored if isinstance(name, str)}
    for row in alive:
        served: object = row.queues
        patterns = cast("builtins.list[object]", served) if isinstance(served, list) else []
        names |= {pattern for pattern in patterns if isinstance(pattern, str) and not pattern.endswith("*")}
    return names


def _queue(
    name: str, counts: QueueCounts, now: datetime, window_s: float, workers: tuple[str, ...], paused: Pause | None
) -> Queue:
    oldest = counts.oldest_due_at
    return Queue(
        name,
        counts.due + counts.scheduled,
        counts.due,
        oldest,
        None if oldest is None else max(0.0, (now - oldest).total_seconds()),
        counts.running,
        counts.scheduled,
        counts.ended / (window_s / 60),
        workers,
        paused,
    )


def _target(queue: str | None, operation: Any, function: str) -> tuple[Kind, str, str]:
    """Return what is paused or resumed, its name, and the subject of errors."""
    given = queue if operation is None else operation
    where = f"queues.{function}({shortened(given) if isinstance(given, str) else '...'})"
    if (queue is None) == (operation is None):
        raise OptionsError(
            f"{where}: expected a queue or an operation, got {'neither' if queue is None else 'both'}. "
            f'Write queues.{function}("mailers"), or queues.{function}(operation=SendMail).'
        )
    if operation is None:
        return "queue", check_queue(queue, where), where
    if isinstance(operation, str):
        if not is_plain_text(operation) or not 0 < len(operation) <= 255:
            raise OptionsError(f"{where}: expected the stable name of an operation, of 1 to 255 characters.")
        contract = registry.contract_of(operation)
        return "operation", operation if contract is None else contract.name, where
    contract = getattr(operation, "contract", None)
    if contract is None:
        if not callable(operation):
            raise OptionsError(
                f"{where}: expected an operation class, a function registered with @deferrable, or a stable name, got "
                f"{shortened(operation)}."
            )
        contract = defer.operation_of(operation).contract
    return "operation", contract.name, where


def _require_known(connection: Connection, name: str, where: str) -> None:
    """Require that this process, a worker or a record names an operation: a wrong name would pause nothing."""
    if registry.is_known(name):
        return
    rows = worker_registry.worker_rows(connection)
    stored = worker_registry.stored_names(connection, [row.id for row in rows])
    known = {known_name for row in stored for known_name in row.names or ()}
    has_record = sa.select(records.c.id).where(records.c.operation == name).limit(1)
    if name in known or connection.execute(has_record).first() is not None:
        return
    hint = did_you_mean(name, [*known, *registry.names()])
    raise OptionsError(f"{where}: no record, worker or module of this process names this operation.{hint}")


def _checked_for(for_: Delay, where: str) -> float:
    seconds = delay_seconds(for_, "for_", where)
    if seconds <= 0:
        raise OptionsError(f"{where}: for_={shortened(for_)}: expected more than 0 seconds.")
    # The database must be able to store the end.
    return min(seconds, 100 * 366 * 86400.0)


def _store(where: str) -> Store:
    return recording_store(where, SUBJECT)


def _write(session: Any, where: str, write: Callable[[Connection], T]) -> T:
    return write_in(session, where, SUBJECT, "queues.pause", write)
