"""The mailer application of the trap tests; the tests and their worker processes import it.

Each effect is a row in `effects`, which has no unique constraint, so that a duplicate run adds a second row.
Each event is a line in a file, which no rollback removes.
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
    """A recipient with a unique address."""

    __tablename__ = "recipients"

    address: Mapped[str] = mapped_column(sa.String(50), primary_key=True)


class MailerOperation(Operation):
    """The base of this application's operations."""

    def note(self, what: str) -> None:
        """Write an effect in the run's transaction."""
        self.session.add(Effect(what=what, run=self.run_id))


class SendMail(MailerOperation):
    """Writes one effect."""

    number: int

    def perform(self) -> int:
        self.note(f"mail {self.number}")
        return self.number


class SendMailElsewhere(SendMail):
    """Sends mail on another queue."""

    async_ = Async(queue="elsewhere")


class SendBatch(MailerOperation):
    """Waits for its gate file, writes an effect, enqueues a child and logs an event after the commit."""

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
        """Append an event and the pid to the batch's file, which no rollback changes."""
        with open(Path(self.folder) / f"events-{self.batch}", "a") as file:
            file.write(f"{event} {os.getpid()}\n")


class Overrun(MailerOperation):
    """Exceeds its time limit."""

    timeout = 0.5

    def perform(self) -> None:
        while True:
            time.sleep(POLL_S)


class SendTwice(MailerOperation):
    """Calls one operation and enqueues another."""

    number: int

    def perform(self) -> dict[str, str]:
        SendMail(number=self.number).call()
        return {"child": SendMail(number=self.number + 1).async_().call().id, "run": self.run_id}


class ReadLocale(MailerOperation):
    """Returns the locale of the current context."""

    def perform(self) -> Any:
        return current_context().get("mailer_locale")


class ReadContext(MailerOperation):
    """Returns the context of its run and of a nested call; run 201 enqueues another run."""

    number: int

    def perform(self) -> dict[str, Any]:
        if self.number == 201:
            ReadContext(number=202).async_().call()
        propagated = current_context()
        return {
            "locale": propagated.get("mailer_locale"),
            "theme": propagated.get("mailer_theme"),
            "nested": ReadLocale().call(),
        }


class LogIn(MailerOperation):
    """Has a sensitive prop, and ends in each way that could leak the value."""

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
"""The endings of `LogIn`."""


def notify(secret: str) -> None:
    raise ValueError(f"cannot notify {secret}")


class AwaitFile(MailerOperation):
    """Fails until a file exists; retried after a short wait."""

    file: str
    retry_on = (Retry(ConnectionError, attempts=50, wait=0.1, jitter=0),)

    def perform(self) -> str:
        if not Path(self.file).exists():
            raise ConnectionError("the file is missing")
        return "open"


def create_tables(url: str) -> None:
    """Create the application's tables."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    Model.metadata.create_all(engine)
    engine.dispose()


def connection_name(connection: sa.Connection) -> Any:
    """Return the id of the server's session of a connection; on SQLite, the pid of the process that opened it."""
    queries = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}
    queries["mariadb"] = queries["mysql"]
    query = queries.get(connection.dialect.name)
    return connection.info["opened_by"] if query is None else connection.exec_driver_sql(query).scalar()


@sa.event.listens_for(sa.Engine, "connect")
def _opened(_driver: Any, record: Any) -> None:
    record.info["opened_by"] = os.getpid()


class NameConnection(MailerOperation):
    """Writes an effect, and returns the name of the run's database connection."""

    number: int

    def perform(self) -> Any:
        self.note(f"told {self.number}")
        return connection_name(self.session.connection())
