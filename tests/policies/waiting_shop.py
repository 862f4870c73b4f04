"""The application of the tests of enqueues that wait for a key.

Usage: python waiting_shop.py NAME

sends one operation of that name, and says when it asks and what came of it.
"""

from __future__ import annotations

import sys
from typing import Any

from market import MarketOperation, furnish

from dexpy import Once, Unique

__all__ = ["Charge", "Named", "Reindex", "furnish", "send"]


class Charge(MarketOperation):
    """Once for each order."""

    order: int
    once = Once("order", wait=30)

    def perform(self) -> None:
        self.note(f"charge {self.order}")


class Reindex(MarketOperation):
    """One at a time for each shop."""

    shop: int
    unique = Unique("shop")

    def perform(self) -> None:
        self.note(f"reindex {self.shop}")


class Named(MarketOperation):
    """Has the caller's own name for it."""

    def perform(self) -> None:
        self.note("named")


def send(name: str, session: Any = None) -> Any:
    """Send the one operation of this name."""
    if name == "Charge":
        return Charge(order=1).async_(session=session).call()
    if name == "Reindex":
        return Reindex(shop=1).async_(session=session).call()
    return Named().async_(session=session, idempotence_token="the one").call()


if __name__ == "__main__":
    import waiting_shop

    print("asking", flush=True)
    ticket = waiting_shop.send(sys.argv[1])
    print("answer", ticket.duplicate, flush=True)
