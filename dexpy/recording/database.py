"""The database of the records: one engine per process, and SQLite made fit for many writers.

Everything that dexpy writes for itself goes through `Database.begin`.

SQLite takes one writer at a time, and a transaction that has read cannot become a writer
once somebody else has written.
So dexpy's own engine begins nothing at a read: the first *write* of a transaction says ``BEGIN IMMEDIATE``,
which waits its turn, and reads before it see the latest committed rows, as READ COMMITTED has it elsewhere.
A savepoint opened before the first write is only noted, and made real with that write.
The rows of such a read are fetched at once, unless a stream was asked for: a half-read cursor pins its moment,
and the write after it would fail with "database is locked" as soon as somebody else had written.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import threading
import time
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy

from dexpy.foundation.errors import ConfigurationError, DatabaseUnavailable, DexpyError, MissingExtra
from dexpy.foundation.log import line
from dexpy.foundation.trace import current_frame
from dexpy.recording import server, witness

BUSY_TIMEOUT_S = 30
"""How long a writer on SQLite waits for another one, in seconds."""
CONNECT_TIMEOUT_S = 10
"""How long a server may take to let a connection in, in seconds, unless the URL says otherwise by `connect_timeout`."""
PING_AFTER_S = 1.0
"""A connection that was idle for so long, in seconds, is looked at before it is used."""
POOL_SIZE = 20
"""How many connections a process keeps, and as many again that it opens for a while."""

DRIVER_EXTRAS = {"psycopg": "postgres", "pymysql": "mysql", "psycopg2": "postgres"}
"""Which extra installs which driver."""


class Database:
    """Engines for one database URL, made on first use and never shared between processes.

    Args:
        url: A SQLAlchemy URL, ``sqlite:///dexpy.db`` for one.
        engine: An engine of the application's own, used as it is instead of one made here.
    """

    def __init__(self, url: str | URL, *, engine: Engine | None = None) -> None:
        try:
            self.url = make_url(url)
        except (exc.ArgumentError, ValueError) as error:
            # What is taken for the port may be the end of a password.
            why = error if isinstance(error, exc.ArgumentError) else "its port is no number; @ in a password is %40"
            raise ConfigurationError(
                f"The database URL {_without_password(str(url))!r} cannot be read ({why}). "
                "It looks like sqlite:///dexpy.db or postgresql+psycopg://user@host/name."
            ) from None
        self._given = engine
        self._engine: Engine | None = engine
        self._pid = os.getpid()
        self._kin: weakref.WeakKeyDictionary[sa.Pool, bool] = weakref.WeakKeyDictionary()
        # One for each process: a fork copies a lock as it stands, and may copy it taken.
        self._locks: dict[int, threading.Lock] = {}

    @property
    def is_sqlite(self) -> bool:
        """Whether this is a SQLite file."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def path(self) -> str | None:
        """The absolute path of the SQLite file, None for a server or for memory."""
        name = (self.url.database or "").removeprefix("file:")
        if not self.is_sqlite or not name or name == ":memory:":
            return None
        return os.path.realpath(name)

    @property
    def display(self) -> str:
        """The URL without its password."""
        hidden = dict.fromkeys((name for name in self.url.query if "pass" in name.lower()), "***")
        return self.url.update_query_dict(hidden).render_as_string(hide_password=True)

    @property
    def engine(self) -> Engine:
        """This process's engine."""
        if self._engine is not None and self._pid == os.getpid():
            return self._engine
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            if self._engine is not None and self._pid != os.getpid():
                # The parent's connections came along with the fork: forget them without a word to the server.
                self._engine.dispose(close=False)
                self._engine = self._given
            if self._engine is None:
                self._engine = self._create_engine()
            self._pid = os.getpid()
            return self._engine

    def _create_engine(self) -> Engine:
        options: dict[str, Any] = {"pool_size": POOL_SIZE, "max_overflow": POOL_SIZE}
        if not self.is_sqlite:
            if "connect_timeout" not in self.url.query and self.url.drivername.partition("+")[2] in DRIVER_EXTRAS:
                options["connect_args"] = {"connect_timeout": CONNECT_TIMEOUT_S}
            if self.url.get_backend_name() in ("mysql", "mariadb"):
                # Its default, REPEATABLE READ, locks gaps that concurrent claims run into.
                options["isolation_level"] = "READ COMMITTED"
        elif self.path is None:
            options = {"poolclass": sa.StaticPool, "connect_args": {"check_same_thread": False}}
        else:
            options["connect_args"] = {"check_same_thread": False}
        try:
            engine = sa.create_engine(self.url, **options)
        except ModuleNotFoundError as error:
            package = (error.name or "").split(".")[0]
            extra = DRIVER_EXTRAS.get(package.lower())
            if extra is None:
                raise ConfigurationError(
                    f"The database {self.display} needs the package {package!r}, which is not installed. "
                    f"Run: pip install {package}"
                ) from None
            raise MissingExtra(f"The database {self.display}", package, extra) from None
        except exc.NoSuchModuleError:
            raise ConfigurationError(
                f"The database {self.display} is of a kind that SQLAlchemy does not know. "
                "dexpy knows sqlite://, postgresql+psycopg:// and mysql+pymysql://."
            ) from None
        if self.is_sqlite:
            prepare_sqlite(engine)
        else:
            ping_idle_connections(engine)
        return engine

    @contextmanager
    def begin(self) -> Generator[Connection, None, None]:
        """A connection in a transaction, committed at the end of the block, rolled back on an exception.

        Raises:
            DatabaseUnavailable: The database cannot be opened.
        """
        connection = self.connect()
        try:
            with connection.begin():
                yield connection
        finally:
            connection.close()

    @contextmanager
    def at_once(self) -> Generator[Connection, None, None]:
        """A connection on which each statement is committed as it is done: for one that says all, and stands alone.

        One way to PostgreSQL and back, where a transaction takes three. Elsewhere it would save nothing:
        there it is a transaction, as in `begin`.

        Raises:
            DatabaseUnavailable: The database cannot be opened.
        """
        if self.url.get_backend_name() != "postgresql":
            with self.begin() as connection:
                yield connection
            return
        connection = self.connect()
        try:
            # For this use only: the pool gives it its own level back.
            connection.execution_options(isolation_level="AUTOCOMMIT")
            yield connection
        finally:
            connection.close()

    def connect(self) -> Connection:
        """A connection of this process's pool, to be closed by the caller.

        Raises:
            DatabaseUnavailable: The database cannot be opened.
        """
        try:
            return self.engine.connect()
        except exc.DBAPIError as error:
            # In one line: PostgreSQL's client speaks in several.
            said = " ".join(str(error.orig).split())
            end = "" if said.endswith((".", "?")) else "."
            raise DatabaseUnavailable(
                f"The database {self.display} cannot be opened: {said}{end} {self._advice(error)}"
            ) from error

    def _advice(self, error: exc.DBAPIError) -> str:
        if self.path is not None:
            return f"Is {os.path.dirname(self.path)} a folder that this user may write to?"
        if server.is_only_down(error.orig):
            return "Is the server running, and are host and port right?"
        return "Are user, password, database and options right?"

    def same_as(self, other: Connection) -> bool:
        """Whether an application's connection leads to this very database, whatever its URL says.

        The answer is kept for all connections of its pool.

        Args:
            other: In any transaction, which goes on; it is read through, and nothing is written.
        """
        pool = other.engine.pool
        if self._engine is not None and pool is self._engine.pool:
            return True
        if pool not in self._kin:
            try:
                self._kin[pool] = self._meets(other)
            except DatabaseUnavailable:
                # Looked at again next time. Until then the names must do: what comes next says that it is away.
                theirs = other.engine.url
                return (self.url.host, self.url.port, self.url.database) == (theirs.host, theirs.port, theirs.database)
        return self._kin[pool]

    def _meets(self, other: Connection) -> bool:
        if not witness.are_kin(self.url.get_backend_name(), other.dialect.name):
            return False
        if self.is_sqlite:
            # Not by a connection of our own, which might have to wait for the transaction of the other one.
            return self.path is not None and witness.opens(other, self.path)
        with self.begin() as own:
            return witness.meet(own, other)

    def dispose(self) -> None:
        """Close the connections that this process holds; an engine that was given stays as it is."""
        if self._engine is not None and self._given is None:
            self._engine.dispose(close=self._pid == os.getpid())
            self._engine = None


