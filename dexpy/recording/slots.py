"""Slots: how many runs of a key there are at once, and who waits for one.

The slots are the running rows themselves, so that none is ever lost: a dead worker's comes back when its row is taken
out of ``running``. A row that found none has its key in `blocked_key` too, and neither a message nor a moment at
which it is due, so that nobody looks at it until it is its turn.

Whoever counts slots does it inside the key's gate, one transaction at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Connection, Row

from dexpy.recording.deletion import delete_free
from dexpy.recording.metadata import after, as_of, of_this_row
from dexpy.recording.sqlite import take_write_lock
from dexpy.recording.tables import gates, records

MESSAGE_S = 10.0
"""A message that stands for a free slot, and that nobody took for so long, in seconds, keeps it from nobody else."""

_r = records.c
_KEY: sa.BindParameter[str] = sa.bindparam("p_key", type_=_r.concurrency_key.type)
_IN_TIME = sa.or_(_r.expires_at.is_(None), _r.expires_at > as_of(0))
_BLOCKED = (_r.blocked_key == _KEY, _r.status == "pending")

_GATE = sa.select(gates.c.key).where(gates.c.key == _KEY).with_for_update()
_GATE_NOW = sa.select(gates.c.key).where(gates.c.key == _KEY).with_for_update(nowait=True)
_OWN = sa.select(
    _r.id,
    _r.name,
    _r.priority,
    _r.status,
    _r.concurrency_key,
    sa.and_(_r.status == "pending", sa.or_(_r.scheduled_at.is_(None), _r.scheduled_at <= as_of(0)), _IN_TIME).label(
        "is_due"
    ),
).where(_r.id == sa.bindparam("p_id"))
_RUNNING = sa.select(sa.func.count()).where(_r.concurrency_key == _KEY, _r.status == "running")
_COMING = sa.select(sa.func.count()).where(*_BLOCKED, _r.enqueued_at > as_of(-MESSAGE_S))
# Two steps in the index, however many wait: the highest priority, and the oldest of it.
_HIGHEST = sa.select(sa.func.max(_r.priority)).where(_r.blocked_key == _KEY).scalar_subquery()
_FIRST = (
    sa.select(_r.id, _r.name, _r.priority).where(*_BLOCKED, _IN_TIME, _r.priority == _HIGHEST).order_by(_r.id).limit(1)
)
_WAITING = sa.select(_r.id).where(*_BLOCKED, _IN_TIME, _r.enqueued_at.is_(None)).order_by(_r.priority.desc(), _r.id)
_THESE = _r.id.in_(sa.bindparam("p_ids", expanding=True))
_OFFERED = (
    sa.update(records)
    .where(_THESE, of_this_row(_r.status == "pending", _r.blocked_key.is_not(None)))
    .values(enqueued_at=after(0), send_count=_r.send_count + 1)
)


def enter(connection: Connection, key: str, *, waits: bool = True) -> None:
    """Go through the gate of a key; it is free again at the end of the transaction.

    Args:
        connection: In a transaction, that has locked no record yet.
        key: As the records have it.
        waits: Whether to wait for whoever is inside; else that is an error, see `codes.is_locked`.
    """
    if connection.dialect.name == "sqlite":
        take_write_lock(connection)
        return
    gate = _GATE if waits else _GATE_NOW
    while connection.execute(gate, {"p_key": key}).first() is None:
        connection.execute(_made(connection), {"key": key})


def _made(connection: Connection) -> Any:
    if connection.dialect.name == "postgresql":
        return postgresql.insert(gates).values(created_at=after(0)).on_conflict_do_nothing()
    if connection.dialect.name == "sqlite":
        return sqlite.insert(gates).values(created_at=after(0)).on_conflict_do_nothing()
    return mysql.insert(gates).values(created_at=after(0)).prefix_with("IGNORE")


def own(connection: Connection, id: str) -> Row[Any] | None:
    """What a claim has to know of a row: its key, its priority, and whether it is due."""
    found: Row[Any] | None = cast("Any", connection.execute(_OWN, {"p_id": id}).first())
    return found


def running(connection: Connection, key: str) -> int:
    """How many slots of a key are taken."""
    return int(connection.execute(_RUNNING, {"p_key": key}).scalar_one())


def first(connection: Connection, key: str, names: Collection[str] | None = None) -> Row[Any] | None:
    """Who waits for a slot of a key and is next: the higher priority first, then the older record.

    Args:
        connection: Inside the gate.
        key: As the records have it.
        names: Of these operations alone; None for all.
    """
    query: Any = _FIRST
    if names is not None:
        highest = sa.select(sa.func.max(_r.priority)).where(_r.blocked_key == _KEY, _r.name.in_(names))
        query = (
            sa.select(_r.id, _r.name, _r.priority)
            .where(*_BLOCKED, _IN_TIME, _r.name.in_(names), _r.priority == highest.scalar_subquery())
            .order_by(_r.id)
            .limit(1)
        )
    found: Row[Any] | None = connection.execute(query, {"p_key": key}).first()
    return found


def offer(connection: Connection, key: str, limit: int, *, waits: bool = True) -> Sequence[Row[Any]]:
    """Take as many of those who wait as there are free slots, marked as sent; the caller sends them.

    Args:
        connection: In a transaction, that has locked no record yet.
        key: As the records have it.
        limit: How many slots there are.
        waits: See `enter`.

    Returns:
        Their rows, in their order.
    """
    enter(connection, key, waits=waits)
    of = {"p_key": key}
    free = limit - running(connection, key)
    if free <= 0:
        return ()
    ids = connection.execute(_WAITING.limit(free), of).scalars().all()
    free -= int(connection.execute(_COMING, of).scalar_one()) if ids else 0
    if not ids or free <= 0:
        return ()
    chosen = list(ids)[:free]
    connection.execute(_OFFERED, {"p_ids": chosen})
    rows = connection.execute(sa.select(records).where(_r.id.in_(chosen), of_this_row(_r.status == "pending"))).all()
    return sorted(rows, key=lambda row: chosen.index(row.id))


def _waited_for() -> Any:
    """Each key that somebody waits for: one step in the index for each, however many wait."""
    lowest = sa.select(sa.func.min(_r.blocked_key).label("key")).cte("waited_for", recursive=True)
    higher = sa.select(sa.func.min(_r.blocked_key)).where(_r.blocked_key > lowest.c.key).scalar_subquery()
    keys = lowest.union_all(sa.select(higher).where(lowest.c.key.is_not(None)))
    of = keys.c.key
    taken = sa.select(sa.func.count()).where(_r.concurrency_key == of, _r.status == "running").scalar_subquery()
    name = sa.select(_r.name).where(_r.blocked_key == of).limit(1).scalar_subquery()
    return sa.select(of.label("key"), name.label("name"), taken.label("running")).where(of.is_not(None))


_WAITED_FOR: sa.Select[Any] = _waited_for()


def counts(key: str) -> Any:
    """How many records of a key run, and how many wait for a slot."""
    taken = sa.select(sa.func.count()).where(_r.concurrency_key == key, _r.status == "running")
    waiting = sa.select(sa.func.count()).where(_r.blocked_key == key)
    return sa.select(taken.scalar_subquery().label("running"), waiting.scalar_subquery().label("blocked"))


def waited_for(connection: Connection) -> Sequence[Row[Any]]:
    """Each key that somebody waits for, with the name of an operation and how many run."""
    return connection.execute(_WAITED_FOR).all()


def forget(connection: Connection) -> int:
    """Delete the gates of keys that no record waits for or runs by; one that is needed again is made again."""
    in_use = sa.exists().where(_r.concurrency_key == gates.c.key, _r.status.in_(("pending", "running")))
    return delete_free(connection, gates, ~in_use)
