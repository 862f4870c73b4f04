"""The table `dexpy_messages`, where one row is one message of the SQL broker, and the statements that touch it.

A row is *free*, *held* by a worker process until its lease ends, or *dead*: refused for good and kept to be looked at.
An acknowledged message is a deleted row.

The statements ask little of a database: no RETURNING, recursive common table expressions not of MariaDB,
and SKIP LOCKED only of a server. SQLite's dialect leaves it out, and its one write lock serves instead.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection, Row

from dexpy.recording.deletion import by_key, meets_others
from dexpy.recording.metadata import UtcDateTime, after, as_of, metadata, seconds_parameter

messages = sa.Table(
    "dexpy_messages",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("queue", sa.String(255), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("due_at", UtcDateTime, nullable=False),
    sa.Column("owner", sa.String(64)),
    sa.Column("leased_until", UtcDateTime),
    sa.Column("message_id", sa.String(255), nullable=False),
    sa.Column("payload", sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb"), nullable=False),
    sa.Column("dead", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Index("ix_message_next", "queue", "dead", "priority", "due_at", "id"),
    # An id must never come back: a late acknowledgement names its message by id.
    sqlite_autoincrement=True,
)
"""One row for each message that waits, is held or is dead."""

_m = messages.c


def now() -> sa.ColumnElement[datetime]:
    """The moment that due times and leases are compared with: the place where a server's own clock comes in."""
    return as_of(0)


def _free() -> sa.ColumnElement[bool]:
    return sa.or_(_m.owner.is_(None), _m.leased_until <= now())


def _claimable() -> tuple[sa.ColumnElement[bool], ...]:
    return (_m.dead == sa.false(), _m.due_at <= now(), _free())


def _in_queue() -> sa.ColumnElement[bool]:
    return _m.queue == sa.bindparam("p_queue")


def _level() -> sa.Select[Any]:
    """The highest priority in a queue."""
    # Ordered and limited, where max() would say the same: not every database stops early for that.
    alive = (_in_queue(), _m.dead == sa.false())
    return sa.select(_m.priority).where(*alive).order_by(_m.priority.desc()).limit(1)


def _first_due_at(level: sa.ColumnElement[int]) -> sa.Select[Any]:
    """The moment at which the first free message of a priority is due."""
    alive = (_in_queue(), _m.dead == sa.false())
    return sa.select(_m.due_at).where(*alive, _m.priority == level, _free()).order_by(_m.due_at).limit(1)


def _most_urgent() -> sa.Select[Any]:
    levels = sa.select(_level().scalar_subquery().label("level")).cte("levels", recursive=True)
    lower = _level().where(_m.priority < levels.c.level).correlate(levels).scalar_subquery()
    levels = levels.union_all(sa.select(lower).select_from(levels).where(levels.c.level.is_not(None)))
    earliest = _first_due_at(levels.c.level).correlate(levels).scalar_subquery()
    return sa.select(sa.func.max(levels.c.level)).where(earliest <= now())


_CLAIMED = sa.select(_m.id, _m.queue, _m.priority, _m.payload)


def _next_of(level: sa.ColumnElement[int]) -> sa.Executable:
    claimable = _CLAIMED.where(_in_queue(), *_claimable(), _m.priority == level).order_by(_m.due_at, _m.id)
    return claimable.limit(sa.bindparam("p_limit")).with_for_update(skip_locked=True)


_MOST_URGENT = _most_urgent()
_NEXT = _next_of(_MOST_URGENT.scalar_subquery())

_THIS_LEVEL: sa.BindParameter[int] = sa.bindparam("p_level", type_=sa.Integer)
_HIGHEST = _level()
_LOWER = _level().where(_m.priority < _THIS_LEVEL)
_IS_DUE = sa.select(_first_due_at(_THIS_LEVEL).scalar_subquery() <= now())
_NEXT_OF_LEVEL = _next_of(_THIS_LEVEL)


def most_urgent(connection: Connection, queue: str) -> int | None:
    """The highest priority with a claimable message in a queue; None when nothing is claimable. A plain read.

    The index leads with the priority, so asking for "due, most urgent first" would walk over every message
    of the future that is more urgent than the first due one. This goes from priority to priority instead,
    looks at the first free message of each, and costs the same with a million scheduled messages.
    """
    if not _walks(connection):
        level: int | None = connection.execute(_MOST_URGENT, {"p_queue": queue}).scalar()
        return level
    of = {"p_queue": queue}
    return next((one for one in _levels(connection, of) if _ask(connection, _IS_DUE, of, p_level=one)), None)


def claimable(connection: Connection, queue: str, limit: int) -> Sequence[Row[Any]]:
    """Claimable messages of a queue, locked: up to so many of its most urgent priority, the longest due first."""
    if not _walks(connection):
        return connection.execute(_NEXT, {"p_queue": queue, "p_limit": limit}).all()
    of = {"p_queue": queue}
    for level in _levels(connection, of):
        if rows := connection.execute(_NEXT_OF_LEVEL, {**of, "p_level": level, "p_limit": limit}).all():
            return rows
    return ()


def _walks(connection: Connection) -> bool:
    """Whether the step from a priority to the next one must be a statement of its own.

    Within one statement MariaDB makes that step message by message, over all that lie between.
    """
    return connection.dialect.name in ("mysql", "mariadb")


