"""The mailer application of the trap tests; the tests and their worker processes import it.

Each effect is a row in `effects`, which has no unique constraint: a duplicate run shows.
Each event is a line in a file, written at once: a run that was rolled back shows too.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from apps.models import Effect, Model
from dexpy import Async, Error, Operation, Retry, current_context, prop

POLL_S = 0.02


class Recipient(Model):
    """Has a unique address."""

    __tablename__ = "recipients"

    address: Mapped[str] = mapped_column(sa.String(50), primary_key=True)


class MailerOperation(Operation):
    """The base of this application's operations."""

    def note(self, what: str) -> None:
        """Add an effect in the run's transaction."""
        self.session.add(Effect(what=what, run=self.run_id))


class SendMail(MailerOperation):
    """One effect, and nothing else."""

    number: int

    def perform(self) -> int:
        self.note(f"mail {self.number}")
        return self.number


class SendMailElsewhere(SendMail):
    """The same on another queue."""

    async_ = Async(queue="elsewhere")


class SendBatch(MailerOperation):
    """Waits for a file, then leaves a row, a child run and an event after the commit."""

    folder: str
    batch: int

    def perform(self) -> int:
        self.log_event("begun")
        while not (Path(self.folder) / f"gate-{self.batch}").exists():
            time.sleep(POLL_S)
        self.note(f"batch {self.batch}")
        SendMail(number=self.batch).async_().call()
        self.after_commit(lambda: self.log_event("committed"))
        return self.batch

    def log_event(self, event: str) -> None:
        """Write a line that no rollback takes back."""
        with open(Path(self.folder) / f"events-{self.batch}", "a") as file:
            file.write(f"{event} {os.getpid()}\n")


class Overrun(MailerOperation):
    """Exceeds its time limit."""

    timeout = 0.5

    def perform(self) -> None:
        while True:
            time.sleep(POLL_S)


class SendTwice(MailerOperation):
    """Runs one operation inside and enqueues another."""

    number: int

    def perform(self) -> dict[str, str]:
        SendMail(number=self.number).call()
        return {"child": SendMail(number=self.number + 1).async_().call().id, "run": self.run_id}


class ReadLocale(MailerOperation):
    """Returns the current context."""

    def perform(self) -> Any:
        return current_context().get("mailer_locale")


class ReadContext(MailerOperation):
    """Returns the context around it and inside of it, and enqueues another run."""

    number: int

    def perform(self) -> dict[str, Any]:
        if self.number == 201:
            ReadContext(number=202).async_().call()
        propagated = current_context()
        return {
            "heard": propagated.get("mailer_locale"),
            "weather": propagated.get("mailer_theme"),
            "nested": ReadLocale().call(),
        }


class LogIn(MailerOperation):
    """Has a secret, and ends in each way that could leak it."""

    secret: str = prop(sensitive=True)
    ending: str
    errors = {"refused"}

    def on_error(self, error: Exception) -> None:
        if self.ending == "observer":
            raise ValueError(f"the observer of {self.secret}")

    def perform(self) -> None:
        logging.getLogger("dexpy").debug("logs in")
        local_of_the_frame = self.secret
        if self.ending == "error":
            raise Error("refused", f"no recipient for {self.secret}", details={"for": self.secret, self.secret: [1]})
        if self.ending == "chain":
            try:
                raise KeyError(self.secret)
            except KeyError as error:
                raise ConnectionError(f"no line to {self.secret!r}") from error
        if self.ending == "database":
            self.session.add(Recipient(address=self.secret))
            self.session.flush()
            self.session.execute(sa.insert(Recipient).values(address=self.secret))
        if self.ending == "hook":
            self.after_commit(lambda: notify(local_of_the_frame))
        elif self.ending == "repr":
            raise RuntimeError(f"{self!r} {self.__dict__!r}")
        else:
            raise RuntimeError(local_of_the_frame)


ENDINGS = ("error", "chain", "database", "hook", "repr", "observer", "crash")
"""Of `LogIn`."""


def notify(what: str) -> None:
    raise ValueError(f"cannot tell {what}")


class AwaitFile(MailerOperation):
    """Fails until a file exists, and is retried soon."""

    file: str
    retry_on = (Retry(ConnectionError, attempts=50, wait=0.1, jitter=0),)

    def perform(self) -> str:
        if not Path(self.file).exists():
            raise ConnectionError("the file is missing")
        return "open"


def create_tables(url: str) -> None:
    """The application's own tables."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    Model.metadata.create_all(engine)
    engine.dispose()


def connection_name(connection: sa.Connection) -> Any:
    """Return the server's name of this connection; without a server, the process that opened it."""
    queries = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}
    queries["mariadb"] = queries["mysql"]
    query = queries.get(connection.dialect.name)
    return connection.info["opened_by"] if query is None else connection.exec_driver_sql(query).scalar()


@sa.event.listens_for(sa.Engine, "connect")
def _opened(_driver: Any, record: Any) -> None:
    record.info["opened_by"] = os.getpid()


class NameConnection(MailerOperation):
    """Returns the database connection of the run."""

    number: int

    def perform(self) -> Any:
        self.note(f"told {self.number}")
        return connection_name(self.session.connection())
