"""Locks on PostgreSQL: session advisory locks, handed on in the order of asking."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from dexpy.recording.codes import DEADLOCK, LOCKED, code_of

NOT_IN_TIME = (*LOCKED, *DEADLOCK)
"""A wait that was over, and one that would never have ended: two that want what the other has."""

_KEY: sa.BindParameter[int] = sa.bindparam("p_lock", type_=sa.BigInteger)
_TRY = sa.select(sa.func.pg_try_advisory_lock(_KEY))
# The time is set before it is waited, from left to right, in one way to the server.
_WAIT = sa.select(
    sa.func.set_config("lock_timeout", sa.bindparam("p_wait", type_=sa.Text), False), sa.func.pg_advisory_lock(_KEY)
)
_GIVE_BACK = sa.select(sa.func.pg_advisory_unlock(_KEY))
_MINE = sa.text(
    "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
    " AND pid = pg_backend_pid() AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND classid = CAST(:high AS bigint)::oid AND objid = CAST(:low AS bigint)::oid)"
)
_ANYBODYS = sa.text(str(_MINE).replace(" AND pid = pg_backend_pid()", ""))


class PostgresTongue:
    """See `Tongue`."""

    def take(self, connection: Connection, key: str, seconds: float) -> bool:
        """See `Tongue`."""
        lock = {"p_lock": number_of(key)}
        if connection.execute(_TRY, lock).scalar():
            return True
        if seconds <= 0:
            return False
        try:
            # 0 would be no limit at all.
            connection.execute(_WAIT, {**lock, "p_wait": f"{max(1, round(seconds * 1000))}ms"})
        except DBAPIError as error:
            if code_of(error) in NOT_IN_TIME:
                return False
            raise
        return True

    def give_back(self, connection: Connection, key: str) -> bool:
        """See `Tongue`."""
        return bool(connection.execute(_GIVE_BACK, {"p_lock": number_of(key)}).scalar())

    def is_held(self, connection: Connection, key: str) -> bool:
        """See `Tongue`."""
        return bool(connection.execute(_MINE, halves_of(key)).scalar())

    def is_taken(self, connection: Connection, key: str) -> bool:
        """See `Tongue`."""
        return bool(connection.execute(_ANYBODYS, halves_of(key)).scalar())


def number_of(key: str) -> int:
    """A lock's number, as PostgreSQL wants it: eight bytes with a sign.

    Example:
        >>> number_of("ff" * 32), number_of("00" * 7 + "2a" + "ff" * 24)
        (-1, 42)
    """
    return int.from_bytes(bytes.fromhex(key[:16]), "big", signed=True)


def halves_of(key: str) -> dict[str, int]:
    """The same number as its list of locks has it."""
    return {"high": int(key[:8], 16), "low": int(key[8:16], 16)}
