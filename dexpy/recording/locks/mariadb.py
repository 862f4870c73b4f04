"""Locks on MariaDB and MySQL: `GET_LOCK`, handed on in the order of asking."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from dexpy.recording.codes import code_of

NEVER_ENDING = (1213, 3058)
"""What a wait ends with that would never have ended: two that want what the other has."""

# Of the whole server, hence with the database in its name; a name has 64 characters at most.
_NAME = sa.func.concat(
    "dexpy-", sa.func.left(sa.func.sha2(sa.func.concat(sa.func.database(), sa.bindparam("p_key")), 256), 58)
)
_TAKE = sa.select(sa.func.get_lock(_NAME, sa.bindparam("p_wait", type_=sa.Float)))
_GIVE_BACK = sa.select(sa.func.release_lock(_NAME))
_HOLDER = sa.func.is_used_lock(_NAME)
_MINE = sa.select(sa.func.connection_id() == _HOLDER)
_ANYBODYS = sa.select(_HOLDER.is_not(None))


class MariadbTongue:
    """See `Tongue`."""

    def take(self, connection: Connection, key: str, seconds: float) -> bool:
        """See `Tongue`."""
        try:
            return connection.execute(_TAKE, {"p_key": key, "p_wait": max(0.0, seconds)}).scalar() == 1
        except DBAPIError as error:
            if code_of(error) in NEVER_ENDING:
                return False
            raise

    def give_back(self, connection: Connection, key: str) -> bool:
        """See `Tongue`."""
        return connection.execute(_GIVE_BACK, {"p_key": key}).scalar() == 1

    def is_held(self, connection: Connection, key: str) -> bool:
        """See `Tongue`."""
        return bool(connection.execute(_MINE, {"p_key": key}).scalar())

    def is_taken(self, connection: Connection, key: str) -> bool:
        """See `Tongue`."""
        return bool(connection.execute(_ANYBODYS, {"p_key": key}).scalar())
