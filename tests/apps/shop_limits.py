"""Operations of the shop for the tests of `Lock` and `Concurrency` with real workers.

Each run writes marks at the start and end of its work, on a separate connection.
"""

from __future__ import annotations

import os
import time

import sqlalchemy as sa

from dexpy import Concurrency, Fair, Lock, Operation, Rate, Retry
from dexpy.database.engine import Database
from dexpy.foundation.failpoints import failpoint

metadata = sa.MetaData()
marks = sa.Table(
    "marks",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("key", sa.String(40), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("run", sa.String(40), nullable=False),
    sa.Column("what", sa.String(8), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("at", sa.Float(53), nullable=False),
)
effects = sa.Table(
    "effects",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
)

_database: Database | None = None


def create_tables(engine: sa.Engine) -> None:
    """Create the application's tables."""
    metadata.create_all(engine)


def mark(key: str, number: int, run: str, what: str) -> None:
    """Write a mark in a separate transaction, so that no rollback of the run removes it."""
    global _database
    if _database is None:
        _database = Database(os.environ["DEXPY_DATABASE"])
    # The time of the process, so that the marked period lies within the period in which the run has its slot.
    values = {"key": key, "number": number, "run": run, "what": what, "pid": os.getpid(), "at": time.time()}
    with _database.begin() as connection:
        connection.execute(sa.insert(marks).values(values))


class MarkedOperation(Operation):
    """Marks its start, sleeps, writes one effect and marks its end."""

    key: str
    number: int
    hold_s: float = 0.0

    def perform(self) -> int:
        mark(self.key, self.number, self.run_id, "begin")
        failpoint("in_perform")
        time.sleep(self.hold_s)
        mark(self.key, self.number, self.run_id, "end")
        self.session.execute(sa.insert(effects).values(number=self.number))
        return self.number


class Limited(MarkedOperation):
    concurrency = Concurrency(2, "key")


class Single(MarkedOperation):
    concurrency = Concurrency(1, "key")


class Locked(MarkedOperation):
    lock = Lock(template="shop:{key}", timeout=20)


class LockedForEver(MarkedOperation):
    lock = Lock(template="shop:{key}", timeout=None)
    timeout = 60


class Contended(MarkedOperation):
    lock = Lock(template="shop:{key}", timeout=0)
    retry_on = (Retry("lock_timeout", attempts=None, wait=0.1),)


class Rated(MarkedOperation):
    rate = Rate(10, "key", per=2.5)


class RatedRetried(MarkedOperation):
    rate = Rate(5, "key", per=1.0)
    retry_on = (Retry(RuntimeError, attempts=3, wait=0, jitter=0),)

    def perform(self) -> int:
        if self.number % 2:
            raise RuntimeError("broken")
        return super().perform()


class RatedSingle(MarkedOperation):
    rate = Rate(8, per=1.0)
    concurrency = Concurrency(1, "key")


class Exported(MarkedOperation):
    fair = Fair("key")


class ExportedOnce(MarkedOperation):
    fair = Fair("key", group="exports")
    concurrency = Concurrency(2, group="exports")
