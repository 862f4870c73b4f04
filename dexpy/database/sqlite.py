"""SQLite with many concurrent writers.

SQLite allows one writer at a time, and a transaction that has read cannot write after another one has written.
So dexpy's engine begins no transaction at a read: the first *write* of a transaction executes ``BEGIN IMMEDIATE``,
which waits for the write lock. Reads before it see the latest committed rows, as in READ COMMITTED.
A savepoint before the first write is executed together with that write.
The rows of such a read are fetched at once, unless a stream was requested: an open cursor keeps its snapshot, and a
later write would fail with "database is locked" if another connection has written since.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

import attrs
from sqlalchemy import Pool, dialects, event, exc
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy

from dexpy.database.current_transaction import current_transaction
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.trace import current_frame

BUSY_TIMEOUT_S = 30
"""How long a writer waits for SQLite's write lock, in seconds."""

_READS = re.compile(r"\s*(SELECT|PRAGMA|EXPLAIN|VALUES|BEGIN|COMMIT|ROLLBACK|END)\b", re.IGNORECASE)
_WITH = re.compile(r"\s*WITH\b", re.IGNORECASE)
_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE)
_SAVEPOINT = re.compile(r"\s*(SAVEPOINT|RELEASE SAVEPOINT|ROLLBACK TO SAVEPOINT)\s+(\S+)", re.IGNORECASE)
_PENDING_SAVEPOINTS = "dexpy_noted_savepoints"
_NO_OP = "SELECT 1"
BEGIN_IMMEDIATE = "BEGIN IMMEDIATE"
_LOCKED_SINCE = "dexpy_locked_since"
_BEGINS_AT_FIRST_WRITE = "dexpy_begins_at_first_write"
WITHOUT_WAL = "dexpy_without_wal"
"""The key in the `info` of a connection for whether its file is still to be switched to WAL."""
_FILE = "dexpy_file"
WAL_WAIT_S = 1.0
"""How long the start of a transaction waits to switch a file to WAL, in seconds, before it continues without WAL."""
LONG_LOCK_S = 5.0
"""A transaction that holds SQLite's write lock for longer than this, in seconds, is logged: all other writers wait."""
_OWN = "dexpy_own"
"""The key in the `info` of a pool's record that marks a connection of dexpy."""


@attrs.frozen
class _Use:
    thread: int
    driver: sqlite3.Connection
    num_changes: int


_uses: dict[int, _Use] = {}
"""The checked-out connections of the application, by the id of their pool's record, to detect deadlocks in a thread."""


def files_written_in_this_thread() -> list[str]:
    """Return the paths of files in which an application's connection has a transaction in this thread."""
    thread = threading.get_ident()
    return [path for use in list(_uses.values()) if use.thread == thread for path in _written_by(use)]


def _track_pools() -> None:
    """Track the connections of all pools; idempotent."""
    for name in ("checkout", "checkin", "close", "detach"):
        listener = _checked_out if name == "checkout" else _checked_in
        if not event.contains(Pool, name, listener):
            event.listen(Pool, name, listener)


def _checked_out(driver: Any, entry: Any, _proxy: Any) -> None:
    if isinstance(driver, sqlite3.Connection) and _OWN not in entry.info:
        _uses[id(entry)] = _Use(threading.get_ident(), driver, driver.total_changes)


def _checked_in(_driver: Any, entry: Any) -> None:
    _uses.pop(id(entry), None)


def _written_by(use: _Use) -> list[str]:
    try:
        if not use.driver.in_transaction:
            return []
        # Python's driver begins a transaction only before a write, unless the application begins one.
        if use.driver.isolation_level is None and use.driver.total_changes == use.num_changes:
            return []
        return [file for _, _, file in use.driver.execute("PRAGMA database_list") if file]
    except sqlite3.Error:
        # The connection is closed, or another thread has created it.
        return []


def create_private_files(engine: Engine, path: str) -> None:
    """Create new SQLite files with permissions for their owner only, which SQLite copies to its -wal and -shm files."""

    @event.listens_for(engine, "do_connect")
    def before_connect(_dialect: Any, _record: Any, _arguments: Any, _options: Any) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        # The file exists already, or its creation fails and SQLite raises its own error.
        with contextlib.suppress(OSError):
            os.close(os.open(path, flags, 0o600))


