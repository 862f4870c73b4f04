"""The dispatcher of the current runtime, and the types of the operations that it enqueues."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dexpy.foundation.services import Provider

if TYPE_CHECKING:
    from dexpy.enqueue.dispatcher import Dispatcher

R_co = TypeVar("R_co", covariant=True)


class Performs(Protocol[R_co]):
    """An operation with a plain `perform`."""

    def perform(self) -> R_co:
        """Do the work."""
        ...


class PerformsAsync(Protocol[R_co]):
    """An operation with an ``async def perform``."""

    def perform(self) -> Coroutine[Any, Any, R_co]:
        """Do the work."""
        ...


current_dispatcher: Provider[Dispatcher] = Provider("dispatcher")
"""The dispatcher of the current runtime."""
