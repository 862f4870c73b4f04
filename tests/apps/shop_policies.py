"""Operations of the shop with several policies, for tests with real workers.

Failpoints have an effect only in processes of ``die_at_failpoints``.
"""

from __future__ import annotations

import time

import sqlalchemy as sa

import dexpy
from apps import shop_limits, shop_steps
from apps.shop_limits import mark
from apps.shop_steps import Line
from dexpy import Concurrency, Lock, Once, Operation, Retry, Unique, defer, deferrable, prop
from dexpy.foundation.failpoints import failpoint

PARTS = 3


def create_tables(engine: sa.Engine) -> None:
    """Create the application's tables."""
    shop_steps.create_tables(engine)
    shop_limits.create_tables(engine)


@deferrable(encrypt=True, once=Once("number"))
def receipt(number: int, card: str) -> str:
    """The target of a call that a step defers."""
    dexpy.current_session().add(Line(what=f"{number} receipt", attempt=card[-4:]))
    return card


class SettleOrder(Operation):
    """Several encrypted steps with a lock, a concurrency limit and two keys."""

    encrypt = True
    account: int
    number: int
    card: str
    tenant: str = prop(context="shop_tenant", default="unknown")
    once = Once("number")
    unique = Unique("account", "number")
    lock = Lock(template="account:{account}", timeout=30)
    concurrency = Concurrency(2, "account")
    retry_on = (Retry(ConnectionError, attempts=3, wait=0.05),)
    max_lost = 10

    def perform(self) -> str:
        booked = self.step(self.book)
        failpoint("between_steps")
        for part in self.each("parts", range(PARTS)):
            self.note(f"part {part}")
        self.step(self.send, booked)
        return f"{booked} for {self.tenant}"

    def note(self, what: str) -> None:
        self.session.add(Line(what=f"{self.number} {what}", attempt=str(self.account)))
        self.session.flush()

    def book(self) -> str:
        mark(str(self.account), self.number, self.run_id, "begin")
        time.sleep(0.02)
        mark(str(self.account), self.number, self.run_id, "end")
        self.note("book")
        return f"booked {self.card}"

    def send(self, booked: str) -> None:
        self.note("send")
        defer(receipt, number=self.number, card=booked)


class SlowSettlement(Operation):
    """Waits between two steps, with its lock and slot, until it is cancelled."""

    account: int
    number: int
    once = Once("number")
    lock = Lock(template="stall:{account}", timeout=None)

    def perform(self) -> None:
        self.step(self.begin)
        while True:
            self.check_cancelled()
            time.sleep(0.02)

    def begin(self) -> None:
        self.session.add(Line(what=f"{self.number} begun", attempt=""))


class LimitedSettlement(SlowSettlement):
    """Waits between two steps with a slot but without a lock."""

    lock = None
    concurrency = Concurrency(1, "account")
