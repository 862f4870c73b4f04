"""The SQL statements of the SQL broker; a row of the table `dexpy_messages` is a message.

A row is *free*, *held* by a worker process until its lease expires, or *dead*: rejected and stored for inspection.
Acknowledging a message deletes its row.

The statements require few features: no RETURNING, SKIP LOCKED on servers only, and recursive common table expressions
except on MariaDB. SQLite's dialect omits SKIP LOCKED, because its write lock covers all rows.
"""

from __future__ import annotations

import functools
import hashlib
import json
import operator
from collections.abc import Collection, Generator, Sequence
from datetime import datetime
from typing import Any

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from dexpy.database.column_types import UtcDateTime, after, as_of, seconds_parameter
from dexpy.database.deletes import by_key
from dexpy.database.dialects import dialect_of
from dexpy.database.tables import messages

_m = messages.c


def now() -> sa.ColumnElement[datetime]:
    """Return the time that due times and leases are compared with, by the server's clock."""
    return as_of(0)


LONGEST_CHANNEL = 63
LONGEST_LEASE_S = 1e7
"""The longest lease that dexpy writes, in seconds; a lease that ends later is invalid, and its row is free."""


def _is_free() -> sa.ColumnElement[bool]:
    never = _m.leased_until > as_of(LONGEST_LEASE_S)
    return sa.or_(_m.owner.is_(None), _m.leased_until.is_(None), _m.leased_until <= now(), never)


def _is_claimable() -> tuple[sa.ColumnElement[bool], ...]:
    return (_m.dead == sa.false(), _m.due_at <= now(), _is_free())


def _in_queue() -> sa.ColumnElement[bool]:
    return _m.queue == sa.bindparam("p_queue")


def _highest_priority() -> sa.Select[Any]:
    """Return the query for the highest priority in a queue."""
    # ORDER BY and LIMIT instead of max(): not every database stops early for max().
    alive = (_in_queue(), _m.dead == sa.false())
    return sa.select(_m.priority).where(*alive).order_by(_m.priority.desc()).limit(1)


class position(FunctionElement[int]):  # noqa: N801 - a function of SQL
    """The byte position of a text in another text; 0 if it does not occur."""

    inherit_cache = True
    type = sa.Integer()


@compiles(position)
def _position(element: position, compiler: Any, **options: Any) -> str:
    return f"strpos({compiler.process(element.clauses, **options)})"


@compiles(position, "sqlite")
def _position_in_sqlite(element: position, compiler: Any, **options: Any) -> str:
    return f"instr({compiler.process(element.clauses, **options)})"


@compiles(position, "mysql", "mariadb")
def _position_in_mysql(element: position, compiler: Any, **options: Any) -> str:
    text, substring = (compiler.process(clause, **options) for clause in element.clauses)
    return f"instr({text}, CAST({substring} AS BINARY))"


def class_marker(class_name: str) -> str:
    """Return the text in the JSON payload of a message that names its class."""
    return f'"class_name":{json.dumps(class_name)}'


_CLAIMED = sa.select(_m.id, _m.queue, _m.priority, _m.payload)
_THIS_LEVEL: sa.BindParameter[int] = sa.bindparam("p_level", type_=sa.Integer)
_HIGHEST = _highest_priority()
_LOWER = _highest_priority().where(_m.priority < _THIS_LEVEL)


@attrs.frozen(eq=False)
class _Statements:
    """The statements that find the next messages, except those of skipped classes.

    Attributes:
        most_urgent: Selects the highest priority with a claimable message.
        next: Selects claimable messages of that priority.
        is_due: Selects whether the priority ``p_level`` has a claimable message.
        next_of_level: Selects claimable messages of the priority ``p_level``.
    """

    most_urgent: sa.Select[Any]
    next: sa.Executable
    is_due: sa.Select[Any]
    next_of_level: sa.Executable

    @classmethod
    def of(cls, without: Collection[str]) -> _Statements:
        """Return the statements that skip the classes of these names."""
        not_skipped = _mentions_no_class(without)
        most_urgent = _highest_claimable_priority(not_skipped)
        return cls(
            most_urgent,
            _next_of(most_urgent.scalar_subquery(), not_skipped),
            sa.select(_first_due_at(_THIS_LEVEL, not_skipped).scalar_subquery() <= now()),
            _next_of(_THIS_LEVEL, not_skipped),
        )


_Conditions = tuple[sa.ColumnElement[bool], ...]


def _mentions_no_class(names: Collection[str]) -> _Conditions:
    if not names:
        return ()
    # One sum, because MariaDB treats conditions as equal whose constants differ only in case.
    positions: list[sa.ColumnElement[int]] = [
        position(_m.payload, sa.literal(class_marker(name))) for name in sorted(names)
    ]
    return (functools.reduce(operator.add, positions) == 0,)


