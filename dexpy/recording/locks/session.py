"""Locks that belong to a database session: the server takes them back when the session ends, and not before.

Each hold has a connection of its own, from a pool of its own: a run that waits for a connection to work with
never waits for one that a lock keeps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from dexpy.foundation.errors import DatabaseUnavailable
from dexpy.recording.database import Database
from dexpy.recording.locks.hold import Hold


class Tongue(Protocol):
    """How one kind of server speaks of locks."""

    def take(self, connection: Connection, key: str, seconds: float) -> bool:
        """Wait for a lock; False if it was not to be had in time."""
        ...

    def give_back(self, connection: Connection, key: str) -> bool:
        """Give a lock back; False if the session did not hold it."""
        ...

    def is_held(self, connection: Connection, key: str) -> bool:
        """Whether this very session holds a lock."""
        ...

    def is_taken(self, connection: Connection, key: str) -> bool:
        """Whether any session holds a lock."""
        ...


class SessionKeeper:
    """Keeps locks on a database server.

    Args:
        database: Whose server it is; its pool is left alone.
        tongue: Of the server.
        watcher: Gives who is told of each connection that a lock uses, in a worker.
    """

    def __init__(
        self, database: Database, tongue: Tongue, watcher: Callable[[], Callable[[Connection], None] | None]
    ) -> None:
        self._database = Database(database.url)
        self._tongue = tongue
        self._watcher = watcher

    def connect(self) -> Connection:
        """A connection on which each statement is committed as it is done."""
        connection = self._database.connect()
        try:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            if (tell := self._watcher()) is not None:
                tell(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def hold(self, key: str) -> Hold:
        """See `Keeper`."""
        return SessionHold(self.connect, self._tongue, key)

    def is_taken(self, key: str) -> bool:
        """See `Keeper`."""
        connection = self.connect()
        try:
            return self._tongue.is_taken(connection, key)
        finally:
            connection.close()

    def close(self) -> None:
        """See `Keeper`."""
        self._database.dispose()


class SessionHold:
    """A lock of a database session.

    Args:
        connect: Opens the session.
        tongue: Of its server.
        key: Of the lock.
    """

    def __init__(self, connect: Callable[[], Connection], tongue: Tongue, key: str) -> None:
        self._connect = connect
        self._tongue = tongue
        self._key = key
        self._connection: Connection | None = None
        self._got = False

    def wait(self, seconds: float) -> bool:
        """See `Hold`."""
        if self._connection is None:
            self._connection = self._connect()
        try:
            self._got = self._tongue.take(self._connection, self._key, seconds)
        except BaseException:
            # Nobody knows whether the server has given the lock away: the session must not come back from the pool.
            self._discard()
            raise
        return self._got

    def is_held(self) -> bool:
        """See `Hold`."""
        if self._connection is None or not self._got:
            return False
        try:
            return self._tongue.is_held(self._connection, self._key)
        except (DBAPIError, DatabaseUnavailable):
            return False

    def release(self) -> None:
        """See `Hold`."""
        if self._connection is None:
            return
        try:
            if self._got and not self._tongue.give_back(self._connection, self._key):
                self._discard()
        except Exception:  # noqa: BLE001 - a session that cannot say so is ended, and its lock with it
            self._discard()
        except BaseException:
            self._discard()
            raise
        finally:
            self._close()

    def _discard(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.invalidate()
            self._close()

    def _close(self) -> None:
        connection, self._connection, self._got = self._connection, None, False
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()
