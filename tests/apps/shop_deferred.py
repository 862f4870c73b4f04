"""Targets of deferred calls of the shop."""

from __future__ import annotations

import datetime as dt
import functools
import os
import time
from decimal import Decimal
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import dexpy
from dexpy import Concurrency, DeferredCall, Error, Retry, deferrable


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "deferred_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]


class Effect(Base):
    """An effect, without a unique constraint."""

    __tablename__ = "deferred_effects"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    note: Mapped[str] = mapped_column(sa.String(200))


def create_tables(engine: sa.Engine) -> None:
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(Order).values(id=1, number=7355608))


def note(text: str) -> None:
    """Write an effect in the run's transaction."""
    dexpy.current_session().add(Effect(note=text))


handled_errors: list[str] = []
"""The errors that the handlers of this process received."""


def record_error(error: Exception) -> None:
    handled_errors.append(str(error))


def fail_to_handle(error: Exception) -> None:
    raise LookupError("the tracker is away")


class ShopCall(DeferredCall):
    retry_on = (Retry(ConnectionError, attempts=2, wait=0),)

    def handle_error(self, error: Exception) -> None:
        handled_errors.append(f"{type(self).__name__} {error}")


class LoudCall(ShopCall):
    def handle_error(self, error: Exception) -> None:
        super().handle_error(error)
        handled_errors.append("and louder")


shop_deferrable = functools.partial(deferrable, base=ShopCall)


class OrderClient:
    calls: list[int] = []

    @staticmethod
    @deferrable(sensitive=("customer_token",))
    def fulfill(order_number: int, customer_token: str = "") -> str:
        """Send an order."""
        OrderClient.calls.append(order_number)
        if dexpy.current_session().in_transaction:
            note(f"fulfilled {order_number}")
        return f"order {order_number} is on its way"

    @classmethod
    @deferrable
    def cancel(cls, order_number: int, *, reason: str = "") -> str:
        return f"{cls.__name__} {order_number} {reason}".rstrip()

    @deferrable
    @staticmethod
    def refuse(order_number: int) -> None:
        note(f"refused {order_number}")
        raise Error("sold_out", f"There is no {order_number} left")

    @staticmethod
    @deferrable(handle_error=record_error, sensitive=("customer_token",))
    def break_down(order_number: int, customer_token: str) -> None:
        note(f"broken {order_number}")
        raise ConnectionError(f"{order_number} of {customer_token}")

    @staticmethod
    @deferrable(handle_error=fail_to_handle)
    def break_twice() -> None:
        raise ConnectionError("the client is away")

    @staticmethod
    @shop_deferrable
    def try_again() -> None:
        raise ConnectionError("not yet")

    @staticmethod
    @deferrable(base=LoudCall)
    def shout() -> None:
        raise ValueError("too quiet")


class Subclient(OrderClient):
    pass


class Mailer:
    def __init__(self, sender: str) -> None:
        self.sender = sender

    @deferrable
    def send(self, to: str) -> str:
        return f"{self.sender} to {to}"

    def ping(self) -> str:
        return self.sender


mailer = Mailer("shop")


class BulkMailer:
    @deferrable
    def shout(self) -> None: ...

    def name(self) -> str:
        return "one of them"


one, other = BulkMailer(), BulkMailer()
ping_shop = deferrable(mailer.ping, name="shop.ping")
name_one = deferrable(one.name, name="shop.crowd.name")


@deferrable
def bill(day: dt.date, amounts: list[Decimal], fee: Decimal | None = None) -> Decimal:
    assert type(day) is dt.date
    return sum(amounts, Decimal(0)) + (fee or Decimal(0))


@deferrable
def collect(into: list[int] = [], /, *, extra: dict = {}) -> list[int]:  # noqa: B006 - that it is not shared is tested
    into.append(len(into))
    return into


@deferrable
def stamp(order: Order, others: list[Order], spare: Order | None = None) -> int:
    return order.number + len(others) + (0 if spare is None else 1)


@deferrable
async def fetch(url: str) -> bytes:
    return url.encode()


@deferrable(concurrency=Concurrency(1, "shop"))
def limited(shop: int) -> None: ...


@deferrable
def tick() -> str:
    return "tick"


@deferrable(queue="mailers", priority=5, timeout=0.3, retry_on=(Retry(KeyError, attempts=3, wait=60),))
def dawdle(queue: str = "nothing of ours") -> str:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        pass
    return queue


@deferrable(record=False)
def whisper(word: str) -> None:
    OrderClient.calls.append(len(word))


@deferrable
def nest(word: str) -> None:
    """Use two savepoints; the failure of the second rolls back only its own writes."""
    session = dexpy.current_session()
    note(f"around {word}")
    with session.begin_nested():
        note(f"kept {word}")
    try:
        with session.begin_nested():
            note(f"lost {word}")
            session.flush()
            raise KeyError(word)
    except KeyError:
        pass


@deferrable
def hold(ledger: str, number: int) -> int:
    """Write an effect and a file, then wait for the file ``go``."""
    note(f"held {number}")
    dexpy.current_session().flush()
    with open(ledger, "a") as file:
        file.write(f"{os.getpid()}\n")
    go = Path(ledger).with_name("go")
    until = time.monotonic() + 60
    while not go.exists() and time.monotonic() < until:
        time.sleep(0.02)
    return number
