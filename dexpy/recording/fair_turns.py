"""Fair turns: the next waiting run of a queue, or of a limit, from the next key.

The keys have an arbitrary but fixed order, that of their digests, and each process remembers the last one. So the next
key is one index lookup, however many runs and keys wait, and a key that appears has its turn within one round.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Generator, Hashable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.database.column_types import as_of
from dexpy.database.tables import records
from dexpy.declaration import registry

MOST_CURSORS = 10_000
"""The number of queues and limits whose last key a process remembers."""
MOST_KEYS = 16
"""How many keys without a due run are passed in one search."""
MOST_LEVELS = 16
"""How many priorities are searched for a due run."""

_r = records.c
_QUEUE: sa.BindParameter[str] = sa.bindparam("p_queue", type_=_r.fair_queue.type)
_BLOCKED: sa.BindParameter[str] = sa.bindparam("p_blocked", type_=_r.blocked_key.type)
_LEVEL: sa.BindParameter[int] = sa.bindparam("p_level", type_=sa.Integer)
_LAST_KEY: sa.BindParameter[str] = sa.bindparam("p_key", type_=_r.fair_key.type)

_WAITS = (_r.fair_queue == _QUEUE,)
_COLUMNS = (
    _r.id,
    _r.operation,
    _r.concurrency_key,
    _r.rate_key,
    _r.fair_key,
    _r.enqueued_at.is_not(None).label("has_message"),
    sa.func.coalesce(_r.scheduled_at <= as_of(0), sa.true()).label("is_due"),
    sa.func.coalesce(_r.expires_at <= as_of(0), sa.false()).label("is_expired"),
)
# ORDER BY and LIMIT instead of max(): not every database stops early for max().
_HIGHEST = sa.select(_r.priority).where(*_WAITS).order_by(_r.priority.desc()).limit(1)
_LOWER = _HIGHEST.where(_r.priority < _LEVEL)
# The first run of a key by its due time: if it is not due, no run of the key is.
_NEXT: Any = (
    sa.select(*_COLUMNS)
    .where(*_WAITS, _r.priority == _LEVEL, _r.fair_key > _LAST_KEY)
    .order_by(_r.fair_key, _r.scheduled_at)
    .limit(1)
    .with_for_update(skip_locked=True)
)
_NEXT_OF_KEY: Any = (
    sa.select(*_COLUMNS)
    .where(*_WAITS, _r.priority == _LEVEL, _r.fair_key == _LAST_KEY)
    .order_by(_r.scheduled_at)
    .limit(1)
    .with_for_update(skip_locked=True)
)
_IN_TIME = sa.or_(_r.expires_at.is_(None), _r.expires_at > as_of(0))
_IN_LINE = (_r.blocked_key == _BLOCKED, _r.status == "pending", _IN_TIME)
_HIGHEST_IN_LINE = sa.select(sa.func.max(_r.priority)).where(_r.blocked_key == _BLOCKED).scalar_subquery()
_NEXT_IN_LINE: Any = (
    sa.select(_r.id, _r.operation, _r.priority, _r.concurrency_key, _r.rate_key, _r.fair_key)
    .where(*_IN_LINE, _r.priority == _HIGHEST_IN_LINE, _r.fair_key > _LAST_KEY)
    .order_by(_r.fair_key, _r.id)
    .limit(1)
)


class FairTurns:
    """The last key of each queue and limit in this process."""

    def __init__(self) -> None:
        self._last_keys: OrderedDict[Hashable, str] = OrderedDict()
        self._lock = threading.Lock()

    def next_in_queue(
        self, connection: Connection, queue: str, paused: Collection[str], expire: Callable[[str], object]
    ) -> Row[Any] | None:
        """Return the next due run of a queue that this process knows, locked; None if there is none.

        Args:
            connection: In a transaction.
            queue: The name of the queue.
            paused: The names of the operations that start no run now.
            expire: Expires an overdue record by its id.
        """
        level = connection.execute(_HIGHEST, {"p_queue": queue}).scalar()
        for _ in range(MOST_LEVELS):
            if level is None:
                return None
            with self._lock:
                for row in self._rows(connection, queue, level, paused):
                    if row.is_expired:
                        expire(row.id)
                    elif row.is_due:
                        return row
            level = connection.execute(_LOWER, {"p_queue": queue, "p_level": level}).scalar()
        return None

    def _rows(self, connection: Connection, queue: str, level: int, paused: Collection[str]) -> Generator[Row[Any]]:
        """Yield the first run of each key of a priority, from the key after the last one."""
        scope = queue, level
        parameters = {"p_queue": queue, "p_level": level}
        last_key = self._last_keys.get(scope, "")
        has_wrapped = not last_key
        key = last_key
        for _ in range(MOST_KEYS):
            row = connection.execute(_NEXT, {**parameters, "p_key": key}).first()
            if row is None:
                if has_wrapped:
                    return
                has_wrapped, key = True, ""
                continue
            if has_wrapped and last_key and row.fair_key > last_key:
                return
            key = row.fair_key
            self._remember(scope, key)
            if row.operation in paused or not registry.is_known(row.operation):
                names = [name for name in registry.names() if name not in paused]
                known = _NEXT_OF_KEY.where(_r.operation.in_(names))
                row = connection.execute(known, {**parameters, "p_key": key}).first()
            if row is not None:
                yield row

    def next_in_line(self, connection: Connection, blocked_key: str) -> Row[Any] | None:
        """Return the next run that waits for a locked limit, of the highest priority; None if none has a fair key.

        Args:
            connection: A connection whose transaction holds the lock of the limit.
            blocked_key: The key of the limit in the records.
        """
        with self._lock:
            for last_key in dict.fromkeys((self._last_keys.get(blocked_key, ""), "")):
                parameters = {"p_blocked": blocked_key, "p_key": last_key}
                if (row := connection.execute(_NEXT_IN_LINE, parameters).first()) is not None:
                    self._remember(blocked_key, row.fair_key)
                    return row
        return None

    def _remember(self, scope: Hashable, key: str) -> None:
        self._last_keys[scope] = key
        self._last_keys.move_to_end(scope)
        if len(self._last_keys) > MOST_CURSORS:
            self._last_keys.popitem(last=False)