class OpenFile:
    """The file that this process has open at a path; writes to a deleted or replaced file would be lost.

    Args:
        path: The path of the file.
        deleted_error: Returns the error to raise if the file was deleted.
    """

    def __init__(self, path: str, deleted_error: Callable[[], Exception]) -> None:
        self._path = path
        self._deleted_error = deleted_error
        self._opened_id: tuple[int, int] | None = None
        self._last_id: tuple[int, int] | None = None

    def _current_id(self) -> tuple[int, int] | None:
        try:
            stat = os.stat(self._path)
        except OSError:
            return None
        return stat.st_dev, stat.st_ino

    @property
    def is_replaced(self) -> bool:
        """Whether the file that was opened first was deleted or replaced."""
        return self._opened_id is not None and self._current_id() != self._opened_id

    def has_changed(self) -> bool:
        """Whether the file at the path was deleted or replaced since the last call."""
        file_id = self._current_id()
        if self._opened_id is None or file_id == self._last_id:
            return False
        self._last_id = file_id
        return True

    def listen(self, engine: Engine) -> None:
        """Refuse connections to a deleted file, and discard those to a replaced file."""

        @event.listens_for(engine, "do_connect")
        def before_connect(_dialect: Any, _record: Any, _arguments: Any, _options: Any) -> None:
            if self._opened_id is not None and self._current_id() is None:
                raise self._deleted_error()

        @event.listens_for(engine, "connect")
        def connected(_driver: Any, entry: Any) -> None:
            entry.info[_FILE] = file_id = self._current_id()
            if self._opened_id is None:
                self._opened_id = self._last_id = file_id

        @event.listens_for(engine, "checkout")
        def checked_out(_driver: Any, entry: Any, _proxy: Any) -> None:
            file_id = self._current_id()
            if file_id is None:
                raise self._deleted_error()
            if file_id != entry.info.get(_FILE):
                raise exc.DisconnectionError("the file was replaced")


def prepare_sqlite(
    engine: Engine,
    refuse: Callable[[bool], None] = lambda _is_mine: None,
    refuse_own: Callable[[], None] = lambda: None,
) -> None:
    """Install the listeners of this module on an engine for a SQLite file.

    Args:
        engine: The engine of the file.
        refuse: Called before a connection waits for the write lock, with whether this thread holds it through another
            connection of the engine; raises if the wait would never end.
        refuse_own: Called if the lock is held; raises if this thread holds it through a connection of the application.
    """
    writers = _Writers()
    _track_pools()

    @event.listens_for(engine, "connect")
    def connect(driver: Any, entry: Any) -> None:
        entry.info[_BEGINS_AT_FIRST_WRITE] = entry.info[_OWN] = True
        driver.isolation_level = None
        cursor = driver.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")
        entry.info[WITHOUT_WAL] = not _switch_to_wal(cursor)
        # FULL: a commit survives a power failure, not only a killed process.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "checkout")
    def checked_out(driver: Any, entry: Any, _proxy: Any) -> None:
        if entry.info.get(WITHOUT_WAL):
            cursor = driver.cursor()
            entry.info[WITHOUT_WAL] = not _switch_to_wal(cursor)
            cursor.close()

    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def before(
        connection: Connection, cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
    ) -> tuple[str, Any]:
        driver: Any = connection.connection.driver_connection
        if driver.in_transaction:
            return statement, parameters
        pending: list[str] = connection.info.setdefault(_PENDING_SAVEPOINTS, [])
        if savepoint := _SAVEPOINT.match(statement):
            command, name = savepoint[1].upper(), savepoint[2]
            if command == "SAVEPOINT":
                pending.append(name)
            elif name in pending:
                del pending[pending.index(name) + (command != "RELEASE SAVEPOINT") :]
            return _NO_OP, parameters
        is_begin = statement == BEGIN_IMMEDIATE
        if is_begin or is_write(statement):
            refuse(writers.is_mine())
            if not (_uses and _try_begin(cursor, refuse_own)):
                cursor.execute(BEGIN_IMMEDIATE)
            writers.add(driver)
            connection.info[_LOCKED_SINCE] = time.monotonic()
            for name in pending:
                cursor.execute(f"SAVEPOINT {name}")
            pending.clear()
        return (_NO_OP if is_begin else statement), parameters

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
        # An interrupt inside a statement makes SQLAlchemy invalidate the connection;
        # reading its `info` would then raise and hide the interrupt.
        if connection.invalidated:
            return
        connection.info.pop(_PENDING_SAVEPOINTS, None)
        writers.discard(connection.connection.driver_connection)
        since = connection.info.pop(_LOCKED_SINCE, None)
        if since is not None and (held_s := time.monotonic() - since) > LONG_LOCK_S:
            log_event(
                LogEvent.DATABASE_LOCKED_LONG,
                operation=current_frame().operation,
                run_id=current_frame().run_id,
                trace_id=current_frame().trace_id,
                duration_ms=held_s * 1000,
                advice="write late in perform, or set transaction = False",
            )


