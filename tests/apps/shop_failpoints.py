"""What the kill suite runs: operations that pass named points, beside those of the shop.

Imported by the tests and by the processes that they kill. Outside of `die_at_failpoints` a point does nothing.
"""

from __future__ import annotations

import os
import signal
import time

import sqlalchemy as sa
from sqlalchemy.orm import Session

from apps.shop import *  # noqa: F403 - the tables and operations that are there already
from apps.shop import Customer, ShopOperation
from dexpy import Retry, WorkerLost
from dexpy.foundation.failpoints import failpoint

WITH_ITS_ROW = 1000
"""What is added to a number for the key of the row that was committed together with an operation."""


class Mark(ShopOperation):
    """One effect, with a point before it, one after it and one after its commit."""

    number: int

    def perform(self) -> int:
        failpoint("perform_started")
        self.note(f"mark {self.number}")
        self.session.flush()
        self.after_commit(lambda: failpoint("in_after_commit_hook"))
        failpoint("in_perform")
        return self.number


class Spawn(ShopOperation):
    """Sends a mark of the same number to the background, from inside."""

    number: int

    def perform(self) -> str:
        self.note(f"spawn {self.number}")
        return Mark(number=self.number).async_().call().id


class Hold(ShopOperation):
    """Holds a row's lock, has a child and a hook on its way, and then passes a point."""

    customer: int
    ledger: str

    def perform(self) -> str:
        mine = sa.update(Customer).where(Customer.id == self.customer)
        self.session.execute(mine.values(name=f"held by {os.getpid()}"))
        self.note(f"hold {self.customer}")
        child = Mark(number=self.customer).async_().call()
        self.after_commit(self.tell)
        self.session.flush()
        failpoint("in_perform")
        return child.id

    def tell(self) -> None:
        """What a hook does cannot be rolled back."""
        with open(self.ledger, "a") as ledger:
            ledger.write(f"{self.customer} {os.getpid()}\n")


class Linger(ShopOperation):
    """Goes on until a file is there; if it is told so, in a transaction that it has begun before."""

    number: int
    gate: str
    writes_first: bool = False

    def perform(self) -> None:
        if self.writes_first:
            self.note(f"linger {self.number}")
            self.session.flush()
        until = time.monotonic() + 60
        while not os.path.exists(self.gate) and time.monotonic() < until:
            time.sleep(0.02)
        if not self.writes_first:
            self.note(f"linger {self.number}")


class Die(ShopOperation):
    """Ends its worker, each time."""

    def perform(self) -> None:
        self.note("died")
        self.session.flush()
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)


class DieOnce(Die):
    """Is not run again."""

    on_lost = "fail"


class DieTwice(Die):
    """Is run again by a rule of its own."""

    retry_on = (Retry(WorkerLost, attempts=2, wait=0),)


def enqueue(number: int) -> None:
    """Send a mark to the background in a transaction of the application, together with a row of it."""
    engine = sa.create_engine(os.environ["DEXPY_DATABASE"])
    with Session(engine) as session:
        session.add(Customer(id=WITH_ITS_ROW + number, name="committed together"))
        session.flush()
        Mark(number=number).async_(session=session).call()
        failpoint("before_application_commit")
        session.commit()
    engine.dispose()
