"""The operations of ``dexpy demo``: small operations of an imaginary bank, one for each kind of outcome.

They are in a module of their own because a worker finds an operation by importing the module that declares it.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dexpy import Error, Operation, Ref, Retry, prop, records


class Model(DeclarativeBase):
    """The demo's own tables, in the same file as the records."""


class Customer(Model):
    """A customer with a balance."""

    __tablename__ = "demo_customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    balance: Mapped[int]


class Visit(Model):
    """The effect of a run without a record."""

    __tablename__ = "demo_visits"
    id: Mapped[int] = mapped_column(primary_key=True)
    page: Mapped[str]


class SendStatement(Operation):
    """Write a customer's statement: the reference is stored as a key and is the row itself in `perform`."""

    customer: Ref[Customer]

    def perform(self) -> str:
        """Return the statement."""
        return f"{self.customer.name} has {self.customer.balance}"


class Withdraw(Operation):
    """Withdraw money from an account; a balance that is too small is a declared business error."""

    customer: Ref[Customer]
    amount: int = prop(gt=0)

    errors = {"no_balance": "The balance is too small"}

    def perform(self) -> int:
        """Return the new balance."""
        if self.amount > self.customer.balance:
            raise Error("no_balance", details={"missing": self.amount - self.customer.balance})
        self.customer.balance -= self.amount
        return self.customer.balance


class FetchRate(Operation):
    """Call a service that fails the first time: the attempt crashes, and a rule retries it."""

    currency: str

    retry_on = (Retry(ConnectionError, attempts=3, wait=0.5),)

    def perform(self) -> Decimal:
        """Return the exchange rate."""
        if records.get(self.run_id).num_attempts == 1:
            raise ConnectionError("the service did not answer")
        return Decimal("1.0842")


class Remind(Operation):
    """Remind a customer later: until it is due, the record waits and occupies no worker."""

    customer: Ref[Customer]

    def perform(self) -> str:
        """Return the reminder."""
        return f"reminded {self.customer.name}"


class CheckAddress(Operation):
    """Await something: an ``async def perform`` runs on an event loop of the worker."""

    street: str

    async def perform(self) -> bool:
        """Return whether the address is good."""
        await asyncio.sleep(0.2)
        return self.street.endswith("Street")


class CountVisit(Operation):
    """Insert a row; without a record, the message carries the props."""

    page: str

    record = False

    def perform(self) -> None:
        """Count it."""
        self.session.add(Visit(page=self.page))