def _first_due_at(level: sa.ColumnElement[int], not_skipped: _Conditions) -> sa.Select[Any]:
    """Return the query for the due time of the first free message of a priority."""
    alive = (_in_queue(), _m.dead == sa.false())
    return (
        sa.select(_m.due_at).where(*alive, _m.priority == level, _is_free(), *not_skipped).order_by(_m.due_at).limit(1)
    )


def _highest_claimable_priority(not_skipped: _Conditions) -> sa.Select[Any]:
    levels = sa.select(_highest_priority().scalar_subquery().label("level")).cte("levels", recursive=True)
    lower = _highest_priority().where(_m.priority < levels.c.level).correlate(levels).scalar_subquery()
    levels = levels.union_all(sa.select(lower).select_from(levels).where(levels.c.level.is_not(None)))
    earliest = _first_due_at(levels.c.level, not_skipped).correlate(levels).scalar_subquery()
    return sa.select(sa.func.max(levels.c.level)).where(earliest <= now())


def _next_of(level: sa.ColumnElement[int], not_skipped: _Conditions) -> sa.Executable:
    claimable = _CLAIMED.where(_in_queue(), *_is_claimable(), _m.priority == level, *not_skipped)
    ordered = claimable.order_by(_m.due_at, _m.id)
    return ordered.limit(sa.bindparam("p_limit")).with_for_update(skip_locked=True)


_statements = functools.lru_cache(maxsize=16)(_Statements.of)
NONE: frozenset[str] = frozenset()


def most_urgent(connection: Connection, queue: str, without: frozenset[str] = NONE) -> int | None:
    """Return the highest priority with a claimable message in a queue, or None; locks nothing.

    The index starts with the priority, so a query for due messages by priority would scan all scheduled messages that
    are more urgent than the first due one. This query instead reads the first free message of each priority, and costs
    the same with a million scheduled messages.

    Args:
        connection: A connection to the database.
        queue: The name of the queue.
        without: The names of classes whose messages are skipped.
    """
    statements = _statements(without)
    if not dialect_of(connection).recursive_query_scans:
        level: int | None = connection.execute(statements.most_urgent, {"p_queue": queue}).scalar()
        return level
    parameters = {"p_queue": queue}
    levels = _levels(connection, parameters)
    return next((level for level in levels if _scalar(connection, statements.is_due, parameters, p_level=level)), None)


def claimable(connection: Connection, queue: str, limit: int, without: frozenset[str] = NONE) -> Sequence[Row[Any]]:
    """Lock and return up to *limit* claimable messages of a queue's highest priority, the longest due first."""
    statements = _statements(without)
    if not dialect_of(connection).recursive_query_scans:
        return connection.execute(statements.next, {"p_queue": queue, "p_limit": limit}).all()
    parameters = {"p_queue": queue}
    for level in _levels(connection, parameters):
        values = {**parameters, "p_level": level, "p_limit": limit}
        if rows := connection.execute(statements.next_of_level, values).all():
            return rows
    return ()


def _levels(connection: Connection, parameters: dict[str, Any]) -> Generator[int]:
    # One statement for each priority: within one statement MariaDB scans all messages between two priorities.
    level = _scalar(connection, _HIGHEST, parameters)
    while level is not None:
        yield level
        level = _scalar(connection, _LOWER, parameters, p_level=level)


def _scalar(connection: Connection, query: sa.Select[Any], parameters: dict[str, Any], **more: Any) -> Any:
    return connection.execute(query, {**parameters, **more}).scalar()


_IN_IDS = _m.id.in_(sa.bindparam("p_ids", expanding=True))
_OWNED = sa.and_(_IN_IDS, _m.owner == sa.bindparam("p_owner"))
_LEASE = {"leased_until": after(seconds_parameter("p_lease_s"))}
_NO_OWNER = {"owner": None, "leased_until": None}

LEASE = sa.update(messages).where(_IN_IDS).values(owner=sa.bindparam("p_owner"), **_LEASE)
"""Lease ``p_ids``, which are already locked, to ``p_owner`` for ``p_lease_s`` seconds."""

RENEW = sa.update(messages).where(_OWNED).values(**_LEASE)
"""Extend the leases of those of ``p_ids`` that ``p_owner`` still holds, by ``p_lease_s`` seconds from now."""

RELEASE = sa.update(messages).where(_OWNED).values(**_NO_OWNER)
"""Free those of ``p_ids`` that ``p_owner`` still holds; their order does not change."""

FREE_UNHELD = (
    sa.update(messages).where(_in_queue(), _m.owner == sa.bindparam("p_owner"), sa.not_(_IN_IDS)).values(**_NO_OWNER)
)
"""Free all messages that ``p_owner`` holds in ``p_queue``, except ``p_ids``."""

MARK_DEAD = sa.update(messages).where(_OWNED).values(dead=True, **_NO_OWNER)
"""Mark as dead those of ``p_ids`` that ``p_owner`` still holds."""

_DELETE = sa.delete(messages).where(_OWNED)
_DELETE_ONE = by_key(messages).where(_m.owner == sa.bindparam("p_owner"))


