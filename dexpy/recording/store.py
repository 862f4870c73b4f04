"""The store: where records are written and read, one statement at a time.

Who writes a run's row is a `Recorder`; how a row moves is in `transitions`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.orm import Session, sessionmaker

from dexpy.foundation.errors import DatabaseUnavailable, InvalidTransition, RecordNotFound
from dexpy.foundation.redaction import Redactor
from dexpy.recording import schema
from dexpy.recording.database import Database
from dexpy.recording.metadata import after
from dexpy.recording.tables import attempts, records
from dexpy.recording.transitions import TRANSITIONS, apply


class Sender(Protocol):
    """Hands a pending row to the broker."""

    def send(self, connection: Connection, row: Row[Any]) -> None:
        """Send the message of a row, now or with the connection's commit."""

    def ring(self) -> None:
        """Wake the workers of this process after a commit."""


class Store:
    """Reads and writes records.

    Args:
        database: Where they are.
        session_factory: Makes the sessions of runs; the database's own when left out.
        redactor: Goes over every text about a failure.
    """

    def __init__(
        self,
        database: Database,
        *,
        session_factory: Callable[[], Session] | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        self.database = database
        self.redactor = redactor or Redactor()
        self.sender: Sender | None = None
        self._session_factory = session_factory
        self._prepared = False
        self._lock = threading.Lock()
        self._same: dict[Any, bool] = {}

    def new_session(self) -> Session:
        """A session for one run; its objects stay readable after the commit that ends it."""
        if self._session_factory is not None:
            session = self._session_factory()
        else:
            self.prepare()
            session = sessionmaker(self.database.engine)()
        session.expire_on_commit = False
        return session

    def holds(self, session: Session) -> bool:
        """Whether a session's transaction and the records are in one database."""
        engine = session.connection().engine
        if engine not in self._same:
            self._same[engine] = self.database.same_as(engine)
        return self._same[engine]

    def prepare(self, connection: Connection | None = None) -> None:
        """Make SQLite's tables if they are not there.

        Args:
            connection: A transaction that may hold the write lock already, and so has to make them itself.

        Raises:
            DatabaseUnavailable: The database cannot be opened.
        """
        if self._prepared or not self.database.is_sqlite:
            return
        with self._lock:
            if self._has_tables():
                self._prepared = True
            elif connection is not None:
                schema.create(connection)
            else:
                with self.database.begin() as own:
                    schema.create(own)
                self._prepared = True

    def _has_tables(self) -> bool:
        connection = self.database.connect()
        try:
            return schema.is_complete(connection)
        except sa.exc.DBAPIError as error:
            raise DatabaseUnavailable(
                f"The database {self.database.display} cannot be read: {error.orig}. Is it a SQLite file?"
            ) from error
        finally:
            connection.close()

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction of the store's own, committed at the end of the block."""
        self.prepare()
        with self.database.begin() as connection:
            yield connection

    def insert(self, connection: Connection, values: Mapping[str, Any]) -> None:
        """Insert a row; its times are the database's unless given."""
        stamped = {"created_at": after(0), "updated_at": after(0), **values}
        connection.execute(sa.insert(records).values(stamped))

    def keep_attempt(self, connection: Connection, row: Row[Any] | Mapping[str, Any], traceback: str | None) -> None:
        """Keep an attempt that did not end in `done`."""
        facts = row._mapping if isinstance(row, Row) else row  # noqa: SLF001 - public, in spite of its name
        values = {
            "record_id": facts["id"],
            "number": facts["num_attempts"],
            "claim_token": facts["claim_token"],
            "worker": facts["claimed_by"],
            "started_at": facts["started_at"],
            "ended_at": after(0),
            "failure": facts["failure"],
            "error": facts["error"],
            "error_message": facts["error_message"],
            "traceback": traceback,
        }
        connection.execute(sa.insert(attempts).values(values))

    def row(self, id: str) -> Row[Any]:
        """One record.

        Raises:
            RecordNotFound: There is none of this id.
        """
        found = self.rows(sa.select(records).where(records.c.id == id))
        if not found:
            raise RecordNotFound(
                f"No record has the id {id!r}. Was it rolled back with its transaction, or pruned?"
            )
        return found[0]

    def rows(self, query: sa.Select[Any]) -> Sequence[Row[Any]]:
        """Whatever a query finds."""
        self.prepare()
        connection = self.database.connect()
        try:
            return connection.execute(query).all()
        finally:
            connection.close()

    def attempts_of(self, id: str) -> Sequence[Row[Any]]:
        """The attempts of a record that ended in any way but `done`, the first one first."""
        query = sa.select(attempts).where(attempts.c.record_id == id)
        return self.rows(query.order_by(attempts.c.claim_token))

    def move(self, event: str, id: str, **values: Any) -> Row[Any]:
        """A person's event: expire, cancel, discard, revive, reschedule.

        Raises:
            RecordNotFound: There is no such record.
            InvalidTransition: Its state does not allow the event; nothing was changed.
        """
        with self.begin() as connection:
            row = apply(connection, event, id, **values)
            if row is not None and event in ("revive", "reschedule") and self.sender is not None:
                self.sender.send(connection, row)
        if row is None:
            sources = " or ".join(TRANSITIONS[event].sources)
            raise InvalidTransition(
                id, event, self.row(id).status, f"It can be done while a record is {sources}. Nothing was changed."
            )
        if self.sender is not None:
            self.sender.ring()
        return row
