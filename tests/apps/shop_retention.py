"""Operations of the shop whose records are kept for different times."""

from __future__ import annotations

from apps.models import Effect
from apps.shop import create_tables
from dexpy import Operation, Recording

__all__ = ["Audit", "Scan", "Ship", "create_tables"]


class Scan(Operation, name="retention.scan"):
    """Is kept for an hour."""

    record = Recording(keep="1h")

    def perform(self) -> None: ...


class Audit(Operation, name="retention.audit"):
    """Is kept for ever."""

    record = Recording(keep="forever")

    def perform(self) -> None: ...


class Ship(Operation, name="retention.ship"):
    """Has the default of the settings."""

    number: int

    def perform(self) -> None:
        self.session.add(Effect(what=f"shipped {self.number}", run=self.run_id))
