"""The next release of the shop, with new operations."""

from __future__ import annotations

from apps.shop import *  # noqa: F403 - all that was there
from apps.shop import ShopOperation


class GreetInNextRelease(ShopOperation):
    """An operation that workers of the previous release do not know."""

    number: int

    def perform(self) -> str:
        self.note(f"wave {self.number}")
        return f"wave {self.number}"


class GreetDirectlyInNextRelease(GreetInNextRelease):
    """A direct job that workers of the previous release do not know."""

    record = False
