"""All tables of dexpy, made and looked for together."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dexpy.foundation.errors import DatabaseUnavailable
from dexpy.recording.messages import messages
from dexpy.recording.metadata import metadata
from dexpy.recording.sqlite import take_write_lock
from dexpy.recording.tables import attempts, gates, queues, records, signals, steps, worker_sessions, workers

TABLES = (records, gates, attempts, signals, steps, workers, worker_sessions, queues, messages)
"""In the order in which they are made."""

LOCK_WAIT_S = 60
LOCK = 0x64657870
"""Of the advisory lock under which the tables are made on a server: "dexp"."""


def problems(connection: Connection) -> list[str]:
    """What is missing, in words; nothing when all is there."""
    inspector = sa.inspect(connection)
    present = set(inspector.get_table_names())
    found: list[str] = []
    for table in TABLES:
        if table.name not in present:
            found.append(f"no table {table.name}")
            continue
        columns = {column["name"] for column in inspector.get_columns(table.name)}
        missing = [column.name for column in table.columns if column.name not in columns]
        if missing:
            found.append(f"table {table.name} lacks {', '.join(missing)}")
    return found


def create(connection: Connection) -> list[str]:
    """Make the tables that are not there, in the caller's transaction, one process at a time.

    Returns:
        Their names.

    Raises:
        DatabaseUnavailable: Another process has been making them for a minute.
    """
    with _alone(connection):
        present = set(sa.inspect(connection).get_table_names())
        missing = [table for table in TABLES if table.name not in present]
        metadata.create_all(connection, tables=missing)
    return [table.name for table in missing]


@contextmanager
def _alone(connection: Connection) -> Generator[None, None, None]:
    dialect = connection.dialect.name
    take_write_lock(connection)
    if dialect == "postgresql":
        # Released by the end of the transaction, so that the next one sees the tables.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
    if dialect not in ("mysql", "mariadb"):
        yield
        return
    # Of the whole server, hence with the database in its name.
    name = sa.func.concat(f"dexpy-{LOCK}-", sa.func.md5(sa.func.database()))
    if connection.execute(sa.select(sa.func.get_lock(name, LOCK_WAIT_S))).scalar() != 1:
        raise DatabaseUnavailable(
            f"The tables could not be made: another process has held the lock for {LOCK_WAIT_S} s. "
            "Is a dexpy db init hanging? End it, and run it again."
        )
    try:
        yield
    finally:
        connection.execute(sa.select(sa.func.release_lock(name)))
