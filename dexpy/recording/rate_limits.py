"""Rate limits: the starts of the runs of a key, and the time at which the next one may start.

The starts of a key are numbered, and the start with the number n requires that the one with the number n - limit is
out of the window. So each claim looks up one earlier start, however many are in the window.
A start is written in the transaction that claims the record, under the lock of the key's row in `rates`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.database.column_types import after, as_of, seconds_parameter
from dexpy.database.deletes import PREFIX, by_key, delete_unlocked
from dexpy.database.dialects import dialect_of
from dexpy.database.tables import rate_starts, rates, records

BATCH = 1000

_s = rate_starts.c
_KEY: sa.BindParameter[str] = sa.bindparam("p_key", type_=_s.key.type)
_NUMBER: sa.BindParameter[int] = sa.bindparam("p_number", type_=sa.BigInteger)

_STATE = sa.select(rates.c.num_starts, rates.c.window_ms).where(rates.c.key == _KEY)
_LOCK = _STATE.with_for_update()
_LOCK_NOWAIT = _STATE.with_for_update(nowait=True)
_LAST_NUMBER = sa.select(sa.func.coalesce(sa.func.max(_s.number), 0)).where(_s.key == _KEY)
_START: Any = sa.select(_s.number, _s.started_at, as_of(0).label("now")).where(_s.key == _KEY, _s.number == _NUMBER)
_RECENT: Any = (
    sa.select(_s.number, _s.started_at, as_of(0).label("now"))
    .where(_s.key == _KEY, _s.number >= _NUMBER, _s.number <= _NUMBER + sa.bindparam("p_most", type_=sa.BigInteger))
    .order_by(_s.number)
)
# The started_at of the record itself, so that the promise holds for that column.
_INSERT = sa.insert(rate_starts).from_select(
    ["key", "number", "started_at", "expires_at"],
    sa.select(_KEY, _NUMBER, records.c.started_at, after(seconds_parameter("p_window_s"))).where(
        records.c.id == sa.bindparam("p_id", type_=records.c.id.type)
    ),
)
_UPDATE = (
    sa.update(rates)
    .where(rates.c.key == _KEY)
    .values(num_starts=_NUMBER, window_ms=sa.bindparam("p_window_ms", type_=sa.BigInteger))
)
_DELETE = sa.delete(rate_starts).where(_s.key == _KEY, _s.number == _NUMBER, _s.expires_at <= as_of(0))
_EXPIRED: Any = sa.select(_s.key, _s.number).where(_s.expires_at <= as_of(0)).limit(BATCH)


@attrs.frozen
class RateState:
    """The locked state of a key.

    Attributes:
        key: The rate key in the records.
        num_starts: The number of its last start.
        window_ms: The longest window of its starts so far, in milliseconds.
    """

    key: str
    num_starts: int
    window_ms: int


def lock_key(connection: Connection, key: str, *, waits: bool = True) -> RateState:
    """Lock a key until the end of the transaction, and return its state.

    Args:
        connection: A connection in a transaction that has locked no record yet.
        key: The rate key in the records.
        waits: Whether to wait for the lock; if not, a held lock raises the error of `error_codes.is_locked`.
    """
    dialect = dialect_of(connection)
    dialect.acquire_write_lock(connection)
    lock, parameters = _LOCK if waits else _LOCK_NOWAIT, {"p_key": key}
    while (row := connection.execute(lock, parameters).first()) is None:
        last_number = connection.execute(_LAST_NUMBER, parameters).scalar_one()
        insert = dialect.insert_or_ignore(rates).values(created_at=after(0))
        connection.execute(insert, {"key": key, "num_starts": last_number, "window_ms": 0})
    return RateState(key, row.num_starts, row.window_ms)


def wait_s(connection: Connection, state: RateState, limit: int, per_s: float) -> float:
    """Return the seconds until the next start of a key is allowed; 0 if it is now.

    Args:
        connection: A connection whose transaction holds the lock of the key.
        state: The state of the key.
        limit: The maximum number of starts in a window.
        per_s: The length of the window, in seconds.
    """
    row = connection.execute(_START, {"p_key": state.key, "p_number": state.num_starts + 1 - limit}).first()
    return 0.0 if row is None else _remaining_s(row, per_s)


def count_allowed(
    connection: Connection, state: RateState, limit: int, per_s: float, most: int
) -> tuple[int, float | None]:
    """Return how many starts of a key are allowed now, at most *most*, and the seconds until one more is.

    Args:
        connection: See `wait_s`.
        state: See `wait_s`.
        limit: See `wait_s`.
        per_s: See `wait_s`.
        most: The highest number to return.
    """
    first = state.num_starts + 1 - limit
    rows = connection.execute(_RECENT, {"p_key": state.key, "p_number": first, "p_most": most})
    for row in rows.all():
        if (remaining_s := _remaining_s(row, per_s)) > 0:
            return row.number - first, remaining_s
    return min(most, limit), 0.0 if most < limit else None


def _remaining_s(row: Row[Any], per_s: float) -> float:
    # An unreadable time is None: it blocks no start.
    if row.started_at is None:
        return 0.0
    remaining: timedelta = row.started_at + timedelta(seconds=per_s) - row.now
    return max(0.0, remaining.total_seconds())


def insert_start(connection: Connection, state: RateState, limit: int, per_s: float, record_id: str) -> None:
    """Store the start of a record that this transaction has claimed.

    Args:
        connection: See `wait_s`.
        state: See `wait_s`.
        limit: See `wait_s`.
        per_s: See `wait_s`.
        record_id: The id of the record.
    """
    number, window_ms = state.num_starts + 1, max(state.window_ms, round(per_s * 1000))
    parameters: dict[str, Any] = {"p_key": state.key, "p_number": number}
    # Classes of a group may have different windows: a start is kept for the longest one.
    connection.execute(_INSERT, {**parameters, "p_window_s": window_ms / 1000, "p_id": record_id})
    connection.execute(_UPDATE, {**parameters, "p_window_ms": window_ms})
    connection.execute(_DELETE, {"p_key": state.key, "p_number": number - limit})


def counts(key: str, per_s: float) -> Any:
    """Return the query for the number of starts of a key in the current window, and of the runs that wait."""
    started = sa.select(sa.func.count()).where(_s.key == key, _s.started_at > as_of(-per_s))
    blocked = sa.select(sa.func.count()).where(records.c.blocked_key == key)
    return sa.select(started.scalar_subquery().label("started"), blocked.scalar_subquery().label("blocked"))


def delete_expired(connection: Connection) -> int:
    """Delete a batch of the starts that are out of every window, and return how many."""
    dialect_of(connection).acquire_write_lock(connection)
    rows: Sequence[Row[Any]] = connection.execute(_EXPIRED.with_for_update(skip_locked=True)).all()
    if rows:
        keys = [{PREFIX + "key": row.key, PREFIX + "number": row.number} for row in rows]
        connection.execute(by_key(rate_starts), keys)
    return len(rows)


def delete_unused_keys(connection: Connection) -> int:
    """Delete the rows of keys without a start in a window; `lock_key` inserts them again."""
    return delete_unlocked(connection, rates, ~sa.exists().where(_s.key == rates.c.key))
