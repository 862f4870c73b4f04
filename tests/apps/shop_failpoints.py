"""Operations of the shop with failpoints, for the kill suite.

The tests and the killed processes import it. Failpoints have an effect only under `die_at_failpoints`.
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
"""Added to a number: the key of the row that was committed together with an operation."""


class Mark(ShopOperation):
    """One effect, with failpoints before it, after it and after its commit."""

    number: int

    def perform(self) -> int:
        failpoint("perform_started")
        self.note(f"mark {self.number}")
        self.session.flush()
        self.after_commit(lambda: failpoint("in_after_commit_hook"))
        failpoint("in_perform")
        return self.number


class EnqueueMark(ShopOperation):
    """Enqueues a mark of the same number."""

    number: int

    def perform(self) -> str:
        self.note(f"spawn {self.number}")
        return Mark(number=self.number).async_().call().id


class LockCustomer(ShopOperation):
    """Holds a row lock, enqueues a child, registers a hook, and then passes a failpoint."""

    customer: int
    ledger: str

    def perform(self) -> str:
        mine = sa.update(Customer).where(Customer.id == self.customer)
        self.session.execute(mine.values(name=f"held by {os.getpid()}"))
        self.note(f"hold {self.customer}")
        child = Mark(number=self.customer).async_().call()
        self.after_commit(self.write_to_ledger)
        self.session.flush()
        failpoint("in_perform")
        return child.id

    def write_to_ledger(self) -> None:
        """Write a line that no rollback removes."""
        with open(self.ledger, "a") as ledger:
            ledger.write(f"{self.customer} {os.getpid()}\n")


class WaitForFile(ShopOperation):
    """Waits for a file; with `writes_first`, in an open transaction."""

    number: int
    file: str
    writes_first: bool = False

    def perform(self) -> None:
        if self.writes_first:
            self.note(f"linger {self.number}")
            self.session.flush()
        until = time.monotonic() + 60
        while not os.path.exists(self.file) and time.monotonic() < until:
            time.sleep(0.02)
        if not self.writes_first:
            self.note(f"linger {self.number}")


class KillWorker(ShopOperation):
    """Kills its worker in every attempt."""

    def perform(self) -> None:
        self.note("died")
        self.session.flush()
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)


class KillWorkerWithoutRetry(KillWorker):
    """The same without a retry."""

    max_lost = 0


class KillWorkerWithRule(KillWorker):
    """The same with a retry rule."""

    retry_on = (Retry(WorkerLost, attempts=2, wait=0),)


def enqueue(number: int) -> None:
    """Enqueue a mark in a transaction of the application, together with a row of it."""
    engine = sa.create_engine(os.environ["DEXPY_DATABASE"])
    with Session(engine) as session:
        session.add(Customer(id=WITH_ITS_ROW + number, name="committed together"))
        session.flush()
        Mark(number=number).async_(session=session).call()
        failpoint("before_application_commit")
        session.commit()
    engine.dispose()
