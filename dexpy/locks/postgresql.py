"""Locks on PostgreSQL by session advisory locks, acquired in the order of waiting."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from dexpy.database.error_codes import DEADLOCK, LOCKED, code_of

NOT_ACQUIRED = (*LOCKED, *DEADLOCK)
"""The error codes of a timeout and of a deadlock."""

_KEY: sa.BindParameter[int] = sa.bindparam("p_lock", type_=sa.BigInteger)
_TRY = sa.select(sa.func.pg_try_advisory_lock(_KEY))
# Columns are evaluated from left to right: the timeout is set before the wait, in one round trip.
_WAIT = sa.select(
    sa.func.set_config("lock_timeout", sa.bindparam("p_wait", type_=sa.Text), False), sa.func.pg_advisory_lock(_KEY)
)
_RELEASE = sa.select(sa.func.pg_advisory_unlock(_KEY))
_IS_HELD = sa.text(
    "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
    " AND pid = pg_backend_pid() AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND classid = CAST(:high AS bigint)::oid AND objid = CAST(:low AS bigint)::oid)"
)
_IS_LOCKED = sa.text(str(_IS_HELD).replace(" AND pid = pg_backend_pid()", ""))


class PostgresqlLocks:
    """See `LockDialect`."""

    def acquire(self, connection: Connection, key: str, seconds: float) -> bool:
        """See `LockDialect`."""
        lock = {"p_lock": number_of(key)}
        if connection.execute(_TRY, lock).scalar():
            return True
        if seconds <= 0:
            return False
        try:
            # 0 would mean no timeout.
            connection.execute(_WAIT, {**lock, "p_wait": f"{max(1, round(seconds * 1000))}ms"})
        except DBAPIError as error:
            if code_of(error) in NOT_ACQUIRED:
                return False
            raise
        return True

    def release(self, connection: Connection, key: str) -> bool:
        """See `LockDialect`."""
        return bool(connection.execute(_RELEASE, {"p_lock": number_of(key)}).scalar())

    def is_held(self, connection: Connection, key: str) -> bool:
        """See `LockDialect`."""
        return bool(connection.execute(_IS_HELD, halves_of(key)).scalar())

    def is_locked(self, connection: Connection, key: str) -> bool:
        """See `LockDialect`."""
        return bool(connection.execute(_IS_LOCKED, halves_of(key)).scalar())


def number_of(key: str) -> int:
    """Return the number of a lock, a signed integer of eight bytes.

    Example:
        >>> number_of("ff" * 32), number_of("00" * 7 + "2a" + "ff" * 24)
        (-1, 42)
    """
    return int.from_bytes(bytes.fromhex(key[:16]), "big", signed=True)


def halves_of(key: str) -> dict[str, int]:
    """Return the two halves of a lock's number, as in ``pg_locks``."""
    return {"high": int(key[:8], 16), "low": int(key[8:16], 16)}
