"""The accounts application of the journey tests; the tests and their worker processes import it."""

from __future__ import annotations

import os
import time
from datetime import date, datetime
from decimal import Decimal
from enum import Enum

import attrs
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from apps.models import Customer, Effect, Model
from dexpy import Async, Error, Operation, OptRef, Recording, Ref, Refs, Retry, prop


class Order(Model):
    __tablename__ = "orders"

    shop: Mapped[str] = mapped_column(sa.String(50), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(sa.ForeignKey("customers.id"))


def create_tables(engine: sa.Engine) -> None:
    """Create the application's tables and a few rows."""
    Model.metadata.create_all(engine)
    with engine.begin() as connection:
        people = [{"id": 7, "name": "Ada"}, {"id": 8, "name": "Ben"}, {"id": 9, "name": "Cy"}]
        connection.execute(sa.insert(Customer), people)
        connection.execute(sa.insert(Order), [{"shop": "north", "number": 3, "customer_id": 7}])


class AccountsOperation(Operation):
    """The base of this application's operations."""

    def note(self, what: str) -> None:
        """Write an effect in the run's transaction."""
        self.session.add(Effect(what=what, run=self.run_id))


class SendWelcomeEmail(AccountsOperation):
    """Writes one effect and returns a text; the example of Dexkit's page."""

    user_id: int

    def perform(self) -> str:
        self.note(f"welcome {self.user_id}")
        return f"welcomed {self.user_id}"


class SendNewsletter(SendWelcomeEmail):
    """Sends the email on a queue of the class."""

    async_ = Async(queue="mailers")


class Color(Enum):
    RED = "red"
    GREEN = "green"


class EchoAll(AccountsOperation):
    """Takes a value of every type in Dexkit's table, and returns the values."""

    text: str
    whole: int
    broken: float
    flag: bool
    nothing: None
    color: Color
    moment: datetime
    day: date
    amount: Decimal
    table: dict[str, date]
    items: list[Decimal]
    plain: dict
    row: list

    def perform(self) -> dict[str, str]:
        names = "text whole broken flag nothing color moment day amount table items plain row".split()
        return {name: repr(getattr(self, name)) for name in names}


class GreetCustomer(AccountsOperation):
    """Has every kind of reference to rows."""

    customer: Ref[Customer]
    friend: OptRef[Customer] = None
    others: Refs[Customer] = prop(factory=list)
    order: OptRef[Order] = None

    def perform(self) -> list[str | None]:
        self.note(f"greet {self.customer.name}")
        return [
            f"{type(self.customer).__name__} {self.customer.name}",
            self.friend.name if self.friend is not None else None,
            ",".join(other.name for other in self.others),
            f"{self.order.shop}/{self.order.number}" if self.order is not None else None,
        ]


@attrs.frozen
class Attachment:
    name: str
    file: object


class Attach(AccountsOperation):
    """Has props without a JSON form."""

    payload: object = None
    items: list[Attachment] = prop(factory=list)
    table: dict = prop(factory=dict)

    def perform(self) -> None:
        self.note("attached")


class CountVisit(AccountsOperation):
    """A direct job: an operation without a record."""

    page: str
    record = False

    def perform(self) -> None:
        self.note(f"visit {self.page}")


class CountClick(AccountsOperation):
    """A direct job that stores a record without params at its end."""

    page: str
    record = Recording(params=False)

    def perform(self) -> str:
        self.note(f"click {self.page}")
        return self.page


class SendReport(AccountsOperation):
    """Waits for a file, if a path is passed, and then succeeds, fails or crashes."""

    user_id: int
    gate: str = ""
    ending: str = "done"
    errors = {"no_report"}

    def perform(self) -> str:
        self.note(f"report {self.user_id}")
        self.session.flush()
        while self.gate and not os.path.exists(self.gate):
            time.sleep(0.02)
        if self.ending == "error":
            raise Error("no_report", "Nothing to report", details={"user": self.user_id})
        if self.ending == "crash":
            raise ConnectionError(f"no line to {self.user_id}")
        return "sent"


class Flaky(AccountsOperation):
    """Fails a number of times; counts its attempts in a file, because each transaction is rolled back."""

    ledger: str
    failures: int = 2
    retry_on = (Retry(ConnectionError, attempts=3, wait=0.2),)

    def perform(self) -> int:
        with open(self.ledger, "a") as ledger:
            ledger.write(f"{self.run_id}\n")
        with open(self.ledger) as ledger:
            runs = len(ledger.readlines())
        if runs <= self.failures:
            raise ConnectionError(f"failed in run {runs}")
        return runs


class FlakyVisit(Flaky):
    """A direct job that fails a number of times."""

    record = False


class TimedVisit(AccountsOperation):
    """Sleeps, waits for a file if a path is passed, and returns when it started and ended."""

    number: int
    seconds: float
    gate: str = ""

    def perform(self) -> list[float]:
        began = time.time()
        time.sleep(self.seconds)
        while self.gate and not os.path.exists(self.gate):
            time.sleep(0.02)
        self.note(f"nap {self.number}")
        return [began, time.time()]


class SlowOrder(AccountsOperation):
    """Loads a row, sleeps and then writes, like an operation that calls an external service."""

    customer: Ref[Customer]
    seconds: float

    def perform(self) -> list[float]:
        began = time.time()
        time.sleep(self.seconds)
        self.note(f"beside {self.customer.name}")
        return [began, time.time()]


class Increment(AccountsOperation):
    """Writes one effect."""

    number: int

    def perform(self) -> None:
        self.note(f"increment {self.number}")


class Sum(AccountsOperation):
    """Enqueues other operations, and may fail afterwards."""

    numbers: list[int]
    fails: bool = False

    def perform(self) -> list[str]:
        tickets = [Increment(number=number).async_().call() for number in self.numbers]
        if self.fails:
            raise Error("not_today")
        return [ticket.id for ticket in tickets]


class SleepAsync(AccountsOperation):
    """Has an ``async def perform``."""

    question: str

    async def perform(self) -> str:
        import asyncio

        await asyncio.sleep(0.01)
        await self.in_session(lambda session: self.note_on(session))
        return self.question[::-1]

    def note_on(self, session: object) -> None:
        """Write an effect, in the thread of the run."""
        self.note(f"asked {self.question}")
