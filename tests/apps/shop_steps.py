"""Operations with durable steps; they write lines to a table without a unique constraint.

Failpoints have an effect only in processes of ``die_at_failpoints``.
"""

from __future__ import annotations

import os
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dexpy import Operation
from dexpy.foundation.failpoints import failpoint

ROWS = 12


class Base(DeclarativeBase):
    pass


class Line(Base):
    """A line for each effect."""

    __tablename__ = "step_lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    what: Mapped[str] = mapped_column(sa.String(100))
    attempt: Mapped[str] = mapped_column(sa.String(100))


class Item(Base):
    """A row of a loop."""

    __tablename__ = "step_items"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    visits: Mapped[Any] = mapped_column(sa.Integer)


def create_tables(engine: sa.Engine) -> None:
    """Create the tables and items; the keys of the items have gaps."""
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(Item), [{"id": 7 * number, "visits": 0} for number in range(1, ROWS + 1)])


class ProcessOrder(Operation):
    """Two steps, a loop, and a step."""

    number: int
    max_lost = 10

    def perform(self) -> int:
        first = self.step(self.first)
        self.step(self.second, first)
        for item in self.each("items", sa.select(Item)):
            item.visits = Item.visits + 1
            self.note(f"item {item.id}")
            self.session.flush()
            failpoint(f"on_item_{item.id}")
        failpoint("before_last_step")
        return self.step(self.last, first)

    def note(self, what: str) -> None:
        self.session.add(Line(what=f"{self.number} {what}", attempt=str(os.getpid())))

    def first(self) -> int:
        self.note("first")
        self.session.flush()
        failpoint("in_first_step")
        return self.number + 1

    def second(self, first: int) -> None:
        self.note(f"second {first}")
        self.session.flush()
        failpoint("in_second_step")

    def last(self, first: int) -> int:
        self.note("last")
        return first * 10


class ProcessItems(Operation):
    """A long loop with a pause per item."""

    number: int
    steps_to_go: int
    pause_s: float = 0.05

    def perform(self) -> int:
        for item in self.each("items", range(self.steps_to_go)):
            failpoint(f"before_item_{item}")
            self.session.add(Line(what=f"{self.number} item {item}", attempt=str(os.getpid())))
            self.report_progress(item + 1, self.steps_to_go, f"item {item}")
            self.session.flush()
            failpoint(f"on_item_{item}")
            time.sleep(self.pause_s)
        return self.steps_to_go
