"""The fate of a transaction: what became of the one that a record was stored in."""

from __future__ import annotations

import attrs
from sqlalchemy.engine import Transaction


@attrs.define
class Fate:
    """What became of the transaction that a record was stored in."""

    open: bool = False
    rolled_back: bool = False
    transaction: Transaction | None = None

    @property
    def is_open(self) -> bool:
        """Whether it goes on; a connection's says only that, and nothing of how it ended."""
        return self.open or (self.transaction is not None and self.transaction.is_active)

    def commit(self) -> None:
        """It was committed."""
        self.open = False

    def roll_back(self) -> None:
        """It was rolled back."""
        self.open = False
        self.rolled_back = True
