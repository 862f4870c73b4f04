"""Typed access to the services of the current runtime, for packages that must not import it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NoReturn, TypeVar

T = TypeVar("T")


class Provider(Generic[T]):
    """Provide a service of the current runtime; `dexpy.runtime` sets `get` at import.

    Args:
        name: The name of the service, for the error.

    Attributes:
        get: A function that returns the current service; it raises RuntimeError if `dexpy.runtime` is not imported.

    Example:
        >>> current_limit: Provider[int] = Provider("limit")
        >>> current_limit.get = lambda: 3
        >>> current_limit.get()
        3
    """

    def __init__(self, name: str) -> None:
        def missing() -> NoReturn:
            raise RuntimeError(f"{name}: no runtime is configured. Import dexpy first.")

        self.get: Callable[[], T] = missing
