"""Operations of the shop for the tests of enqueues that wait for a key.

Usage: python shop_key_waits.py NAME

enqueues one operation of that name, and prints when it starts and the outcome.
"""

from __future__ import annotations

import sys
from typing import Any

from apps.shop import ShopOperation, create_tables
from dexpy import Once, Unique

__all__ = ["Charge", "Reindex", "ReindexWithToken", "create_tables", "send"]


class Charge(ShopOperation):
    """Has an idempotency key per order."""

    order: int
    once = Once("order", wait=30)

    def perform(self) -> None:
        self.note(f"charge {self.order}")


class Reindex(ShopOperation):
    """Has a unique key per shop."""

    shop: int
    unique = Unique("shop")

    def perform(self) -> None:
        self.note(f"reindex {self.shop}")


class ReindexWithToken(ShopOperation):
    """Is enqueued with a token."""

    def perform(self) -> None:
        self.note("named")


def send(name: str, session: Any = None) -> Any:
    """Send the one operation of this name."""
    if name == "Charge":
        return Charge(order=1).async_(session=session).call()
    if name == "Reindex":
        return Reindex(shop=1).async_(session=session).call()
    return ReindexWithToken().async_(session=session, idempotence_token="the one").call()


if __name__ == "__main__":
    from apps import shop_key_waits

    print("asking", flush=True)
    ticket = shop_key_waits.send(sys.argv[1])
    print("answer", ticket.duplicate, flush=True)
