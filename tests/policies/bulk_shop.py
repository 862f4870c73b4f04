"""The application of the tests of `enqueue_all`.

Usage: python bulk_shop.py CONFORMANCE FOLDER POINT COUNT

sends so many at once, and dies, as by ``kill -9``, at a checkpoint; see ``conformance/deadly.py``.
"""

from __future__ import annotations

import sys

from market import MarketOperation, furnish

from dexpy import Once, enqueue_all

__all__ = ["Charge", "Mark", "furnish"]


class Mark(MarketOperation):
    """One effect for each."""

    number: int

    def perform(self) -> int:
        self.note(f"mark {self.number}")
        return self.number


class Charge(MarketOperation):
    """One effect for each order."""

    order: int
    once = Once("order")

    def perform(self) -> int:
        self.note(f"charge {self.order}")
        return self.order


if __name__ == "__main__":
    from pathlib import Path

    sys.path.insert(0, sys.argv[1])
    import bulk_shop
    from deadly import Deadly

    from dexpy.foundation import checkpoint

    checkpoint.reached = Deadly(Path(sys.argv[2]), sys.argv[3]).reach
    enqueue_all([bulk_shop.Mark(number=number) for number in range(int(sys.argv[4]))])
