"""Batches of the shop: statements of customers, and the report that follows them."""

from __future__ import annotations

import time

from apps.models import Effect
from apps.shop import create_tables
from dexpy import Error, Operation, Retry, batches

__all__ = ["AddMore", "Fail", "Report", "Statement", "create_tables"]


class Statement(Operation, name="batches.statement"):
    """Note the statement of a customer, in some time."""

    customer: int
    takes_s: float = 0.0
    retry_on = (Retry(ConnectionError, attempts=3, wait=0),)

    def perform(self) -> int:
        time.sleep(self.takes_s)
        self.session.add(Effect(what=f"statement {self.customer}", run=self.run_id))
        return self.customer


class Fail(Operation, name="batches.fail"):
    """Fail until it is repaired; the table of effects has the repair."""

    customer: int

    def perform(self) -> int:
        if not self.session.query(Effect).filter_by(what=f"repair {self.customer}").count():
            raise Error("no_address", "The customer has no address.")
        return self.customer


class AddMore(Operation, name="batches.add_more"):
    """Add statements to its own batch, like a run that reads pages of customers."""

    customer: int
    count: int

    def perform(self) -> None:
        batch = batches.current()
        assert batch is not None
        batch.add_all(Statement(customer=self.customer + number) for number in range(1, self.count + 1))


class Report(Operation, name="batches.report"):
    """Note how many statements there were when it ran."""

    what: str

    def perform(self) -> int:
        batch = batches.ended()
        assert batch is not None
        num_ended = sum(number for status, number in batch.counts.items() if status not in ("pending", "running"))
        self.session.add(
            Effect(what=f"{self.what} {batch.status} {num_ended} of {batch.progress.total}", run=self.run_id)
        )
        return num_ended
