"""Locks of a database session, which the server releases when the session ends.

Each handle has its own connection, from a separate pool, so that locks do not exhaust the connections of runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from dexpy.database.engine import Database
from dexpy.foundation.errors import DatabaseUnavailable
from dexpy.locks.base import LockHandle


class LockDialect(Protocol):
    """The lock statements of one kind of server."""

    def acquire(self, connection: Connection, key: str, seconds: float) -> bool:
        """Wait for a lock; return False after a timeout."""
        ...

    def release(self, connection: Connection, key: str) -> bool:
        """Release a lock; return False if the session does not hold it."""
        ...

    def is_held(self, connection: Connection, key: str) -> bool:
        """Return whether this session holds a lock."""
        ...

    def is_locked(self, connection: Connection, key: str) -> bool:
        """Return whether any session holds a lock."""
        ...


class SessionLockBackend:
    """Stores locks on a database server.

    Args:
        database: The database on the server; its pool is not used.
        dialect: The lock statements of the server.
        find_listener: Returns a function that is called in a worker with each connection that a lock uses.
    """

    def __init__(
        self, database: Database, dialect: LockDialect, find_listener: Callable[[], Callable[[Connection], None] | None]
    ) -> None:
        self._database = Database(database.url, schema=database.schema)
        self._dialect = dialect
        self._find_listener = find_listener

    def connect(self) -> Connection:
        """Open a connection in autocommit mode."""
        connection = self._database.connect()
        try:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            if (listener := self._find_listener()) is not None:
                listener(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def lock(self, key: str) -> LockHandle:
        """See `LockBackend`."""
        return SessionLockHandle(self.connect, self._dialect, key)

    def is_locked(self, key: str) -> bool:
        """See `LockBackend`."""
        connection = self.connect()
        try:
            return self._dialect.is_locked(connection, key)
        finally:
            connection.close()

    def close(self) -> None:
        """See `LockBackend`."""
        self._database.dispose()


class SessionLockHandle:
    """A lock of a database session.

    Args:
        connect: Opens the session.
        dialect: The lock statements of its server.
        key: The key of the lock.
    """

    def __init__(self, connect: Callable[[], Connection], dialect: LockDialect, key: str) -> None:
        self._connect = connect
        self._dialect = dialect
        self._key = key
        self._connection: Connection | None = None
        self._is_acquired = False

    def wait(self, seconds: float) -> bool:
        """See `LockHandle`."""
        if self._connection is None:
            self._connection = self._connect()
        try:
            self._is_acquired = self._dialect.acquire(self._connection, self._key, seconds)
        except BaseException:
            # The session may hold the lock, so its connection must not return to the pool.
            self._discard()
            raise
        return self._is_acquired

    def is_held(self) -> bool:
        """See `LockHandle`."""
        if self._connection is None or not self._is_acquired:
            return False
        try:
            return self._dialect.is_held(self._connection, self._key)
        except (DBAPIError, DatabaseUnavailable):
            return False

    def release(self) -> None:
        """See `LockHandle`."""
        if self._connection is None:
            return
        try:
            if self._is_acquired and not self._dialect.release(self._connection, self._key):
                self._discard()
        except Exception:  # noqa: BLE001 - ending the session releases the lock
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
        connection, self._connection, self._is_acquired = self._connection, None, False
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()
