"""Where the locks of a runtime are kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import Connection

from dexpy.foundation.errors import ConfigurationError
from dexpy.recording.database import Database
from dexpy.recording.locks.hold import Hold, Keeper


class Locks:
    """The places for locks: made when they are first needed.

    Args:
        database: Of the records.
        is_shared: Whether the processes of the application share it.
        redis: Gives the client and the prefix of keys; None where the broker is no Redis.
    """

    def __init__(
        self, database: Database, *, is_shared: bool = True, redis: Callable[[], tuple[Any, str]] | None = None
    ) -> None:
        self._database = database
        self._redis = redis
        self._usual = "redis" if redis is not None and not is_shared else "database" if is_shared else None
        self._keepers: dict[str, Keeper] = {}
        self._lock = threading.Lock()
        self.watcher: Callable[[Connection], None] | None = None
        """Told of each connection that a lock uses, in a worker."""

    def hold(self, key: str, backend: str | None = None) -> Hold:
        """A hold on a lock, not taken yet.

        Args:
            key: 64 hexadecimal digits.
            backend: ``"database"`` or ``"redis"``; the usual one when None.

        Raises:
            ConfigurationError: There is no such place.
        """
        return self._keeper(backend).hold(key)

    def is_taken(self, key: str, backend: str | None = None) -> bool | None:
        """Whether somebody holds a lock now; None where that cannot be asked without taking it."""
        return self._keeper(backend).is_taken(key)

    def close(self) -> None:
        """Close what this process has open for locks."""
        for keeper in self._keepers.values():
            keeper.close()

    def place(self, backend: str | None) -> str:
        """The name of the place.

        Raises:
            ConfigurationError: There is none.
        """
        wanted = backend or self._usual
        if wanted is None:
            raise ConfigurationError(
                "A lock needs a place that all processes share, and there is neither a database nor Redis. "
                "Name a database: dexpy.configure(database=..., broker=...)."
            )
        if wanted == "redis" and self._redis is None:
            raise ConfigurationError(
                "Lock(backend='redis') needs a broker on Redis, which the lock shares. "
                "Name one, dexpy.configure(broker='redis://...'), or leave backend out."
            )
        return wanted

    def _keeper(self, backend: str | None) -> Keeper:
        wanted = self.place(backend)
        with self._lock:
            found = self._keepers.get(wanted)
            if found is None:
                found = self._keepers[wanted] = self._make(wanted)
            return found

    def _make(self, wanted: str) -> Keeper:
        if wanted == "redis":
            from dexpy.recording.locks.redis import RedisKeeper

            assert self._redis is not None  # noqa: S101 - `place` has looked
            return RedisKeeper(self._redis)
        if self._database.is_sqlite:
            from dexpy.recording.locks.sqlite import FileKeeper

            return FileKeeper(self._database.path)
        from dexpy.recording.locks.session import SessionKeeper

        return SessionKeeper(self._database, self._tongue(), lambda: self.watcher)

    def _tongue(self) -> Any:
        kind = self._database.url.get_backend_name()
        if kind == "postgresql":
            from dexpy.recording.locks.postgresql import PostgresTongue

            return PostgresTongue()
        if kind in ("mysql", "mariadb"):
            from dexpy.recording.locks.mariadb import MariadbTongue

            return MariadbTongue()
        raise ConfigurationError(f"dexpy knows no locks on {kind}. It knows PostgreSQL, MariaDB, SQLite and Redis.")
