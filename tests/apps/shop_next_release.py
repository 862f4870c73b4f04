"""The next release of the shop, with new operations."""

from __future__ import annotations

from apps.shop import *  # noqa: F403 - all that was there
from apps.shop import ShopOperation


class GreetInNextRelease(ShopOperation):
    """Unknown to workers of the release before."""

    number: int

    def perform(self) -> str:
        self.note(f"wave {self.number}")
        return f"wave {self.number}"


class GreetDirectlyInNextRelease(GreetInNextRelease):
    """The same without a record."""

    record = False
