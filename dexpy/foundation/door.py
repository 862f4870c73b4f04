"""Doors from lower rooms to what only the top of the house knows: the runtime in force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Door(Generic[T]):
    """Gives the value in force; whoever keeps it opens the door once, at import."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._find: Callable[[], T] | None = None

    def open(self, find: Callable[[], T]) -> None:
        """Say where the value is found."""
        self._find = find

    def __call__(self) -> T:
        """The value in force."""
        if self._find is None:
            raise RuntimeError(f"nobody has opened the door to the {self._name}; import dexpy first")
        return self._find()


store_in_force: Door[Any] = Door("store")
"""The store of the runtime in force."""

encryptors_in_force: Door[Any] = Door("encryptors")
"""The encryptors of the runtime in force."""

dispatcher_in_force: Door[Any] = Door("dispatcher")
"""The dispatcher of the runtime in force."""
