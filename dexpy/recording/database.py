"""The database of the records: one engine for each process.

Everything that dexpy writes for itself goes through `Database.begin`.
"""

from __future__ import annotations

import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, Engine, make_url

from dexpy.foundation.errors import ConfigurationError, DatabaseBusy, DatabaseUnavailable, DexpyError, MissingExtra
from dexpy.recording import lock_waits, server, witness
from dexpy.recording.sqlite import BUSY_TIMEOUT_S, is_busy, prepare_sqlite

CONNECT_TIMEOUT_S = 10
"""How long a server may take to let a connection in, in seconds, unless the URL says otherwise by `connect_timeout`."""
PING_AFTER_S = 1.0
"""A connection that was idle for so long, in seconds, is looked at before it is used."""
POOL_SIZE = 20
"""How many connections a process keeps, and as many again that it opens for a while."""

THRESHOLD = "prepare_threshold"
"""Of psycopg, in a URL: after how many uses it prepares a statement; never, behind a pooler that cannot have it."""
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
        self.watcher: Callable[[Connection], None] | None = None
        """Told of each connection before a transaction of dexpy's own begins on it, in a worker."""

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
        url, prepared = _without_threshold(self.url)
        if not self.is_sqlite:
            if "connect_timeout" not in self.url.query and self.url.drivername.partition("+")[2] in DRIVER_EXTRAS:
                options["connect_args"] = {"connect_timeout": CONNECT_TIMEOUT_S}
            options["connect_args"] = {**options.get("connect_args", {}), **prepared}
            if self.url.get_backend_name() in ("mysql", "mariadb"):
                # Its default, REPEATABLE READ, locks gaps that concurrent claims run into.
                options["isolation_level"] = "READ COMMITTED"
        elif self.path is None:
            options = {"poolclass": sa.StaticPool, "connect_args": {"check_same_thread": False}}
        else:
            options["connect_args"] = {"check_same_thread": False}
        try:
            # What is written has props in it: no error of the driver's is to show them.
            engine = sa.create_engine(url, hide_parameters=True, **options)
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
            DatabaseBusy: SQLite's write lock was held by somebody else for too long; nothing was written.
        """
        connection = self.connect()
        try:
            if self.watcher is not None:
                self.watcher(connection)
            with connection.begin(), lock_waits.bounded(connection):
                yield connection
        except exc.OperationalError as error:
            if is_busy(error):
                raise self._busy() from error
            raise
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

    def _busy(self) -> DatabaseBusy:
        return DatabaseBusy(
            f"The database {self.display} could not be written to: for {BUSY_TIMEOUT_S} s somebody else has held "
            "SQLite's one write lock. Nothing was changed; try again. The log says which operation holds it long "
            "(database.locked_long): let that write late in perform, or say transaction = False."
        )

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


def _without_threshold(url: URL) -> tuple[URL, dict[str, Any]]:
    """A URL without ``prepare_threshold``, and what it says as psycopg takes it: a number, or None for never."""
    if THRESHOLD not in url.query or url.drivername.partition("+")[2] != "psycopg":
        return url, {}
    said = str(url.query[THRESHOLD])
    if said.lower() != "none" and not said.isdecimal():
        raise ConfigurationError(
            f"The database {url.render_as_string(hide_password=True)}: {THRESHOLD}={said} wants a number of uses after "
            "which a statement is prepared, or none for never."
        )
    return url.difference_update_query([THRESHOLD]), {THRESHOLD: None if said.lower() == "none" else int(said)}


def _without_password(url: str) -> str:
    """What was meant for a URL, readable or not."""
    return re.sub(r"^([^:/]*:?/*[^:/@]*):.*@", r"\1:***@", url)


_IDLE_SINCE = "dexpy_idle_since"


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
