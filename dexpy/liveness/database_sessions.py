"""The database sessions of workers, recorded at their start, so that recovery can end those of a dead worker.

A frozen worker may hold locks that its successor needs, in the transaction of a run or of its relay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from dexpy.database.dialects import dialect_of
from dexpy.database.tables import worker_sessions
from dexpy.foundation.failpoints import failpoint
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path
from dexpy.recording.store import Store

_RECORDED = "dexpy_sessions"
"""The key in the `info` of an ORM session for its `DatabaseSessions`, and of a connection for its worker's id."""


class DatabaseSessions:
    """Records each database session of this process once, with the id of its worker.

    Args:
        store: The store of the records.
        worker_id: Returns the id of the worker; None before it has one.
    """

    def __init__(self, store: Store, worker_id: Callable[[], str | None]) -> None:
        self._store = store
        self._worker_id = worker_id

    def start(self) -> None:
        """Record new sessions on a server: those of runs, of locks and of dexpy itself."""
        if not self._store.database.dialect.has_server:
            return
        self._store.on_new_session = self._register_session
        self._store.locks.on_new_connection = self._record_separately
        self._store.database.watcher = self._record_on_itself

    def stop(self) -> None:
        """Stop recording."""
        self._store.on_new_session = None
        self._store.locks.on_new_connection = None
        self._store.database.watcher = None

    def _register_session(self, session: Session) -> None:
        session.info[_RECORDED] = self

    def record_connection(self, connection: Connection) -> None:
        """Record the connection of a run's session if it is to the database of the records."""
        if connection.info.get(_RECORDED) != self._worker_id() and self._store.is_own_connection(connection):
            self._record_separately(connection)

    def _record_separately(self, connection: Connection) -> None:
        """Record a connection through another connection."""

        def write(statement: sa.Insert) -> None:
            with self._store.begin() as new_connection:
                new_connection.execute(statement)
                failpoint("database_session_recorded")

        self._record(connection, write)

    def _record_on_itself(self, connection: Connection) -> None:
        """Record a connection on itself, because its next transaction may lock rows, as that of the relay does."""

        def write(statement: sa.Insert) -> None:
            with connection.begin():
                connection.execute(statement)
                failpoint("database_session_recorded")

        self._record(connection, write)

    def _record(self, connection: Connection, write: Callable[[sa.Insert], None]) -> None:
        worker_id = self._worker_id()
        if worker_id is None or connection.info.get(_RECORDED) == worker_id:
            return
        query = dialect_of(connection).session_name_query(connection)
        if query is not None:
            values = query.add_columns(sa.literal(worker_id))
            write(sa.insert(worker_sessions).from_select(["backend", "worker"], values))
        connection.info[_RECORDED] = worker_id


@event.listens_for(Session, "after_begin")
def _began(session: Session, _transaction: Any, connection: Connection) -> None:
    database_sessions: DatabaseSessions | None = session.info.get(_RECORDED)
    if database_sessions is not None:
        database_sessions.record_connection(connection)


def end_sessions(connection: Connection, worker: str) -> None:
    """End the database sessions of a dead worker, which may hold locks if it is only frozen.

    Args:
        connection: A connection to the database of the records, in a transaction.
        worker: The worker's id.
    """
    dialect = dialect_of(connection)
    query = dialect.session_numbers_query(
        sa.select(worker_sessions.c.backend).where(worker_sessions.c.worker == worker)
    )
    if query is None:
        return
    for session_number in connection.execute(query).scalars().all():
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(dialect.end_session_statement(int(session_number)))
        except DBAPIError as error:
            # The session may have ended meanwhile, or this user may lack the privilege.
            log_event(LogEvent.SESSION_NOT_ENDED, worker_id=worker, error=class_path(error))
