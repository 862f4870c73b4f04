"""Operations of the shop with failpoints, for tests that kill processes.

Failpoints have an effect only in processes of `die_at_failpoints`.
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
"""The offset of the keys of rows that are committed together with an operation; added to its number."""


class Mark(ShopOperation):
    """Writes one effect, with failpoints before and after it and after the commit."""

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
    """Locks a row, enqueues a child and registers a hook, before a failpoint."""

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
        """Append a line to a file, which no rollback changes."""
        with open(self.ledger, "a") as ledger:
            ledger.write(f"{self.customer} {os.getpid()}\n")


class WaitForFile(ShopOperation):
    """Waits for a file; with `writes_first`, in a transaction that has written."""

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
    """Kills its worker, without a retry after a lost worker."""

    max_lost = 0


class KillWorkerWithRule(KillWorker):
    """Kills its worker, with a retry rule for lost workers."""

    retry_on = (Retry(WorkerLost, attempts=2, wait=0),)


def enqueue(number: int) -> None:
    """Enqueue a mark and insert a row in one transaction of the application."""
    engine = sa.create_engine(os.environ["DEXPY_DATABASE"])
    with Session(engine) as session:
        session.add(Customer(id=WITH_ITS_ROW + number, name="committed together"))
        session.flush()
        Mark(number=number).async_(session=session).call()
        failpoint("before_application_commit")
        session.commit()
    engine.dispose()