def _try_begin(cursor: Any, refuse_own: Callable[[], None]) -> bool:
    """Try to acquire the write lock without waiting; call `refuse_own` if it is held."""
    cursor.execute("PRAGMA busy_timeout = 0")
    try:
        cursor.execute(BEGIN_IMMEDIATE)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        refuse_own()
        return False
    else:
        return True
    finally:
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")


class _Writers:
    """The connections of an engine that hold the write lock, by the thread that acquired it: at most one."""

    def __init__(self) -> None:
        self._drivers: dict[int, Any] = {}

    def is_mine(self) -> bool:
        """Whether this thread holds the lock by another connection."""
        driver = self._drivers.get(threading.get_ident())
        return driver is not None and _is_writing(driver)

    def add(self, driver: Any) -> None:
        """Record that this thread holds the lock."""
        self._drivers[threading.get_ident()] = driver

    def discard(self, ended: Any) -> None:
        """Remove a connection whose transaction ends, in any thread, and those that no longer hold the lock.

        Called before the end: after it the pool may pass the connection to another thread, which writes with it.
        """
        for thread, driver in list(self._drivers.items()):
            if driver is ended or not _is_writing(driver):
                self._drivers.pop(thread, None)


def _is_writing(driver: Any) -> bool:
    try:
        return bool(driver.in_transaction)
    except sqlite3.ProgrammingError:
        # The connection is closed.
        return False


def begins_at_first_write(connection: Connection) -> bool:
    """Return whether a connection is of an engine with the listeners of this module."""
    return _BEGINS_AT_FIRST_WRITE in connection.info


def _begin_before_savepoint(connection: Connection, _name: str) -> None:
    """Begin a transaction before a run's savepoint on an application's engine, where the driver does not.

    Python's driver begins a transaction only before a statement such as INSERT. An earlier savepoint would itself start
    the transaction, and its release would commit it.
    """
    if current_transaction() is None:
        return
    driver: Any = connection.connection.driver_connection
    # None: the engine itself sends BEGIN, as dexpy's engines do and as SQLAlchemy's documentation recommends.
    if isinstance(driver, sqlite3.Connection) and driver.isolation_level is not None and not driver.in_transaction:
        driver.execute("BEGIN")


def _listen_for_savepoints() -> None:
    """Call `_begin_before_savepoint` for all engines; idempotent."""
    if not event.contains(Engine, "savepoint", _begin_before_savepoint):
        event.listen(Engine, "savepoint", _begin_before_savepoint)


@event.listens_for(Pool, "connect")
def _connected(driver: Any, _entry: Any) -> None:
    if isinstance(driver, sqlite3.Connection):
        _listen_for_savepoints()


# Only in a process that uses SQLite: a listener makes SQLAlchemy dispatch events on every connection.
if any(name.startswith("sqlite") for name in dialects.registry.impls):
    _listen_for_savepoints()


def _switch_to_wal(cursor: Any) -> bool:
    """Switch the file to WAL; if a transaction is open on it, return False, and a later use of the connection retries.

    It does not wait, because the open transaction may be of this thread. Without WAL, writers and readers wait for each
    other.
    """
    try:
        cursor.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True


def await_wal(connection: Connection) -> None:
    """Wait a moment before a write transaction until the file can be switched to WAL."""
    deadline = time.monotonic() + WAL_WAIT_S
    while connection.info.get(WITHOUT_WAL) and time.monotonic() < deadline:
        time.sleep(0.01)
        cursor = connection.connection.cursor()
        connection.info[WITHOUT_WAL] = not _switch_to_wal(cursor)
        cursor.close()


def is_write(statement: str) -> bool:
    """Return whether a SQL statement writes, by its first keyword."""
    if _READS.match(statement):
        return False
    return not _WITH.match(statement) or _WRITES.search(statement) is not None


def is_busy(error: exc.DBAPIError) -> bool:
    """Return whether another connection held the write lock for the whole busy timeout."""
    # Compare the text: errors of Python's driver itself have no code.
    return isinstance(error.orig, sqlite3.OperationalError) and "database is locked" in str(error.orig)
