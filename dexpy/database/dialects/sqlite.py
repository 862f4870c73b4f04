"""SQLite: a file, or a database in memory of this process, with one write lock."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from dexpy.database import sqlite
from dexpy.database.dialects.base import Dialect


class SqliteDialect(Dialect):
    """See `Dialect`."""

    __slots__ = ()

    name = "sqlite"
    has_server = False
    has_one_write_lock = True
    creates_tables = True
    # The schema of the main file; attached files have other names.
    fixed_schema = "main"
    has_strict_types = False

    def integer_bounds(self, kind: sa.Integer) -> tuple[int, int]:
        """See `Dialect`."""
        return -(2**63), 2**63 - 1

    def max_parameters(self, connection: Connection) -> int:
        """See `Dialect`; 32,766 in the default build of the library."""
        driver: Any = connection.connection.driver_connection
        # Drivers of asyncio wrap the connection without its limits.
        return driver.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) if isinstance(driver, sqlite3.Connection) else 999

    def _is_autocommit(self, connection: Connection) -> bool:
        if sqlite.begins_at_first_write(connection):
            return False
        # Drivers of asyncio have these attributes too.
        driver: Any = connection.connection.driver_connection
        if getattr(driver, "autocommit", sqlite3.__dict__.get("LEGACY_TRANSACTION_CONTROL", -1)) is True:
            return True
        # Without an isolation level the driver sends no BEGIN; the application may have sent one.
        return driver.isolation_level is None and not driver.in_transaction

    def acquire_write_lock(self, connection: Connection) -> None:
        """See `Dialect`."""
        driver: Any = connection.connection.driver_connection
        if not driver.in_transaction:
            connection.exec_driver_sql(sqlite.BEGIN_IMMEDIATE)

    def holds_write_lock(self, connection: Connection) -> bool:
        """See `Dialect`."""
        driver: Any = connection.connection.driver_connection
        return bool(driver.in_transaction)

    def insert_new(
        self, connection: Connection, table: sa.Table, values: Mapping[str, Any], wait_s: float, *, alone: bool
    ) -> bool:
        """See `Dialect`."""
        if alone:
            # All writers use the one lock, whatever their keys: wait at least as long as for any write.
            with _busy_timeout(connection, max(wait_s, 1.0)):
                return self._insert_new(connection, table, values)
        # The owner of the transaction has set the busy timeout, and may hold the lock already.
        return self._insert_new(connection, table, values)

    def _insert_new(self, connection: Connection, table: sa.Table, values: Mapping[str, Any]) -> bool:
        self.acquire_write_lock(connection)
        statement = insert(table).values(values).on_conflict_do_nothing()
        return connection.execute(statement.returning(*table.primary_key.columns)).first() is not None

    def insert_or_ignore(self, table: sa.Table) -> Any:
        """See `Dialect`."""
        return insert(table).on_conflict_do_nothing()


@contextmanager
def _busy_timeout(connection: Connection, seconds: float) -> Generator[None]:
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
    try:
        yield
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {sqlite.BUSY_TIMEOUT_S * 1000}")
