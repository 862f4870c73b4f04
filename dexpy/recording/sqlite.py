"""SQLite made fit for many writers.

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
import re
import sqlite3
import time
from typing import Any

from sqlalchemy import event, exc
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy

from dexpy.foundation.log import line
from dexpy.foundation.trace import current_frame

BUSY_TIMEOUT_S = 30
"""How long a writer on SQLite waits for another one, in seconds."""

_READS = re.compile(r"\s*(SELECT|PRAGMA|EXPLAIN|VALUES|BEGIN|COMMIT|ROLLBACK|END)\b", re.IGNORECASE)
_WITH = re.compile(r"\s*WITH\b", re.IGNORECASE)
_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE)
_SAVEPOINT = re.compile(r"\s*(SAVEPOINT|RELEASE SAVEPOINT|ROLLBACK TO SAVEPOINT)\s+(\S+)", re.IGNORECASE)
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


def is_busy(error: exc.DBAPIError) -> bool:
    """Whether somebody else held the write lock for all of the time that a writer waits."""
    # By its text: a code is only on what SQLite itself has said.
    return isinstance(error.orig, sqlite3.OperationalError) and "database is locked" in str(error.orig)
