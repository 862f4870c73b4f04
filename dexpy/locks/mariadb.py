"""Locks on MariaDB and MySQL by `GET_LOCK`, acquired in the order of waiting."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from dexpy.database.error_codes import code_of

DEADLOCK_CODES = (1213, 3058)
"""The error codes of a deadlock."""

# Names are global on the server, so they contain the database, and have at most 64 characters.
_NAME = sa.func.concat(
    "dexpy-", sa.func.left(sa.func.sha2(sa.func.concat(sa.func.database(), sa.bindparam("p_key")), 256), 58)
)
_ACQUIRE = sa.select(sa.func.get_lock(_NAME, sa.bindparam("p_wait", type_=sa.Float)))
_RELEASE = sa.select(sa.func.release_lock(_NAME))
_HOLDER = sa.func.is_used_lock(_NAME)
_IS_HELD = sa.select(sa.func.connection_id() == _HOLDER)
_IS_LOCKED = sa.select(_HOLDER.is_not(None))


class MariadbLocks:
    """See `LockDialect`."""

    def acquire(self, connection: Connection, key: str, seconds: float) -> bool:
        """See `LockDialect`."""
        try:
            return connection.execute(_ACQUIRE, {"p_key": key, "p_wait": max(0.0, seconds)}).scalar() == 1
        except DBAPIError as error:
            if code_of(error) in DEADLOCK_CODES:
                return False
            raise

    def release(self, connection: Connection, key: str) -> bool:
        """See `LockDialect`."""
        return connection.execute(_RELEASE, {"p_key": key}).scalar() == 1

    def is_held(self, connection: Connection, key: str) -> bool:
        """See `LockDialect`."""
        return bool(connection.execute(_IS_HELD, {"p_key": key}).scalar())

    def is_locked(self, connection: Connection, key: str) -> bool:
        """See `LockDialect`."""
        return bool(connection.execute(_IS_LOCKED, {"p_key": key}).scalar())
