"""Recurring tasks of the shop, with ticks every second."""

from __future__ import annotations

from datetime import datetime

from apps.models import Effect
from apps.shop import create_tables
from dexpy import Every, Operation, Recurring, deferrable

__all__ = ["CountStock", "Restock", "create_tables", "write_report"]

GRACE_S = 60.0
"""Longer than the workers are killed or frozen: a late tick runs, so that none is missed."""


class CountStock(Operation, name="recurring.count_stock"):
    """Note each tick in the transaction of its run."""

    schedule = Recurring(Every("second"), key="count_stock", grace=GRACE_S, max_waiting=None)

    def perform(self) -> None:
        what = "by hand" if self.scheduled_for is None else f"tick {self.scheduled_for:%H:%M:%S}"
        self.session.add(Effect(what=what, run=self.run_id))


class Restock(Operation, name="recurring.restock"):
    """Is scheduled at run time by tests."""

    shop: int

    def perform(self) -> datetime | None:
        return self.scheduled_for


@deferrable(
    name="recurring.write_report",
    schedule=Recurring(Every("second"), key="write_report", grace=GRACE_S, max_waiting=None),
)
def write_report(kind: str = "short") -> str:
    """A deferred function with a schedule."""
    return kind
