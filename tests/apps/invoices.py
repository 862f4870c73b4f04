"""The application of the database dumps of an earlier release, whose rows store the names of these operations."""

from __future__ import annotations

import os
import signal

import sqlalchemy as sa

from dexpy import Error, Once, Operation

metadata = sa.MetaData()

sent = sa.Table(
    "sent_invoices",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("run", sa.String(40), nullable=False),
)
"""Effects without a unique constraint, so that a duplicate run adds a second row."""


def create_tables(engine: sa.Engine) -> None:
    """Create the application's table."""
    metadata.create_all(engine)


class Send(Operation, name="invoices.send"):
    """Send one invoice."""

    number: int
    errors = {"no_customer"}

    def perform(self) -> int:
        if self.number == 0:
            raise Error("no_customer", "Invoice 0 has no customer")
        if self.number == 13 and "INVOICES_FAIL" in os.environ:
            raise ConnectionError("the mail server is away")
        self.session.execute(sa.insert(sent).values(number=self.number, run=self.run_id))
        return self.number


class SendOnce(Send, name="invoices.send_once"):
    """Send an invoice once per number."""

    once = Once("number")


class Collect(Operation, name="invoices.collect"):
    """Send an invoice after a durable step."""

    number: int

    def perform(self) -> int:
        total: int = self.step(self.total)
        if "INVOICES_DIE" in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        self.session.execute(sa.insert(sent).values(number=total, run=self.run_id))
        return total

    def total(self) -> int:
        return 100 + self.number


class CancelItself(Operation, name="invoices.cancel_itself"):
    """Request the cancellation of its own run."""

    def perform(self) -> None:
        from dexpy import Ticket

        Ticket.get(self.run_id).cancel()
        while True:
            self.check_cancelled()
