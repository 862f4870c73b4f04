"""The database sessions of workers, noted as they begin: those of a dead one can be ended then.

A worker that is only frozen may hold locks, in a run's transaction or in one of its relay, that its successor needs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from dexpy.foundation.checkpoint import checkpoint
from dexpy.foundation.log import line
from dexpy.foundation.redaction import class_path
from dexpy.recording.store import Store
from dexpy.recording.tables import worker_sessions

_NOTED = "dexpy_sessions"
"""In the `info` of an ORM session: who notes it; of a connection: under which name it is noted."""


class Sessions:
    """Notes each database session of this process, once, under the name of its worker.

    Args:
        store: Where the records are.
        worker: Gives the name; None before there is one.
    """

    def __init__(self, store: Store, worker: Callable[[], str | None]) -> None:
        self._store = store
        self._worker = worker

    def begin(self) -> None:
        """Note what begins from now on: sessions of runs, those that hold locks, dexpy's own."""
        self._store.watcher = self._watch
        self._store.locks.watcher = self._note_beside
        self._store.database.watcher = self._note_itself

    def end(self) -> None:
        """Note nothing more."""
        self._store.watcher = None
        self._store.locks.watcher = None
        self._store.database.watcher = None

    def _watch(self, session: Session) -> None:
        session.info[_NOTED] = self

    def began(self, connection: Connection) -> None:
        """Note the connection of a run's session, if it leads to the records' own server."""
        if connection.info.get(_NOTED) != self._worker() and self._store.is_ours(connection):
            self._note_beside(connection)

    def _note_beside(self, connection: Connection) -> None:
        """Note a connection to the records' own server, by another connection."""

        def write(statement: sa.Insert) -> None:
            with self._store.begin() as own:
                own.execute(statement)
                checkpoint("session_noted")

        self._note(connection, write)

    def _note_itself(self, connection: Connection) -> None:
        """The same, on the connection itself: the next transaction on it may hold rows too, the relay's for one."""

        def write(statement: sa.Insert) -> None:
            with connection.begin():
                connection.execute(statement)
                checkpoint("session_noted")

        self._note(connection, write)

    def _note(self, connection: Connection, write: Callable[[sa.Insert], None]) -> None:
        worker = self._worker()
        if worker is None or connection.info.get(_NOTED) == worker:
            return
        query = _backend_of(connection)
        if query is not None:
            values = query.add_columns(sa.literal(worker))
            write(sa.insert(worker_sessions).from_select(["backend", "worker"], values))
        connection.info[_NOTED] = worker


@event.listens_for(Session, "after_begin")
def _began(session: Session, _transaction: Any, connection: Connection) -> None:
    noted_by: Sessions | None = session.info.get(_NOTED)
    if noted_by is not None:
        noted_by.began(connection)


def end_sessions(connection: Connection, worker: str) -> None:
    """End the database sessions of a dead worker: one that is only frozen may hold locks that its successor needs.

    Args:
        connection: Of the records' database, in a transaction.
        worker: Its id.
    """
    names = sa.select(worker_sessions.c.backend).where(worker_sessions.c.worker == worker)
    if connection.dialect.name == "postgresql":
        activity = sa.table("pg_stat_activity", sa.column("pid"), sa.column("backend_start"))
        query = sa.select(activity.c.pid).where(_postgresql_name(activity).in_(names))
        statement = "SELECT pg_terminate_backend({})"
    elif connection.dialect.name in ("mysql", "mariadb"):
        listed = _processlist()
        query = sa.select(listed.c.id).where(_mariadb_name(listed).in_(names))
        statement = "KILL CONNECTION {}"
    else:
        return
    for number in connection.execute(query).scalars().all():
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(statement.format(int(number)))
        except DBAPIError as error:
            # It may have ended by itself meanwhile, or belong to a user that we may not touch.
            line(logging.WARNING, "takeover.refused", worker=worker, error=class_path(error))


def _backend_of(connection: Connection) -> sa.Select[Any] | None:
    """The name of a database session, as its server has it in its list; None where there is no such list.

    Its number alone may come back after a restart, so the moment or address of its birth belongs to it.
    """
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "postgresql":
        pid = driver.info.backend_pid if hasattr(driver, "info") else driver.get_backend_pid()
        activity = sa.table("pg_stat_activity", sa.column("pid"), sa.column("backend_start"))
        return sa.select(_postgresql_name(activity)).where(activity.c.pid == pid)
    if connection.dialect.name in ("mysql", "mariadb") and hasattr(driver, "thread_id"):
        listed = _processlist()
        return sa.select(_mariadb_name(listed)).where(listed.c.id == driver.thread_id())
    return None


def _postgresql_name(activity: sa.TableClause) -> sa.ColumnElement[str]:
    # In seconds since 1970: as text a moment looks different in each time zone.
    born = sa.cast(sa.extract("epoch", activity.c.backend_start), sa.Text)
    return sa.cast(activity.c.pid, sa.Text).op("||")("/").op("||")(born)


def _processlist() -> sa.TableClause:
    return sa.table("processlist", sa.column("id"), sa.column("host"), schema="information_schema")


def _mariadb_name(listed: sa.TableClause) -> sa.ColumnElement[str]:
    return sa.func.concat(listed.c.id, "/", listed.c.host)
