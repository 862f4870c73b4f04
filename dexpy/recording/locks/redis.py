"""Locks on Redis: a key that expires unless it is renewed.

This is the Redis client's own lock: set if absent, with a token, renewed and deleted only by whoever has the token.
It does not exclude for certain. A process that was frozen for longer than the lease, or a Redis that failed over to a
replica, may let a second run in while the first one goes on.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

LEASE_S = 30.0
"""A key that nobody renews for so long, in seconds, is free: its process is dead, frozen or cut off."""
RENEW_EVERY_S = LEASE_S / 4
POLL_S = 0.05
"""How often a lock that another run holds is tried again, in seconds."""


class RedisKeeper:
    """Keeps locks on Redis.

    Args:
        connect: Gives the client, and the prefix of keys.
    """

    def __init__(self, connect: Callable[[], tuple[Any, str]]) -> None:
        self._connect = connect

    def hold(self, key: str) -> RedisHold:
        """See `Keeper`."""
        return RedisHold(self._lock(key))

    def is_taken(self, key: str) -> bool:
        """See `Keeper`."""
        return bool(self._lock(key).locked())

    def close(self) -> None:
        """See `Keeper`: the client is the broker's."""

    def _lock(self, key: str) -> Any:
        client, prefix = self._connect()
        # Given back by another thread than the one that took it, perhaps: not in thread-local storage.
        return client.lock(f"{prefix}:dexpy.lock:{key}", timeout=LEASE_S, sleep=POLL_S, thread_local=False)


class RedisHold:
    """A lock on Redis, renewed by a thread of its own while it is held.

    Args:
        lock: The client's.
    """

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self._over = threading.Event()
        self._got = False

    def wait(self, seconds: float) -> bool:
        """See `Hold`."""
        self._got = bool(self._lock.acquire(blocking=seconds > 0, blocking_timeout=seconds if seconds > 0 else None))
        if self._got:
            threading.Thread(target=self._renew, name="dexpy-lock", daemon=True).start()
        return self._got

    def _renew(self) -> None:
        while not self._over.wait(RENEW_EVERY_S):
            # One that failed is tried again; a lock that is lost is told at the end of the run.
            with contextlib.suppress(Exception):
                self._lock.reacquire()

    def is_held(self) -> bool:
        """See `Hold`."""
        try:
            return self._got and bool(self._lock.owned())
        except Exception:  # noqa: BLE001 - whatever the client says: nobody can tell that it is held
            return False

    def release(self) -> None:
        """See `Hold`."""
        self._over.set()
        if self._got:
            self._got = False
            # What cannot be given back expires.
            with contextlib.suppress(Exception):
                self._lock.release()
