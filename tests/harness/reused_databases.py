"""Databases that tests reuse: creating one takes longer than most tests, so it is emptied after each test."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import servers
import sqlalchemy as sa

from dexpy.database import schema
from dexpy.database.engine import Database

SESSION_QUERIES = {
    "postgresql": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    "mysql": "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()",
}
"""Queries that end the remaining sessions of a test on PostgreSQL, and list them on MariaDB."""


class ReusedDatabases:
    """One database of each kind, created at its first use.

    Args:
        stack: Drops the databases when it closes.
        folder: A temporary folder.
    """

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self._urls: dict[str, str] = {}

    @contextmanager
    def database(self, kind: str) -> Generator[str]:
        """Yield the URL of a database with only dexpy's empty tables, for one test at a time."""
        url = self._urls.pop(kind, None) or self._create(kind)
        yield url
        if empty(url):
            self._urls[kind] = url

    def _create(self, kind: str) -> str:
        url = self._stack.enter_context(servers.database(kind, self._folder))
        create_tables(url)
        return url


def create_tables(url: str) -> None:
    """Create dexpy's tables."""
    database = Database(url)
    with database.begin() as connection:
        schema.create(connection)
    database.dispose()


def empty(url: str) -> bool:
    """Drop all tables of the test and empty dexpy's; return False if the definitions of dexpy's tables have changed."""
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        session_ids = connection.exec_driver_sql(SESSION_QUERIES[engine.dialect.name]).scalars().all()
        dexpy_tables = {table.name for table in schema.DATA_TABLES}
        other_tables = [
            name
            for name in sa.inspect(connection).get_table_names()
            if name not in {*dexpy_tables, schema.versions.name}
        ]
        if engine.dialect.name == "postgresql":
            for name in other_tables:
                connection.exec_driver_sql(f'DROP TABLE "{name}" CASCADE')
            connection.exec_driver_sql(f"TRUNCATE {', '.join(sorted(dexpy_tables))}")
        else:
            for session_id in session_ids:
                connection.exec_driver_sql(f"KILL CONNECTION {session_id}")
            connection.exec_driver_sql("SET foreign_key_checks = 0")
            for name in other_tables:
                connection.exec_driver_sql(f"DROP TABLE `{name}`")
            for name in dexpy_tables:
                connection.exec_driver_sql(f"DELETE FROM {name}")
        return schema.problems(connection) == []
