"""Locks on Redis: a key that expires unless it is renewed.

Mutual exclusion is not guaranteed. A second run may start while the first one continues: after the process of the first
one was frozen or disconnected from Redis for longer than the lease, after a failover to a replica that had not received
the key, and after Redis lost the key by a restart or a flush. `is_held` detects most of these before the commit, not
all. Where that matters, use the locks of the database.

This is the lock of the Redis client: a key that is set if absent, and renewed and deleted only with its token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from dexpy.foundation.periodic import PeriodicTask, PeriodicThread

LEASE_S = 30.0
"""A key that is not renewed for this long, in seconds, expires: its process is dead, frozen or disconnected."""
RENEW_EVERY_S = LEASE_S / 4
POLL_S = 0.05
"""The pause between attempts to acquire a lock that another run holds, in seconds."""


class RedisLockBackend:
    """Stores locks in Redis.

    Args:
        connect: Returns the client and the key prefix.
    """

    def __init__(self, connect: Callable[[], tuple[Any, str]]) -> None:
        self._connect = connect

    def lock(self, key: str) -> RedisLockHandle:
        """See `LockBackend`."""
        return RedisLockHandle(self._lock(key))

    def is_locked(self, key: str) -> bool:
        """See `LockBackend`."""
        return bool(self._lock(key).locked())

    def close(self) -> None:
        """See `LockBackend`: the client is the broker's."""

    def _lock(self, key: str) -> Any:
        client, prefix = self._connect()
        # No thread-local storage: another thread may release the lock.
        return client.lock(f"{prefix}:dexpy.lock:{key}", timeout=LEASE_S, sleep=POLL_S, thread_local=False)


class RedisLockHandle:
    """A lock in Redis, renewed by its own thread while it is held.

    Args:
        lock: The lock of the Redis client.
    """

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self._renewer: PeriodicThread | None = None
        self._is_acquired = False

    def wait(self, seconds: float) -> bool:
        """See `LockHandle`."""
        self._is_acquired = bool(
            self._lock.acquire(blocking=seconds > 0, blocking_timeout=seconds if seconds > 0 else None)
        )
        if self._is_acquired:
            self._renewer = PeriodicTask("lock", RENEW_EVERY_S, self._renew, waits_first=True).start()
        return self._is_acquired

    def _renew(self) -> bool:
        # A failed renewal is retried; the end of the run reports a lost lock.
        with contextlib.suppress(Exception):
            self._lock.reacquire()
        return True

    def is_held(self) -> bool:
        """See `LockHandle`."""
        try:
            return self._is_acquired and bool(self._lock.owned())
        except Exception:  # noqa: BLE001 - whatever the error is, the lock is not known to be held
            return False

    def release(self) -> None:
        """See `LockHandle`."""
        if self._renewer is not None:
            self._renewer.stop()
        if self._is_acquired:
            self._is_acquired = False
            # A lock that is not released expires.
            with contextlib.suppress(Exception):
                self._lock.release()
