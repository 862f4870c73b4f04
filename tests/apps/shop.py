"""The shop application of the conformance suite, for every database and broker.

Each effect is a row in `effects`, which has no unique constraint, so that a duplicate run adds a second row.
"""

from __future__ import annotations

import dataclasses
import time
from datetime import date, datetime, timedelta
from datetime import time as clock_time
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Literal, TypedDict
from uuid import UUID

import attrs
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

import dexpy
from apps.models import Customer, Effect, Model
from dexpy import Async, Error, Operation, OptRef, Recording, Ref, Refs, Retry, prop


class Package(Model):
    """A row whose primary key has two columns, one of them text."""

    __tablename__ = "packages"

    town: Mapped[str] = mapped_column(sa.String(50), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)


class Device(Model):
    __tablename__ = "devices"

    id: Mapped[UUID] = mapped_column(primary_key=True)


def create_tables(engine: sa.Engine) -> None:
    """Create the application's tables and a few rows."""
    Model.metadata.create_all(engine)
    with engine.begin() as connection:
        people = [{"id": number, "name": name} for number, name in ((1, "Ada"), (2, "Ben"), (3, "Cy"))]
        connection.execute(sa.insert(Customer), people)
        connection.execute(sa.insert(Package), [{"town": "Ulm", "number": 3}])
        connection.execute(sa.insert(Device), [{"id": UUID(int=7)}])


class ShopOperation(Operation):
    """The base of this application's operations."""

    def note(self, what: str) -> None:
        """Write an effect in the run's transaction."""
        self.session.add(Effect(what=what, run=self.run_id))


class Greet(ShopOperation):
    name: str
    errors = {"no_name"}

    def perform(self) -> str:
        if not self.name:
            raise Error("no_name", "No name to greet", details={"asked": 1})
        self.note(f"greet {self.name}")
        return f"hello {self.name}"


class GreetLoudly(Greet):
    """Greets on a queue of the class."""

    async_ = Async(queue="loud")


class FlakyGreeting(ShopOperation):
    """Fails a number of times; counts its attempts in a file, because each transaction is rolled back."""

    ledger: str
    failures: int
    retry_on = (Retry(ConnectionError, attempts=3, wait=0.2),)

    def perform(self) -> int:
        self.note("stumble")
        with open(self.ledger, "a") as ledger:
            ledger.write(f"{self.run_id}\n")
        with open(self.ledger) as ledger:
            runs = len(ledger.readlines())
        if runs <= self.failures:
            raise ConnectionError(f"failed in run {runs}")
        return runs


class FlakyDirectGreeting(FlakyGreeting):
    """A direct job that fails a number of times."""

    record = False


class DirectVisit(ShopOperation):
    """A direct job without a record."""

    page: str
    record = False

    def perform(self) -> None:
        self.note(f"visit {self.page}")


class RecordedClick(ShopOperation):
    """A direct job that stores a record at its end."""

    page: str
    record = Recording(params=False)

    def perform(self) -> str:
        self.note(f"click {self.page}")
        return self.page


class Count(ShopOperation):
    """Writes one effect after an optional delay."""

    number: int
    seconds: float = 0.0

    def perform(self) -> None:
        time.sleep(self.seconds)
        self.note(f"count {self.number}")


class DirectCount(Count):
    """The same without a record, in at most two minutes."""

    record = False
    timeout = 120


class LoseClaim(ShopOperation):
    """Moves its claim to another worker, as a recovery does, and then writes an effect."""

    def perform(self) -> None:
        other = "(SELECT max(id) FROM operation_workers WHERE id <> claimed_by)"
        statement = sa.text(
            f"UPDATE operation_records SET claim_token = claim_token + 1, claimed_by = {other} WHERE id = :id"
        )
        with dexpy.current_runtime().store.begin() as connection:
            connection.execute(statement, {"id": self.run_id})
        self.note("effect of a lost claim")


class ReadIsolationLevel(ShopOperation):
    """Returns the isolation level of the run's transaction."""

    def perform(self) -> str:
        return str(self.session.connection().get_isolation_level())


class Deliver(ShopOperation):
    """Has every kind of reference, and returns the loaded rows."""

    customer: Ref[Customer]
    other: OptRef[Customer] = None
    friends: Refs[Customer] = prop(factory=list)
    package: OptRef[Package] = None
    device: OptRef[Device] = None

    def perform(self) -> list[str]:
        assert all(isinstance(row, Customer) for row in (self.customer, *self.friends))
        return [
            self.customer.name,
            str(self.other),
            ",".join(friend.name for friend in self.friends),
            f"{self.package.town}/{self.package.number}" if self.package else "",
            str(self.device.id) if self.device else "",
        ]


class Color(Enum):
    RED = "red"
    BLUE = 2


@attrs.frozen
class Point:
    x: int
    y: Decimal


@dataclasses.dataclass(frozen=True)
class Label:
    text: str
    since: date | None = None


class Address(TypedDict):
    street: str
    floor: int


@attrs.frozen
class Everything:
    """Fields of every type that props and results may have."""

    text: str
    whole: int
    broken: float
    flag: bool
    nothing: None
    raw: bytes
    moment: datetime
    naive: datetime
    day: date
    hour: clock_time
    span: timedelta
    amount: Decimal
    uuid: UUID
    color: Color
    literal: Literal["a", 1]
    path: Path
    maybe: int | None
    either: int | str | None
    items: list[Decimal]
    distinct: set[int]
    frozen: frozenset[str]
    couple: tuple[int, date]
    many: tuple[UUID, ...]
    table: dict[str, date]
    point: Point
    shape: Point | Label
    label: Label
    address: Address
    plain: dict
    row: list


class Echo(ShopOperation):
    """Takes values of every type, as props and in a dataclass, and returns the dataclass."""

    value: Everything
    text: str
    whole: int
    broken: float
    flag: bool
    nothing: None
    raw: bytes
    moment: datetime
    naive: datetime
    day: date
    hour: clock_time
    span: timedelta
    amount: Decimal
    uuid: UUID
    color: Color
    literal: Literal["a", 1]
    path: Path
    maybe: int | None
    either: int | str | None
    items: list[Decimal]
    distinct: set[int]
    frozen: frozenset[str]
    couple: tuple[int, date]
    many: tuple[UUID, ...]
    table: dict[str, date]
    point: Point
    shape: Point | Label
    label: Label
    address: Address
    plain: dict
    row: list

    def perform(self) -> Everything:
        names = [field.name for field in attrs.fields(Everything)]
        alone = Everything(**{name: getattr(self, name) for name in names})
        assert alone == self.value
        return alone
