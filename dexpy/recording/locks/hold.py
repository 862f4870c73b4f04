"""A lock that one run waits for or holds, wherever it is kept."""

from __future__ import annotations

from typing import Protocol


class Hold(Protocol):
    """One lock of one run. A new one holds nothing; `release` ends it for good."""

    def wait(self, seconds: float) -> bool:
        """Wait for the lock.

        Args:
            seconds: At most so long; 0 tries once.

        Returns:
            Whether it is held now. Who did not get it may wait again.
        """
        ...

    def is_held(self) -> bool:
        """Whether the place that keeps the lock still says so."""
        ...

    def release(self) -> None:
        """Give the lock back, or stop waiting for it; raises nothing, and may be done twice."""


class Keeper(Protocol):
    """A place that keeps locks."""

    def hold(self, key: str) -> Hold:
        """A hold on a lock, not taken yet.

        Args:
            key: 64 hexadecimal digits.
        """
        ...

    def is_taken(self, key: str) -> bool | None:
        """Whether somebody holds a lock now; None where that cannot be asked without taking it."""

    def close(self) -> None:
        """Close what this process has open for it, and no run uses."""
