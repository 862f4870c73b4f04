"""The interfaces of locks and lock backends."""

from __future__ import annotations

from typing import Protocol


class LockHandle(Protocol):
    """One lock of one run, which `wait` acquires; not used again after `release`."""

    def wait(self, seconds: float) -> bool:
        """Wait for the lock.

        Args:
            seconds: How long to wait; 0 to try once.

        Returns:
            Whether the lock is held now. If not, `wait` may be called again.
        """
        ...

    def is_held(self) -> bool:
        """Return whether this handle still holds the lock in the backend."""
        ...

    def release(self) -> None:
        """Release the lock, or stop waiting for it; idempotent, and raises nothing."""


class LockBackend(Protocol):
    """A store of locks."""

    def lock(self, key: str) -> LockHandle:
        """Return the handle of a lock, which is not acquired yet.

        Args:
            key: 64 hexadecimal digits.
        """
        ...

    def is_locked(self, key: str) -> bool | None:
        """Return whether a lock is held now; None if only acquiring it would show that."""

    def close(self) -> None:
        """Close the unused connections of this process."""
