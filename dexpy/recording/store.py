"""The store: where records are written and read, one statement at a time.

Who writes a run's row is a `Recorder`; how a row moves is in `transitions`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import IntegrityError, StatementError, UnboundExecutionError
from sqlalchemy.orm import Session, sessionmaker

from dexpy.foundation.errors import InvalidTransition, KeyTaken, RecordNotFound
from dexpy.foundation.redaction import Redactor
from dexpy.recording import keys, signals, steps
from dexpy.recording.ambient import Ambient
from dexpy.recording.database import Database
from dexpy.recording.insertion import insertion
from dexpy.recording.keys import Claim, Holder
from dexpy.recording.locks.places import Locks
from dexpy.recording.metadata import after, as_of
from dexpy.recording.preparation import Preparation
from dexpy.recording.sender import Sender
from dexpy.recording.tables import attempts, records
from dexpy.recording.tables import signals as signals_table
from dexpy.recording.transitions import TRANSITIONS, apply

ASKED = {"discard": "fail", "revive": "retry"}
"""What a person calls an event, where that is another word."""


def facts_of(row: Row[Any]) -> dict[str, Any]:
    """A row by the names of its columns."""
    return dict(row._mapping)  # pyright: ignore[reportPrivateUsage] - public, in spite of its name


class Store:
    """Reads and writes records.

    Args:
        database: Where they are.
        session_factory: Makes the sessions of runs; the database's own when left out.
        redactor: Goes over every text about a failure.
        find_sender: Gives the sender when a record has to be sent before anything was enqueued in this process.
        create_tables: Whether missing tables are made on a server too.
    """

    def __init__(
        self,
        database: Database,
        *,
        session_factory: Callable[[], Session] | None = None,
        redactor: Redactor | None = None,
        find_sender: Callable[[], Sender | None] = lambda: None,
        create_tables: bool = False,
    ) -> None:
        self.database = database
        self._preparation = Preparation(database, create_tables=create_tables)
        self.redactor = redactor or Redactor()
        self.sender: Sender | None = None
        self.locks = Locks(database)
        self._find_sender = find_sender
        # The factory behind a scoped_session: a run ends its session, which must not be one that others use.
        self._session_factory = getattr(session_factory, "session_factory", session_factory)
        self.watcher: Callable[[Session], None] | None = None
        """Told of each session that is made for a run, in a worker."""

    def new_session(self) -> Session:
        """A session for one run; its objects stay readable after the commit that ends it."""
        if self._session_factory is not None:
            session = self._session_factory()
        else:
            self.prepare()
            session = sessionmaker(self.database.engine)()
        session.expire_on_commit = False
        if self.watcher is not None:
            self.watcher(session)
        return session

    def shares_sessions(self) -> bool:
        """Whether the sessions of runs and the records are in one database, so that effects happen exactly once.

        Raises:
            SQLAlchemyError: The sessions' database cannot be asked.
        """
        if self._session_factory is None:
            return True
        session = self.new_session()
        try:
            return self.holds(session)
        finally:
            session.close()

    def holds(self, session: Session) -> bool:
        """Whether a session's transaction and the records are in one database."""
        try:
            connection = session.connection()
        except UnboundExecutionError:
            # A bind for each model: nobody can say which one the records belong to.
            return False
        return self.is_ours(connection)

    def is_ours(self, connection: Connection) -> bool:
        """Whether a connection leads to the database of the records."""
        return self.database.same_as(connection)

    def prepare(self, connection: Connection | None = None) -> None:
        """See to it that the tables are there: SQLite's make themselves, a server's are made by ``dexpy db init``.

        Args:
            connection: A transaction that may hold SQLite's write lock already, and so has to make them itself.

        Raises:
            DatabaseUnavailable: The database cannot be opened.
            SchemaMissing: A server has no tables of dexpy, or old ones.
        """
        self._preparation.insist(connection)

    @contextmanager
    def begin(self) -> Generator[Connection, None, None]:
        """A transaction of the store's own, committed at the end of the block."""
        self.prepare()
        with self.database.begin() as connection:
            yield connection

    @contextmanager
    def at_once(self) -> Generator[Connection, None, None]:
        """A connection for one statement that stands alone, in as few round trips as the database allows."""
        self.prepare()
        with self.database.at_once() as connection:
            yield connection

    def insert(self, connection: Connection, values: Mapping[str, Any]) -> None:
        """Insert a row; its times are the database's unless given."""
        statement, parameters = insertion({"created_at": after(0), "updated_at": after(0), **values})
        try:
            connection.execute(statement, parameters)
        except StatementError as error:
            # Props are among them, and an application's engine would show them.
            error.hide_parameters = True
            raise

    def insert_all(self, connection: Connection, rows: Sequence[Mapping[str, Any]], now: datetime) -> None:
        """Insert rows together, all of their values plain ones.

        Args:
            connection: In a transaction.
            rows: Columns of each; one that a row does not name is null there.
            now: When they were made.
        """
        names = dict.fromkeys(name for row in rows for name in row)
        stamped = [{"created_at": now, "updated_at": now, **dict.fromkeys(names), **row} for row in rows]
        try:
            connection.execute(sa.insert(records), stamped)
        except StatementError as error:
            error.hide_parameters = True
            raise

    def keep_attempt(self, connection: Connection, row: Row[Any] | Mapping[str, Any], traceback: str | None) -> None:
        """Keep an attempt that did not end in `done`."""
        facts = facts_of(row) if isinstance(row, Row) else row
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

    def owes(self, queues: Collection[str] | None) -> bool:
        """Whether a row is due whose message was not sent."""
        table = records.c
        query = sa.select(table.id).where(
            table.status == "pending", table.enqueued_at.is_(None), table.scheduled_at <= as_of(0)
        )
        return bool(self.rows((query if queues is None else query.where(table.queue.in_(queues))).limit(1)))

    def row(self, id: str) -> Row[Any]:
        """One record.

        Raises:
            RecordNotFound: There is none of this id.
        """
        found = self.rows(sa.select(records).where(records.c.id == id))
        if not found:
            raise RecordNotFound(f"No record has the id {id!r}. Was it rolled back with its transaction, or pruned?")
        return found[0]

    def row_and_progress(self, id: str) -> Row[Any]:
        """One record, and what its run said last of how far it is.

        Raises:
            RecordNotFound: There is none of this id.
        """
        said = signals_table.c.progress
        beside = records.outerjoin(signals_table, signals_table.c.record_id == records.c.id)
        found = self.rows(sa.select(records, said).select_from(beside).where(records.c.id == id))
        return found[0] if found else self.row(id)

    def rows(self, query: sa.Select[Any]) -> Sequence[Row[Any]]:
        """Whatever a query finds."""
        if self._preparation.was_never_used():
            return []
        self.prepare()
        connection = self.database.connect()
        try:
            return connection.execute(query).all()
        finally:
            connection.close()

    def holder(self, claim: Claim) -> Holder | None:
        """Who has one of these keys, as far as it is committed."""
        if self._preparation.was_never_used():
            return None
        self.prepare()
        connection = self.database.connect()
        try:
            return keys.find(connection, claim)
        finally:
            connection.close()

    def clear_once(self, digest: str, place: Ambient | None) -> bool:
        """Free an idempotency key of a run that has ended; in the current transaction, if it is on our database."""
        if place is not None and self.holds(place.session()):
            connection = place.session().connection()
            self.prepare(connection)
            return keys.clear(connection, digest)
        with self.begin() as own:
            return keys.clear(own, digest)

    def attempts_of(self, id: str) -> Sequence[Row[Any]]:
        """The attempts of a record that ended in any way but `done`, the first one first."""
        query = sa.select(attempts).where(attempts.c.record_id == id)
        return self.rows(query.order_by(attempts.c.claim_token))

    def cancel(self, id: str, **values: Any) -> Row[Any]:
        """Call a run off: at once while it is pending, by asking it while it runs.

        Raises:
            RecordNotFound: There is no such record.
            InvalidTransition: It has ended; nothing was changed.
        """
        while True:
            with self.begin() as connection:
                row = apply(connection, "cancel", id, **values)
                if row is None:
                    signals.request_cancel(connection, id)
            if row is not None:
                return row
            # It may have ended, or become pending again, between the two: only a run that goes on sees the request.
            row = self.row(id)
            if row.status == "running":
                return row
            if row.status != "pending":
                with self.begin() as connection:
                    signals.withdraw_cancel(connection, id)
                why = "It can be done while a record is pending or running. Nothing was changed."
                raise InvalidTransition(id, "cancel", row.status, why)

    def move(self, event: str, id: str, *, from_start: bool = False, **values: Any) -> Row[Any]:
        """A person's event: expire, cancel, discard, revive, reschedule.

        Args:
            event: A key of `TRANSITIONS`.
            id: The record's id.
            from_start: Whether what is revived begins with its first step again.
            values: See `apply`.

        Raises:
            RecordNotFound: There is no such record.
            InvalidTransition: Its state does not allow the event; nothing was changed.
        """
        sender = self.sender or self._find_sender()
        if event in ("revive", "reschedule"):
            values["sent"] = sender is not None and sender.transactional
        before = self.row(id)
        if event == "revive" and (before.once_digest or before.unique_digest):
            with self.begin() as connection:
                keys.free_for(connection, before)
        with self._unless_taken(before), self.begin() as connection:
            row = apply(connection, event, id, **values)
            if row is not None and event == "revive" and row.params is None:
                why = "Its record keeps no params to run it with again. Nothing was changed."
                raise InvalidTransition(id, "retry", before.status, why)
            if row is not None and event == "revive":
                signals.forget(connection, id)
                if from_start:
                    steps.forget(connection, id)
            if row is not None and row.status == "pending" and sender is not None:
                sender.send(connection, row)
        if row is None:
            sources = " or ".join(TRANSITIONS[event].sources)
            why = f"It can be done while a record is {sources}. Nothing was changed."
            raise InvalidTransition(id, ASKED.get(event, event), self.row(id).status, why)
        if sender is not None:
            sender.ring()
        return row

    @contextmanager
    def _unless_taken(self, row: Row[Any]) -> Generator[None, None, None]:
        """Tell of a key that another row has, where a row that ended without it claims it again."""
        try:
            yield
        except IntegrityError:
            with self.begin() as connection:
                taken = keys.rival(connection, row)
            if taken is None:
                raise
            raise KeyTaken(row.id, *taken) from None
