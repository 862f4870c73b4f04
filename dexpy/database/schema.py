"""All tables of dexpy: checked and created together."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy.engine import Connection

from dexpy.database.column_types import metadata
from dexpy.database.dialects import dialect_of
from dexpy.database.schema_names import inspector as inspector_of
from dexpy.database.tables import (
    attempts,
    gates,
    messages,
    queues,
    records,
    signals,
    steps,
    worker_names,
    worker_sessions,
    workers,
)
from dexpy.foundation.errors import DatabaseUnavailable

TABLES = (records, gates, attempts, signals, steps, workers, worker_names, worker_sessions, queues, messages)
"""In the order in which they are created."""

LOCK_WAIT_S = 60
LOCK = 0x64657870
"""The advisory lock for the creation of the tables on a server: "dexp"."""


def problems(connection: Connection) -> list[str]:
    """Describe what is missing; an empty list if the schema is complete."""
    inspector, table_schema = inspector_of(connection)
    present = set(inspector.get_table_names(schema=table_schema))
    problems_found: list[str] = []
    for table in TABLES:
        if table.name not in present:
            problems_found.append(f"no table {table.name}")
            continue
        columns = {column["name"] for column in inspector.get_columns(table.name, schema=table_schema)}
        missing = [column.name for column in table.columns if column.name not in columns]
        if missing:
            problems_found.append(f"table {table.name} lacks {', '.join(missing)}")
    return problems_found


def create(connection: Connection) -> list[str]:
    """Make the tables that are not there, in the caller's transaction, one process at a time.

    Returns:
        Their names.

    Raises:
        DatabaseUnavailable: Another process has been making them for a minute.
    """
    with _creation_lock(connection):
        inspector, table_schema = inspector_of(connection)
        present = set(inspector.get_table_names(schema=table_schema))
        missing = [table for table in TABLES if table.name not in present]
        # Without `checkfirst`: SQLAlchemy would check the connection's own schema.
        metadata.create_all(connection, tables=missing, checkfirst=False)
    return [table.name for table in missing]


@contextmanager
def _creation_lock(connection: Connection) -> Generator[None, None, None]:
    dialect = dialect_of(connection)
    dialect.acquire_write_lock(connection)
    with dialect.advisory_lock(connection, LOCK, LOCK_WAIT_S) as is_held:
        if not is_held:
            raise DatabaseUnavailable(
                f"The tables could not be made: another process has held the lock for {LOCK_WAIT_S} s. "
                "Is a dexpy db init hanging? End it, and run it again."
            )
        yield
