"""Operations of the shop for the tests of `enqueue_all`.

Usage: python shop_batches.py FOLDER POINT COUNT

This enqueues COUNT operations in one batch, and kills the process at a failpoint; see ``harness/die_at_failpoints.py``.
"""

from __future__ import annotations

import sys

from apps.shop import ShopOperation, create_tables
from dexpy import Once, enqueue_all

__all__ = ["Charge", "Mark", "create_tables"]


class Mark(ShopOperation):
    """Writes one effect per run."""

    number: int

    def perform(self) -> int:
        self.note(f"mark {self.number}")
        return self.number


class Charge(ShopOperation):
    """Writes one effect per order."""

    order: int
    once = Once("order")

    def perform(self) -> int:
        self.note(f"charge {self.order}")
        return self.order


if __name__ == "__main__":
    from pathlib import Path

    from harness.die_at_failpoints import FailpointActions

    from apps import shop_batches
    from dexpy.foundation import failpoints

    failpoints.reached = FailpointActions(Path(sys.argv[1]), sys.argv[2]).reach
    enqueue_all([shop_batches.Mark(number=number) for number in range(int(sys.argv[3]))])
