"""The database of the records: one engine for each process.

All writes of dexpy on its own connections go through `Database.begin`. This long class has all rules for these
connections, and their errors.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import weakref
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, Engine, make_url

from dexpy.database import lock_timeouts, same_database, schema_names, self_deadlock, server_info, table_layout
from dexpy.database.current_transaction import transaction_scope
from dexpy.database.dialects import SQLITE, dialect_named, dialect_of
from dexpy.database.engine_options import new_engine, synchronous
from dexpy.database.errors import is_full
from dexpy.database.sqlite import (
    BUSY_TIMEOUT_S,
    WITHOUT_WAL,
    OpenFile,
    await_wal,
    create_private_files,
    is_busy,
    prepare_sqlite,
)
from dexpy.database.tables import records
from dexpy.foundation.errors import ConfigurationError, DatabaseBusy, DatabaseUnavailable, DexpyError
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path
from dexpy.foundation.urls import displayed_url, without_secrets

ALWAYS_ACCEPTED = 16_000
"""A statement of at most this many characters is accepted by every server, whose limit then need not be read."""
ROW_OVERHEAD_BYTES = 64_000
"""The space for the other parts of a statement, in bytes."""
MAX_BYTES = 500_000_000
"""The maximum size of a value, in bytes: half of that of PostgreSQL and SQLite."""


class Database:
    """Engines for one database URL, one for each process, created at the first use.

    Args:
        url: A SQLAlchemy URL, for example ``sqlite:///dexpy.db``.
        engine: An engine of the application, to use instead of a new one.
        schema: The schema of dexpy's tables, or their database on MariaDB; None for the one that connections are in.

    Attributes:
        url: The parsed URL.
        backend: The kind of database, as SQLAlchemy names it, ``postgresql`` for example.
        dialect: The `Dialect` of this kind of database.
        schema: The configured schema; None without one.
    """

    def __init__(self, url: str | URL, *, engine: Engine | None = None, schema: str | None = None) -> None:
        self._url_text = url if isinstance(url, str) else url.render_as_string(hide_password=False)
        try:
            self.url = make_url(url)
        except (exc.ArgumentError, ValueError) as error:
            # The part that is parsed as the port may be the end of a password.
            is_unparsed = isinstance(error, exc.ArgumentError)
            why = error if is_unparsed else "the port is not a number; write @ in a password as %40"
            raise ConfigurationError(
                f"database: invalid URL {displayed_url(self._url_text)!r} ({without_secrets(why, self._url_text)}); "
                "expected a URL such as sqlite:///dexpy.db or postgresql+psycopg://user@host/name."
            ) from None
        if any(character in (self.url.host or "") for character in "@/?#\\ "):
            raise ConfigurationError(
                f"database: ambiguous URL {displayed_url(self._url_text)!r}; its password is not escaped. "
                "Write / ? # @ in a password as %2F %3F %23 %40."
            )
        self.backend = self.url.get_backend_name()
        self.dialect = dialect_named(self.backend)
        self._refuse_asyncio()
        if schema is not None and self.dialect.fixed_schema is not None:
            raise ConfigurationError(
                f"schema: {self.display_url} has no schemas; got {schema!r}. Remove the setting, or set "
                "table_prefix or another file."
            )
        self.schema = schema
        self._external_engine = engine
        self._file = None if self.path is None else OpenFile(self.path, self._file_deleted_error)
        self._engine: Engine | None = engine
        self._pid = os.getpid()
        self._schema = schema
        self._max_packet: int | None = None
        self._same_database_pools: weakref.WeakKeyDictionary[sa.Pool, bool] = weakref.WeakKeyDictionary()
        # One for each process: a fork may copy a lock while it is held.
        self._locks: dict[int, threading.Lock] = {}
        self.watcher: Callable[[Connection], None] | None = None
        """In a worker: called with each connection before dexpy begins a transaction on it."""

    def _refuse_asyncio(self) -> None:
        try:
            # Load the dialect only: its driver may not be installed.
            is_async = "+" in self.url.drivername and self.url.get_dialect().is_async
        except (exc.NoSuchModuleError, ImportError):
            # The first use reports it, as for every other unknown kind.
            return
        if is_async:
            raise ConfigurationError(
                f"database {self.display_url}: expected a synchronous driver, which dexpy calls in threads; got the "
                f"asyncio driver {self.url.get_driver_name()!r}. Use {synchronous(self.url)}"
            )

    @property
    def path(self) -> str | None:
        """The absolute path of the SQLite file; None for a server or a database in memory."""
        name = (self.url.database or "").removeprefix("file:")
        if self.dialect.has_server or not name or name == ":memory:":
            return None
        return os.path.realpath(name)

    @property
    def display_url(self) -> str:
        """The URL for messages: its scheme, host, port and path."""
        # Render by SQLAlchemy: other parsers end a password at some characters that it accepts.
        return displayed_url(self.url.render_as_string(hide_password=False))

    def describe_error(self, error: exc.DBAPIError) -> str:
        """Return the driver's message on one line, without secrets of the URL."""
        # PostgreSQL's client writes several lines.
        return without_secrets(" ".join(str(error.orig).split()), self._url_text)

    @property
    def engine(self) -> Engine:
        """This process's engine."""
        if self._engine is not None and self._pid == os.getpid():
            return self._engine
        return self._open_engine()

    def _open_engine(self) -> Engine:
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            if self._engine is not None and self._pid != os.getpid():
                # A fork has copies of the parent's connections: drop them without closing them.
                self._engine.dispose(close=False)
                self._engine = self._external_engine
            if self._engine is None:
                self._engine = self._create_engine()
            self._pid = os.getpid()
            return self._engine

    def load_driver(self) -> None:
        """Create this process's engine, which imports the driver and reads the options of the URL; open no connection.

        Raises:
            ConfigurationError: The URL is invalid.
            MissingExtra: The driver is not installed.
        """
        self._open_engine()

    def _create_engine(self) -> Engine:
        try:
            engine = new_engine(self.url, self.dialect, self.path, self.display_url)
        except (ValueError, TypeError, exc.ArgumentError) as error:
            raise self._url_error(error) from None
        if self.dialect is SQLITE:
            prepare_sqlite(
                engine,
                self._refuse_self_wait,
                lambda: self_deadlock.refuse_wait_for_own_thread(self.display_url, self.path),
            )
            if self._file is not None:
                self._file.listen(engine)
            # The mode of a URI may require that the file exists.
            if self.path is not None and "mode" not in self.url.query:
                create_private_files(engine, self.path)
        else:
            event.listen(engine, "connect", lambda *_: schema_names.name_tables(engine, self._schema or ""))
        return engine

    @contextmanager
    def begin(self) -> Generator[Connection, None, None]:
        """Yield a connection in a transaction, which commits at the end of the block and rolls back on an exception.

        Raises:
            DatabaseUnavailable: The database does not open, its disk is full, or it is read-only.
            DatabaseBusy: Waiting for SQLite's write lock has timed out; nothing was written.
        """
        connection = self.connect()
        try:
            if self.dialect is SQLITE and connection.info.get(WITHOUT_WAL):
                await_wal(connection)
            if self.watcher is not None:
                self.watcher(connection)
            waits = lock_timeouts.limit_waits(connection) if self.dialect.has_server else nullcontext()
            with connection.begin(), waits:
                yield connection
        except exc.DBAPIError as error:
            if is_busy(error):
                raise self.busy() from error
            if is_full(error):
                raise self._full(error) from error
            raise
        finally:
            connection.close()

    def autocommit(self) -> AbstractContextManager[Connection]:
        """Return a context manager of a connection in autocommit mode, for a single statement.

        On PostgreSQL this takes one round trip instead of the three of a transaction. Other databases save nothing by
        it, so there it is a transaction, as in `begin`.

        Raises:
            DatabaseUnavailable: The database does not open.
        """
        return self._autocommit() if self.dialect.is_faster_with_autocommit else self.begin()

    @contextmanager
    def _autocommit(self) -> Generator[Connection, None, None]:
        connection = self.connect()
        try:
            # The pool resets the isolation level.
            connection.execution_options(isolation_level="AUTOCOMMIT")
            yield connection
        finally:
            connection.close()

    def connect(self) -> Connection:
        """Return a connection of this process's pool, which the caller closes.

        Raises:
            DatabaseUnavailable: The database does not open.
        """
        try:
            connection = self.engine.connect()
            try:
                # An earlier run may have changed the schema of a pooled connection.
                if self.dialect.fixed_schema is None or schema_names.OPTION in connection.get_execution_options():
                    schema_names.name_schema(connection, self.schema_of_tables(connection))
            except BaseException:
                connection.close()
                raise
            return connection
        except (TypeError, ValueError) as error:
            raise self._url_error(error) from None
        except exc.DBAPIError as error:
            if is_busy(error):
                raise self.busy("open") from error
            message = self.describe_error(error)
            end = "" if message.endswith((".", "?")) else "."
            raise DatabaseUnavailable(
                f"Cannot open {self.display_url}: {message}{end} {self._advice(error)}"
            ) from error

    @contextmanager
    def with_own_schema(self, other: Connection) -> Generator[Connection, None, None]:
        """Name the schema of dexpy's tables in statements on an application's connection.

        After the block the connection's search path, database and map of schemas are as before.

        Args:
            other: A connection to this database, in any transaction.
        """
        table_layout.forget_statements(other.engine)
        before = schema_names.schema_map_of(other)
        schema_names.name_schema(other, self.schema_of_tables(None))
        try:
            yield other
        finally:
            schema_names.restore(other, before)

    @property
    def namespace(self) -> str:
        """What tells dexpy's tables from those of other installations in this database; "" by default."""
        prefix = table_layout.table_prefix()
        return prefix if self.schema is None else f"{self.schema}.{prefix}"

    def schema_of_tables(self, connection: Connection | None) -> str:
        """Return the schema of dexpy's tables, or their database on MariaDB; read once in a process.

        Args:
            connection: One of this database's own connections to read it by; None opens one.
        """
        if self.dialect.fixed_schema is not None:
            return self.dialect.fixed_schema
        if self._schema is None:
            if connection is not None:
                self._schema = schema_names.read_schema(connection)
                if self._external_engine is None:
                    schema_names.name_tables(connection.engine, self._schema or "")
            else:
                self.connect().close()
        return self._schema or ""

    def _refuse_self_wait(self, is_mine: bool) -> None:
        """Refuse to wait for the write lock if the wait would never end; see `self_deadlock.refuse_self_wait`."""
        if is_mine or transaction_scope.innermost().value is not None:
            self_deadlock.refuse_self_wait(self.display_url, self.same_as, is_mine)

    def _url_error(self, error: Exception) -> ConfigurationError:
        """Build the error for options in the URL that the driver does not accept."""
        why = without_secrets(" ".join(str(error).split()).rstrip("."), self._url_text)
        return ConfigurationError(f"Cannot open {self.display_url}: {why}. Check the options of the URL.")

    def busy(self, action: str = "write to") -> DatabaseBusy:
        """Build the error of a statement that waited too long for SQLite's write lock.

        Args:
            action: The verb for what failed, in the message.
        """
        return DatabaseBusy(
            f"Cannot {action} {self.display_url}: another connection has held SQLite's only write lock for "
            f"{BUSY_TIMEOUT_S} s. Nothing was changed. If a session of this thread holds it, commit that session or "
            "join it: `with dexpy.session(session):`. Otherwise find the operation in the log (database.locked_long), "
            "and write late in its perform or set transaction = False. Then retry."
        )

    def _full(self, error: exc.DBAPIError) -> DatabaseUnavailable:
        """Build the error of a database that accepts no writes for now."""
        return DatabaseUnavailable(
            f"Cannot write to {self.display_url}: {self.describe_error(error).rstrip('.')}. Nothing was changed. Free "
            "disk space, or check whether the server is read-only. Then retry; workers continue by themselves."
        )

    def _advice(self, error: exc.DBAPIError) -> str:
        if self.path is not None:
            return self._advice_on_file(os.path.dirname(self.path), str(error.orig))
        if server_info.is_only_down(error.orig):
            return "Check that the server is running, and check host and port."
        return "Check user, password, database and options."

    def _advice_on_file(self, folder: str, message: str) -> str:
        if "not a database" in message or "malformed" in message:
            return "Check that it is a SQLite file; use another path, or move the file."
        if not os.path.isdir(folder):
            return f"The folder {folder} does not exist. Create it, or correct the path."
        if self.path is not None and os.path.isdir(self.path):
            return "The path is a folder. Use the path of a file."
        return f"Check that this user may write to {folder}."

    def same_as(self, other: Connection) -> bool:
        """Return whether an application's connection is to this database, whatever its URL.

        The result is cached for all connections of its pool.

        Args:
            other: A connection in any transaction; only read from.
        """
        pool = other.engine.pool
        if self._engine is not None and pool is self._engine.pool:
            return True
        if pool not in self._same_database_pools:
            try:
                self._same_database_pools[pool] = self._is_same_database(other)
            except DatabaseUnavailable:
                # While the database is unreachable, compare host, port and name, and cache nothing.
                url = other.engine.url
                return (self.url.host, self.url.port, self.url.database) == (url.host, url.port, url.database)
        return self._same_database_pools[pool]

    def _is_same_database(self, other: Connection) -> bool:
        if dialect_of(other) is not self.dialect:
            return False
        if self.dialect.has_one_write_lock:
            # A connection of dexpy could wait for the transaction of the other one.
            return self.path is not None and same_database.has_open(other, self.path)
        with self.begin() as records_connection:
            # The default schema of its engine, not the current one: the result is for all of its connections.
            is_default = other.dialect.default_schema_name == self.schema_of_tables(records_connection)
            # With a configured schema, the one of the connection does not matter.
            table = None if is_default or self.schema is not None else records.name
            return self.dialect.is_same_database(records_connection, other, table=table)

    def why_too_large(self, *values: Any) -> str | None:
        """Return why the database would refuse a row with these values as JSON; None if it accepts them.

        MariaDB and MySQL close the connection after a statement that is too large. That looks like an outage, but a
        retry fails in the same way.
        """
        size = 0
        dialect = self.dialect
        levels = dialect.json_levels
        for value in values:
            if value is None:
                continue
            try:
                text = json.dumps(value)
            except (RecursionError, TypeError, ValueError) as error:
                return f"it has no JSON form ({class_path(error)})"
            if text.count("[") + text.count("{") > levels and _is_deeper(value, levels):
                return f"it is nested deeper than the {levels} levels that the database accepts"
            size += len(text)
            if dialect.closes_on_large_statement:
                # Characters that are escaped in the statement.
                size += sum(text.count(character) for character in "\"'\\")
        if size <= ALWAYS_ACCEPTED:
            return None
        limit = self._max_statement_bytes()
        if limit is None or size + ROW_OVERHEAD_BYTES <= limit:
            return None
        setting = " (max_allowed_packet)" if dialect.closes_on_large_statement else ""
        return f"it has {size} bytes in a statement; the database accepts at most {limit}{setting}"

    def _max_statement_bytes(self) -> int | None:
        """Return the maximum size of a statement in bytes; None if the server is unreachable."""
        if not self.dialect.closes_on_large_statement:
            return MAX_BYTES
        if self._max_packet is None:
            try:
                with self.connect() as connection:
                    self._max_packet = int(connection.execute(sa.text("SELECT @@max_allowed_packet")).scalar_one())
            except Exception as error:  # noqa: BLE001 - the write that follows raises the same error
                log_event(LogEvent.DATABASE_UNREACHABLE, logging.DEBUG, error=class_path(error))
        return self._max_packet

    def _file_deleted_error(self) -> DatabaseUnavailable:
        return DatabaseUnavailable(
            f"{self.display_url}: the file was deleted while this process had it open. Nothing was written, and other "
            "processes cannot see its data. Restore the file, or restart this process to start with an empty file."
        )

    @property
    def is_file_replaced(self) -> bool:
        """Whether the SQLite file that this process has opened was deleted or replaced."""
        return self._file is not None and self._file.is_replaced

    def follow_file(self) -> bool:
        """Close idle connections if the file at the path has changed since the last call; return whether it has.

        Connections that are opened later use the new file.
        """
        if self._file is None or not self._file.has_changed():
            return False
        if self._engine is not None:
            self._engine.dispose()
        return True

    def dispose(self) -> None:
        """Close the connections of this process; does not dispose of an engine of the application."""
        if self._engine is not None and self._external_engine is None:
            self._engine.dispose(close=self._pid == os.getpid())
            self._engine = None


def is_only_down(error: DexpyError) -> bool:
    """Whether an error means that the server is down or starting, so that waiting may help."""
    cause = error.__cause__
    if not isinstance(error, DatabaseUnavailable) or not isinstance(cause, exc.DBAPIError):
        return False
    return server_info.is_only_down(cause.orig) or is_full(cause)


def _is_deeper(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [item for container in level for item in _items_of(container)]
        if not level:
            return False
    return any(isinstance(item, (list, dict, tuple)) for item in level)


def _items_of(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(cast("Any", value).values())
    return list(cast("list[Any]", value)) if isinstance(value, (list, tuple)) else []
