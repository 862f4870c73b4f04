"""The interfaces of locks and lock backends."""

from __future__ import annotations

from typing import Protocol


class LockHandle(Protocol):
    """One lock of one run, not acquired at first; it is not used again after `release`."""

    def wait(self, seconds: float) -> bool:
        """Wait for the lock.

        Args:
            seconds: How long to wait; 0 tries once.

        Returns:
            Whether it is held now. If not, `wait` may be called again.
        """
        ...

    def is_held(self) -> bool:
        """Return whether the backend still has the lock for this handle."""
        ...

    def release(self) -> None:
        """Release the lock, or stop waiting for it; raises nothing, and may be called twice."""


class LockBackend(Protocol):
    """A store of locks."""

    def lock(self, key: str) -> LockHandle:
        """Return the handle of a lock, not acquired yet.

        Args:
            key: 64 hexadecimal digits.
        """
        ...

    def is_locked(self, key: str) -> bool | None:
        """Return whether a lock is held now; None if that cannot be known without acquiring it."""

    def close(self) -> None:
        """Close the connections of this process that no run uses."""
