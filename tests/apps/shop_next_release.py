"""The next release of the shop: what it had, and one class more."""

from __future__ import annotations

from apps.shop import *  # noqa: F403 - all that was there
from apps.shop import ShopOperation


class Wave(ShopOperation):
    """Not known to workers of the release before."""

    number: int

    def perform(self) -> str:
        self.note(f"wave {self.number}")
        return f"wave {self.number}"


class WaveDirectly(Wave):
    """The same with no record."""

    record = False
