"""Operations of the shop that deadlock, or raise a deadlock error of their server."""

from __future__ import annotations

import time
from pathlib import Path

import sqlalchemy as sa

from apps.shop import Customer, ShopOperation
from dexpy import Retry

PATIENCE_S = 20.0


class ConflictingOperation(ShopOperation):
    """The base class; counts the executions of a record in a file, because their transactions are rolled back."""

    folder: str

    def count_run(self) -> int:
        """Return the number of this execution of the record, from 1."""
        file = Path(self.folder) / self.run_id
        with file.open("a") as open_file:
            open_file.write("ran\n")
        return len(file.read_text().splitlines())

    def touch(self, customer: int) -> None:
        """Lock a row of the application until the end of the transaction."""
        change = sa.update(Customer).where(Customer.id == customer).values(name=f"{self.run_id} {customer}")
        self.session.execute(change)


class LockTwoRows(ConflictingOperation):
    """Locks two rows; in its first execution in the opposite order of the other operation, so that both deadlock.

    Later executions lock in the order of the other operation and wait for it.
    """

    first: int
    second: int

    def perform(self) -> None:
        run = self.count_run()
        self.note(f"crossed from {self.first}")
        if run > 1:
            self.touch(self.second)
            self.touch(self.first)
            return
        self.touch(self.first)
        (Path(self.folder) / f"locked {self.first}").touch()
        until = time.monotonic() + PATIENCE_S
        while not (Path(self.folder) / f"locked {self.second}").exists() and time.monotonic() < until:
            time.sleep(0.01)
        self.touch(self.second)


class RaiseDeadlocks(ConflictingOperation):
    """Raises a deadlock error a given number of times."""

    times: int

    def perform(self) -> int:
        run = self.count_run()
        self.note("did not give way")
        if run <= self.times:
            self.session.flush()
            self.session.execute(sa.text(GIVE_WAY[self.session.connection().dialect.name]))
        return run


class RaiseDeadlocksWithRule(RaiseDeadlocks):
    """Raises deadlock errors, with a retry rule that waits long after any exception."""

    retry_on = (Retry(Exception, attempts=5, wait=3600),)


GIVE_WAY = {
    "postgresql": "DO $$ BEGIN RAISE EXCEPTION 'could not serialize access' USING ERRCODE = '40001'; END $$",
    "mariadb": "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'Deadlock found'",
}
GIVE_WAY["mysql"] = GIVE_WAY["mariadb"]
"""The statement that raises a deadlock error, for each server."""
