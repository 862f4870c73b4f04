"""Concurrency slots: the running records of a key, and the records that wait for a free slot.

A record with the status ``running`` takes a slot, so a dead worker's slot is free once its run is recovered.
A record that waits for a slot has its key in `blocked_key`, and neither a message nor a due time: nothing polls it
until a slot is free.

Slots are counted under the lock of the key's row in `gates`, by one transaction at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.database.column_types import after, as_of, hide_from_planner, next_count
from dexpy.database.deletes import delete_unlocked
from dexpy.database.dialects import dialect_of
from dexpy.database.tables import gates, records

MESSAGE_S = 10.0
"""How long a published message reserves a free slot, in seconds."""

_r = records.c
_KEY: sa.BindParameter[str] = sa.bindparam("p_key", type_=_r.concurrency_key.type)
_IN_TIME = sa.or_(_r.expires_at.is_(None), _r.expires_at > as_of(0))
_BLOCKED = (_r.blocked_key == _KEY, _r.status == "pending")

_LOCK = sa.select(gates.c.key).where(gates.c.key == _KEY).with_for_update()
_LOCK_NOWAIT = sa.select(gates.c.key).where(gates.c.key == _KEY).with_for_update(nowait=True)
_FOR_CLAIM = sa.select(
    _r.id,
    _r.operation,
    _r.priority,
    _r.status,
    _r.concurrency_key,
    _r.rate_key,
    _r.fair_key,
    _r.blocked_key,
    sa.and_(_r.status == "pending", sa.or_(_r.scheduled_at.is_(None), _r.scheduled_at <= as_of(0)), _IN_TIME).label(
        "is_due"
    ),
).where(_r.id == sa.bindparam("p_id"))
_RUNNING = sa.select(sa.func.count()).where(_r.concurrency_key == _KEY, _r.status == "running")
_PUBLISHED = sa.select(sa.func.count()).where(*_BLOCKED, _r.enqueued_at > as_of(-MESSAGE_S))
_WAITING_COLUMNS = (_r.id, _r.operation, _r.priority, _r.concurrency_key, _r.rate_key)
# Two index lookups, however many records wait: the highest priority, then its oldest record.
_HIGHEST = sa.select(sa.func.max(_r.priority)).where(_r.blocked_key == _KEY).scalar_subquery()
_FIRST = sa.select(*_WAITING_COLUMNS).where(*_BLOCKED, _IN_TIME, _r.priority == _HIGHEST).order_by(_r.id).limit(1)
_WAITING = sa.select(_r.id).where(*_BLOCKED, _IN_TIME, _r.enqueued_at.is_(None)).order_by(_r.priority.desc(), _r.id)
_HAS_ID = _r.id.in_(sa.bindparam("p_ids", expanding=True))
_MARK_PUBLISHED = (
    sa.update(records)
    .where(_HAS_ID, hide_from_planner(_r.status == "pending", _r.blocked_key.is_not(None)))
    .values(enqueued_at=after(0), send_count=next_count(_r.send_count))
)


def lock_key(connection: Connection, key: str, *, waits: bool = True) -> None:
    """Lock a key until the end of the transaction.

    Args:
        connection: A connection in a transaction that has locked no record yet.
        key: The concurrency key in the records.
        waits: Whether to wait for the lock; if not, a held lock raises the error of `error_codes.is_locked`.
    """
    dialect = dialect_of(connection)
    if dialect.has_one_write_lock:
        dialect.acquire_write_lock(connection)
        return
    lock = _LOCK if waits else _LOCK_NOWAIT
    while connection.execute(lock, {"p_key": key}).first() is None:
        connection.execute(dialect.insert_or_ignore(gates).values(created_at=after(0)), {"key": key})


def read_for_claim(connection: Connection, id: str) -> Row[Any] | None:
    """Return the columns of a record that a claim needs: its key, its priority and whether it is due."""
    row: Row[Any] | None = cast("Any", connection.execute(_FOR_CLAIM, {"p_id": id}).first())
    return row


def count_running(connection: Connection, key: str) -> int:
    """Return how many slots of a key are in use."""
    return int(connection.execute(_RUNNING, {"p_key": key}).scalar_one())


def next_waiting(connection: Connection, key: str, names: Collection[str] | None = None) -> Row[Any] | None:
    """Return the next record that waits for a slot: the highest priority first, then the oldest.

    Args:
        connection: A connection whose transaction holds the lock of the key.
        key: The concurrency key in the records.
        names: The names of the operations; None for all.
    """
    query: Any = _FIRST
    if names is not None:
        highest = sa.select(sa.func.max(_r.priority)).where(_r.blocked_key == _KEY, _r.operation.in_(names))
        query = (
            sa.select(*_WAITING_COLUMNS)
            .where(*_BLOCKED, _IN_TIME, _r.operation.in_(names), _r.priority == highest.scalar_subquery())
            .order_by(_r.id)
            .limit(1)
        )
    row: Row[Any] | None = connection.execute(query, {"p_key": key}).first()
    return row


def fill_free_slots(connection: Connection, key: str, limit: int, *, waits: bool = True) -> Sequence[Row[Any]]:
    """Mark waiting records as published, one for each free slot; the caller publishes them.

    Args:
        connection: A connection in a transaction that has locked no record yet.
        key: The concurrency key in the records.
        limit: The number of slots.
        waits: See `lock_key`.

    Returns:
        The rows of the marked records, by priority and age.
    """
    lock_key(connection, key, waits=waits)
    free = limit - count_running(connection, key)
    return offer_waiting(connection, key, free) if free > 0 else ()


def offer_waiting(connection: Connection, key: str, free: int) -> Sequence[Row[Any]]:
    """Mark up to *free* waiting records of a locked key as published, less those that were published just before.

    Args:
        connection: A connection whose transaction holds the lock of the key.
        key: The concurrency key or the rate key in the records.
        free: How many runs of the key may start now, at least 1.

    Returns:
        The rows of the marked records, by priority and age; the caller publishes them.
    """
    parameters = {"p_key": key}
    ids = connection.execute(_WAITING.limit(free), parameters).scalars().all()
    free -= int(connection.execute(_PUBLISHED, parameters).scalar_one()) if ids else 0
    if not ids or free <= 0:
        return ()
    selected = list(ids)[:free]
    connection.execute(_MARK_PUBLISHED, {"p_ids": selected})
    rows = connection.execute(
        sa.select(records).where(_r.id.in_(selected), hide_from_planner(_r.status == "pending"))
    ).all()
    return sorted(rows, key=lambda row: selected.index(row.id))


def has_unpublished(connection: Connection, key: str) -> bool:
    """Return whether a record waits for a key without a message."""
    return connection.execute(_WAITING.limit(1), {"p_key": key}).first() is not None


def _blocked_keys_query() -> Any:
    """Return the query for the keys that records wait for: one index lookup per key, however many records wait."""
    lowest = sa.select(sa.func.min(_r.blocked_key).label("key")).cte("waited_for", recursive=True)
    higher = sa.select(sa.func.min(_r.blocked_key)).where(_r.blocked_key > lowest.c.key).scalar_subquery()
    keys = lowest.union_all(sa.select(higher).where(lowest.c.key.is_not(None)))
    key = keys.c.key
    running = sa.select(sa.func.count()).where(_r.concurrency_key == key, _r.status == "running").scalar_subquery()
    operation = sa.select(_r.operation).where(_r.blocked_key == key).limit(1).scalar_subquery()
    rate_key = sa.select(_r.rate_key).where(_r.blocked_key == key).limit(1).scalar_subquery()
    return sa.select(
        key.label("key"),
        operation.label("operation"),
        running.label("running"),
        sa.func.coalesce(rate_key == key, sa.false()).label("is_rate"),
    ).where(key.is_not(None))


_BLOCKED_KEYS: sa.Select[Any] = _blocked_keys_query()


def slot_counts(key: str) -> Any:
    """Return the query that counts the running and the blocked records of a key."""
    running = sa.select(sa.func.count()).where(_r.concurrency_key == key, _r.status == "running")
    blocked = sa.select(sa.func.count()).where(_r.blocked_key == key)
    return sa.select(running.scalar_subquery().label("running"), blocked.scalar_subquery().label("blocked"))


def blocked_keys(connection: Connection) -> Sequence[Row[Any]]:
    """Return each key that records wait for: one of its operations, its running records, whether it is a rate key."""
    return connection.execute(_BLOCKED_KEYS).all()


def delete_unused_keys(connection: Connection) -> int:
    """Delete the lock rows of keys without pending or running records; `lock_key` inserts them again."""
    in_use = sa.exists().where(_r.concurrency_key == gates.c.key, _r.status.in_(("pending", "running")))
    return delete_unlocked(connection, gates, ~in_use)