def is_only_down(error: DexpyError) -> bool:
    """Whether an error says that a database's server is down or about to start, so that waiting may help."""
    cause = error.__cause__
    return (
        isinstance(error, DatabaseUnavailable) and isinstance(cause, exc.DBAPIError) and server.is_only_down(cause.orig)
    )


def _without_password(url: str) -> str:
    """What was meant for a URL, readable or not."""
    return re.sub(r"^([^:/]*:?/*[^:/@]*):.*@", r"\1:***@", url)


_READS = re.compile(r"\s*(SELECT|PRAGMA|EXPLAIN|VALUES|BEGIN|COMMIT|ROLLBACK|END)\b", re.IGNORECASE)
_WITH = re.compile(r"\s*WITH\b", re.IGNORECASE)
_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE)
_SAVEPOINT = re.compile(r"\s*(SAVEPOINT|RELEASE SAVEPOINT|ROLLBACK TO SAVEPOINT)\s+(\S+)", re.IGNORECASE)
_IDLE_SINCE = "dexpy_idle_since"
_NOTED = "dexpy_noted_savepoints"
_NOTHING = "SELECT 1"
_IMMEDIATE = "BEGIN IMMEDIATE"
_LOCKED_SINCE = "dexpy_locked_since"
LONG_LOCK_S = 5.0
"""Holding SQLite's one write lock longer than this, in seconds, is said in the log: every other writer waits."""