def delete(connection: Connection, ids: Collection[int], owner: str) -> int:
    """Delete the messages that the owner still holds, and return their number."""
    if dialect_of(connection).multi_key_delete_locks_gaps:
        return connection.execute(_DELETE_ONE, [{"p_id": message_id, "p_owner": owner} for message_id in ids]).rowcount
    return connection.execute(_DELETE, {"p_ids": ids, "p_owner": owner}).rowcount


def _insertion(due_at: sa.ColumnElement[datetime]) -> sa.Insert:
    bound = ("queue", "priority", "message_id", "payload")
    values: dict[str, Any] = {name: sa.bindparam(f"p_{name}", type_=_m[name].type) for name in bound}
    return sa.insert(messages).values(**values, due_at=due_at, dead=False, created_at=now()).inline()


def notify_channel(schema: str | None) -> str:
    """Return the channel on which PostgreSQL notifies workers of a message; the payload is the name of its queue.

    Args:
        schema: The configured schema of the messages; None without one.
    """
    channel = messages.name if schema is None else f"{schema}.{messages.name}"
    # PostgreSQL accepts at most 63 bytes.
    return channel if len(channel) <= LONGEST_CHANNEL else f"dexpy_{hashlib.sha256(channel.encode()).hexdigest()[:32]}"


INSERT_AFTER = _insertion(after(seconds_parameter("p_wait_s")))
"""A new message, due ``p_wait_s`` seconds from now."""

INSERT_AT = _insertion(sa.bindparam("p_due_at", type_=UtcDateTime()))
"""A new message, due at ``p_due_at``."""

# Notify in the same statement, to save a round trip. PostgreSQL delivers the notification with the commit.
_NOTIFY = sa.func.pg_notify(sa.bindparam("p_channel", type_=sa.String), sa.bindparam("p_queue", type_=_m.queue.type))
NOTIFYING = {statement: statement.returning(_NOTIFY) for statement in (INSERT_AFTER, INSERT_AT)}
"""The same two statements with a notification on ``p_channel``, for due messages on PostgreSQL."""

NOTIFY = sa.select(_NOTIFY)
"""Notify the workers of ``p_queue`` on ``p_channel`` when the transaction commits, on PostgreSQL."""

ANY_ALIVE = sa.select(sa.select(sa.literal(1)).where(_in_queue(), _m.dead == sa.false()).exists())
"""Whether ``p_queue`` has any message that is not dead."""


PAYLOADS = sa.select(_m.payload).where(_in_queue(), _m.dead == sa.false(), _m.due_at <= now())
"""The payloads of the messages of ``p_queue`` that are due or held."""


def next_of(queues: Collection[str] | None) -> sa.Select[*tuple[Any, ...]]:
    """Return the query for the next claimable message of these queues, or of all; locks nothing."""
    statement = _CLAIMED.where(*_is_claimable(), *_in_queues(queues))
    return statement.order_by(_m.priority.desc(), _m.due_at, _m.id).limit(1)


def counts(queues: Collection[str] | None, without: Collection[str] = ()) -> sa.Executable:
    """Return the query that counts due, delayed and leased messages of these queues or all, *without* some classes."""
    due = sa.and_(_is_free(), _m.due_at <= now(), *_mentions_no_class(without))
    delayed = sa.and_(_is_free(), _m.due_at > now())
    leased = sa.not_(_is_free())
    return sa.select(*map(_count_where, (due, delayed, leased))).where(_m.dead == sa.false(), *_in_queues(queues))


DEFERRED_MARK = '"unknown_since"'
"""The text in the JSON payload of a deferred message, which waits for a worker with its class."""
PAUSED_MARK = '"paused":true'
"""The text in the JSON payload of a direct message that waits for the end of a pause."""


def select_deferred(longest_wait_s: float, mark: str = DEFERRED_MARK) -> sa.Select[*tuple[Any, ...]]:
    """Return the query for the id, queue and payload of each message with a mark that is due later; locks nothing.

    Args:
        longest_wait_s: The longest delay of such a message in seconds; messages that are due later are not read.
        mark: The text in its payload.
    """
    soon = (_m.due_at > now(), _m.due_at <= as_of(longest_wait_s), _m.owner.is_(None))
    return sa.select(_m.id, _m.queue, _m.payload).where(
        _m.dead == sa.false(), *soon, position(_m.payload, sa.literal(mark)) > 0
    )


MAKE_DUE = sa.update(messages).where(_IN_IDS, _m.owner.is_(None), _m.due_at > now()).values(due_at=now())
"""Make ``p_ids`` due now, except held or due messages."""


def delete_all_in(queues: Collection[str]) -> sa.Executable:
    """Return the statement that deletes all messages of these queues, including dead ones."""
    return sa.delete(messages).where(*_in_queues(queues))


def _count_where(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0)


def _in_queues(queues: Collection[str] | None) -> tuple[sa.ColumnElement[bool], ...]:
    return () if queues is None else (_m.queue.in_(queues),)