def _levels(connection: Connection, of: dict[str, Any]) -> Generator[int]:
    level = _ask(connection, _HIGHEST, of)
    while level is not None:
        yield level
        level = _ask(connection, _LOWER, of, p_level=level)


def _ask(connection: Connection, query: sa.Select[Any], of: dict[str, Any], **more: Any) -> Any:
    return connection.execute(query, {**of, **more}).scalar()


_THESE = _m.id.in_(sa.bindparam("p_ids", expanding=True))
_MINE = sa.and_(_THESE, _m.owner == sa.bindparam("p_owner"))
_LEASE = {"leased_until": after(seconds_parameter("p_lease_s"))}
_NOBODYS = {"owner": None, "leased_until": None}

LEASE = sa.update(messages).where(_THESE).values(owner=sa.bindparam("p_owner"), **_LEASE)
"""Make ``p_ids``, selected for update just before, the messages of ``p_owner`` for ``p_lease_s`` seconds."""

RENEW = sa.update(messages).where(_MINE).values(**_LEASE)
"""Hold on to those of ``p_ids`` that are still ``p_owner``'s for another ``p_lease_s`` seconds."""

GIVE_BACK = sa.update(messages).where(_MINE).values(**_NOBODYS)
"""Free those of ``p_ids`` that are still ``p_owner``'s; they keep their place in the order."""

FREE_STRAYS = (
    sa.update(messages).where(_in_queue(), _m.owner == sa.bindparam("p_owner"), sa.not_(_THESE)).values(**_NOBODYS)
)
"""Free what is ``p_owner``'s in ``p_queue`` but for ``p_ids``."""

BURY = sa.update(messages).where(_MINE).values(dead=True, **_NOBODYS)
"""Make those of ``p_ids`` that are still ``p_owner``'s dead."""

_DELETE = sa.delete(messages).where(_MINE)
_DELETE_ONE = by_key(messages).where(_m.owner == sa.bindparam("p_owner"))


def delete(connection: Connection, ids: Collection[int], owner: str) -> int:
    """Delete those of some messages that are still an owner's, and say how many."""
    if meets_others(connection):
        return connection.execute(_DELETE_ONE, [{"p_id": one, "p_owner": owner} for one in ids]).rowcount
    return connection.execute(_DELETE, {"p_ids": ids, "p_owner": owner}).rowcount


def _insertion(due_at: sa.ColumnElement[datetime]) -> sa.Insert:
    given = ("queue", "priority", "message_id", "payload")
    values: dict[str, Any] = {name: sa.bindparam(f"p_{name}", type_=_m[name].type) for name in given}
    return sa.insert(messages).values(**values, due_at=due_at, dead=False, created_at=now()).inline()


DOORBELL = "dexpy_messages"
"""The channel on which PostgreSQL tells workers of a message, with the name of its queue."""

INSERT_AFTER = _insertion(after(seconds_parameter("p_wait_s")))
"""A new message, due ``p_wait_s`` seconds from now."""

INSERT_AT = _insertion(sa.bindparam("p_due_at", type_=UtcDateTime()))
"""A new message, due at the moment ``p_due_at``."""

# In the same statement, for a round trip less. Workers hear of it when the transaction commits, and only then.
_RING = sa.func.pg_notify(DOORBELL, sa.bindparam("p_queue", type_=_m.queue.type))
RINGING = {statement: statement.returning(_RING) for statement in (INSERT_AFTER, INSERT_AT)}
"""The same two, telling the workers of a message that is due: for PostgreSQL."""

RING = sa.select(_RING)
"""Tell the workers of ``p_queue``, when the transaction commits: for PostgreSQL."""

ANY_ALIVE = sa.select(sa.select(sa.literal(1)).where(_in_queue(), _m.dead == sa.false()).exists())
"""Whether ``p_queue`` holds any message that is not dead."""


PAYLOADS = sa.select(_m.payload).where(_in_queue(), _m.dead == sa.false())
"""What the messages of ``p_queue`` say that wait or are held."""


def next_of(queues: Collection[str] | None) -> sa.Select[*tuple[Any, ...]]:
    """The one message that is next of all that are claimable, in these queues or in any. A plain read."""
    statement = _CLAIMED.where(*_claimable(), *_among(queues))
    return statement.order_by(_m.priority.desc(), _m.due_at, _m.id).limit(1)


def counts(queues: Collection[str] | None) -> sa.Executable:
    """How many messages are due, delayed and leased, in these queues or in all."""
    due = sa.and_(_free(), _m.due_at <= now())
    delayed = sa.and_(_free(), _m.due_at > now())
    leased = sa.and_(_m.owner.is_not(None), _m.leased_until > now())
    return sa.select(*map(_number, (due, delayed, leased))).where(_m.dead == sa.false(), *_among(queues))


def everything_in(queues: Collection[str]) -> sa.Executable:
    """The deletion of every message of these queues, the dead ones too."""
    return sa.delete(messages).where(*_among(queues))


def _number(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0)


def _among(queues: Collection[str] | None) -> tuple[sa.ColumnElement[bool], ...]:
    return () if queues is None else (_m.queue.in_(queues),)