def prepare_sqlite(engine: Engine) -> None:
    """Install the recipe of this module on an engine for a SQLite file."""

    @event.listens_for(engine, "connect")
    def connect(driver: Any, _record: Any) -> None:
        driver.isolation_level = None
        cursor = driver.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")
        _switch_to_wal(cursor)
        # FULL: what was committed outlives a power cut, not only a killed process.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def before(
        connection: Connection, cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
    ) -> tuple[str, Any]:
        driver: Any = connection.connection.driver_connection
        if driver.in_transaction:
            return statement, parameters
        noted: list[str] = connection.info.setdefault(_NOTED, [])
        if found := _SAVEPOINT.match(statement):
            word, name = found[1].upper(), found[2]
            if word == "SAVEPOINT":
                noted.append(name)
            elif name in noted:
                del noted[noted.index(name) + (word != "RELEASE SAVEPOINT") :]
            return _NOTHING, parameters
        asked = statement == _IMMEDIATE
        if asked or is_write(statement):
            cursor.execute(_IMMEDIATE)
            connection.info[_LOCKED_SINCE] = time.monotonic()
            for name in noted:
                cursor.execute(f"SAVEPOINT {name}")
            noted.clear()
        return (_NOTHING if asked else statement), parameters

    @event.listens_for(engine, "after_cursor_execute")
    def after(
        connection: Connection, cursor: Any, _statement: str, _parameters: Any, context: Any, _many: bool
    ) -> None:
        driver: Any = connection.connection.driver_connection
        streamed = context.execution_options.get("stream_results", False)
        if cursor.description and not driver.in_transaction and not streamed:
            context.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(cursor, initial_buffer=cursor.fetchall())

    @event.listens_for(engine, "commit")
    @event.listens_for(engine, "rollback")
    def ended(connection: Connection) -> None:
        # An interrupt inside a statement makes SQLAlchemy throw the connection away, and its notes with it:
        # asking such a connection for its notes would raise, and hide the interrupt.
        if connection.invalidated:
            return
        connection.info.pop(_NOTED, None)
        since = connection.info.pop(_LOCKED_SINCE, None)
        if since is not None and (held_s := time.monotonic() - since) > LONG_LOCK_S:
            line(
                logging.WARNING,
                "database.locked_long",
                operation=current_frame().operation,
                run=current_frame().run_id,
                seconds=held_s,
                advice="write late in perform, or say transaction = False",
            )


def ping_idle_connections(engine: Engine) -> None:
    """Ask a server whether a connection still lives before it is used again, if it has been idle for a while.

    As SQLAlchemy's ``pool_pre_ping`` does for every use, which costs a busy worker one way to the server in four.
    """

    @event.listens_for(engine, "checkin")
    def checked_in(_driver: Any, entry: Any) -> None:
        entry.info[_IDLE_SINCE] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def checked_out(driver: Any, entry: Any, _proxy: Any) -> None:
        since = entry.info.get(_IDLE_SINCE)
        if since is None or time.monotonic() - since < PING_AFTER_S:
            return
        try:
            engine.dialect.do_ping(driver)
        except engine.dialect.loaded_dbapi.Error as error:
            # The pool makes a new one in its place.
            raise exc.DisconnectionError("the connection was lost while it was idle") from error


def _switch_to_wal(cursor: Any) -> None:
    # SQLite does not wait here, whatever its busy_timeout: while another connection has just begun to write,
    # or makes the same switch on a fresh file, this fails at once.
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def is_write(statement: str) -> bool:
    """Whether a SQL statement changes something, by its first word."""
    if _READS.match(statement):
        return False
    return not _WITH.match(statement) or _WRITES.search(statement) is not None


def take_write_lock(connection: Connection) -> None:
    """Begin the writing part of a SQLite transaction now, before what is read under it."""
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite" and not driver.in_transaction:
        connection.exec_driver_sql(_IMMEDIATE)
