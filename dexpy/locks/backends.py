"""The lock backends of a runtime."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy.engine import Connection

from dexpy.database.dialects import MARIADB, POSTGRESQL
from dexpy.database.dialects.base import Dialect
from dexpy.database.engine import Database
from dexpy.foundation.errors import ConfigurationError
from dexpy.locks.base import LockBackend, LockHandle
from dexpy.locks.mariadb import MariadbLocks
from dexpy.locks.postgresql import PostgresqlLocks
from dexpy.locks.redis import RedisLockBackend
from dexpy.locks.session_locks import LockDialect, SessionLockBackend
from dexpy.locks.sqlite import FileLockBackend

_DIALECTS: Mapping[Dialect, LockDialect] = {POSTGRESQL: PostgresqlLocks(), MARIADB: MariadbLocks()}


class Locks:
    """The lock backends, created on first use.

    Args:
        database: The database of the records.
        is_shared: Whether the processes of the application share the database.
        redis: Returns the client and the key prefix; None if the broker is not Redis.
    """

    def __init__(
        self, database: Database, *, is_shared: bool = True, redis: Callable[[], tuple[Any, str]] | None = None
    ) -> None:
        self._database = database
        self._redis = redis
        self._default = "redis" if redis is not None and not is_shared else "database" if is_shared else None
        self._backends: dict[str, LockBackend] = {}
        self._lock = threading.Lock()
        self.on_new_connection: Callable[[Connection], None] | None = None
        """In a worker: called with each connection that a lock uses."""

    def handle(self, key: str, backend: str | None = None) -> LockHandle:
        """Return the handle of a lock, which is not acquired yet.

        Args:
            key: 64 hexadecimal digits.
            backend: ``"database"`` or ``"redis"``; None for the default.

        Raises:
            ConfigurationError: The backend is not available.
        """
        return self._backend(backend).lock(self._own(key))

    def is_locked(self, key: str, backend: str | None = None) -> bool | None:
        """Return whether a lock is held now; None if only acquiring it would show that."""
        return self._backend(backend).is_locked(self._own(key))

    def _own(self, key: str) -> str:
        """Return the key, which differs from that of other installations in this database."""
        namespace = self._database.namespace
        return hashlib.sha256(f"{namespace}:{key}".encode()).hexdigest() if namespace else key

    def close(self) -> None:
        """Close this process's connections for locks."""
        for backend in self._backends.values():
            backend.close()

    def backend_name(self, backend: str | None) -> str:
        """Return the name of the backend.

        Raises:
            ConfigurationError: No backend is available.
        """
        name = backend or self._default
        if name is None:
            raise ConfigurationError(
                "Lock: no backend that all processes share; expected a database or Redis. "
                "Set a database: dexpy.configure(database=..., broker=...)."
            )
        if name == "redis" and self._redis is None:
            raise ConfigurationError(
                "Lock(backend='redis'): the broker is not Redis. "
                "Set dexpy.configure(broker='redis://...'), or omit backend."
            )
        return name

    def _backend(self, backend: str | None) -> LockBackend:
        name = self.backend_name(backend)
        with self._lock:
            lock_backend = self._backends.get(name)
            if lock_backend is None:
                lock_backend = self._backends[name] = self._create(name)
            return lock_backend

    def _create(self, name: str) -> LockBackend:
        if name == "redis":
            assert self._redis is not None  # noqa: S101 - checked by `backend_name`
            return RedisLockBackend(self._redis)
        if not self._database.dialect.has_server:
            return FileLockBackend(self._database.path)
        return SessionLockBackend(self._database, self._dialect(), lambda: self.on_new_connection)

    def _dialect(self) -> LockDialect:
        dialect = _DIALECTS.get(self._database.dialect)
        if dialect is None:
            kind = self._database.backend
            raise ConfigurationError(
                f"Lock: unsupported database {kind!r}; expected PostgreSQL, MariaDB, MySQL, SQLite or Redis."
            )
        return dialect
