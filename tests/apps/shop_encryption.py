"""Operations with encrypted params and results, and the secret that no sink may contain."""

from __future__ import annotations

import datetime as dt
import logging
import os
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import dexpy
from dexpy import Error, Once, Operation, Ref, Retry, deferrable, prop

SECRET = "4111-1111-geheim"
OLD_KEY = "b2xkLWtleS1vZi0zMi1ieXRlcy1mb3ItdGVzdHMtISE="
NEW_KEY = "bmV3LWtleS1vZi0zMi1ieXRlcy1mb3ItdGVzdHMtISE="


class ReverseEncryptor:
    """An encryptor of the application that only reverses bytes."""

    def encrypt(self, data: bytes) -> bytes:
        return b"\xff" + data[::-1]

    def decrypt(self, data: bytes) -> bytes:
        if data[:1] != b"\xff":
            raise ValueError(f"not mine: {data!r}")
        return data[:0:-1]


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "encryption_customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(50))


def create_tables(engine: sa.Engine) -> None:
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(Customer).values(id=77, name="Ada"))


performed: list[str] = []
"""The values with which operations ran in this process."""


class Pay(Operation):
    encrypt = True
    card: str
    amount: Decimal
    day: dt.date = dt.date(2026, 1, 31)

    def perform(self) -> dict[str, str]:
        performed.append("Pay")
        return {"receipt": f"{self.amount} by {self.card} on {self.day}"}


class PayOrder(Operation):
    order: int
    card: str = prop(encrypted=True)

    def perform(self) -> int:
        performed.append("PayOrder")
        assert self.card == SECRET
        return self.order


class PayByBoth(Operation):
    encrypt = "vault"
    card: str
    pin: int = prop(encrypted=True)

    def perform(self) -> str:
        return f"{self.card} {self.pin}"


class PayDirectly(Operation):
    record = False
    order: int
    card: str = prop(encrypted=True)
    retry_on = (Retry(ConnectionError, attempts=2, wait=0),)

    def perform(self) -> None:
        performed.append(f"PayDirectly {self.order} {self.card == SECRET}")
        if self.order == 0 and len(performed) == 1:
            raise ConnectionError


class PayOnce(Operation):
    encrypt = True
    once = Once("order")
    order: int
    card: str

    def perform(self) -> str:
        performed.append("PayOnce")
        return f"{self.order} by {self.card}"


class PayFor(Operation):
    encrypt = True
    customer: Ref[Customer]

    def perform(self) -> str:
        return self.customer.name


class StorePlain(Operation):
    """An operation without encryption whose data looks like ciphertext."""

    data: dict[str, Any]

    def perform(self) -> dict[str, Any]:
        return self.data


class EchoSecret(Operation):
    token: str = prop(sensitive=True)

    def perform(self) -> None: ...


class EchoSecretDirectly(EchoSecret):
    record = False


class LeakSecret(Operation):
    """Passes its secret to every place that could store or log it."""

    encrypt = True
    retry_on = (Retry(KeyError, attempts=2, wait=0),)
    card: str
    how: str

    def perform(self) -> str:
        logging.getLogger("dexpy").error("%s", dexpy.current_context())
        if self.how == "business":
            raise Error("refused", f"{self.card} was refused", details={"card": self.card, self.card: [self.card]})
        if self.how == "crash":
            raise ValueError(f"no such card: {self.card!r}")
        if self.how == "retry":
            raise KeyError(self.card)
        if self.how == "database":
            self.session.execute(sa.text("SELECT * FROM nowhere WHERE card = :card"), {"card": self.card})
        if self.how == "die":
            os._exit(3)
        return self.card


@deferrable(encrypted=("token",))
def call_out(number: int, token: str) -> str:
    performed.append("call_out")
    return f"{number} {token == SECRET}"
