"""All tables of dexpy, made and looked for together."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dexpy.recording.database import take_write_lock
from dexpy.recording.messages import messages
from dexpy.recording.metadata import metadata
from dexpy.recording.tables import attempts, queues, records

TABLES = (records, attempts, queues, messages)
"""In the order in which they are made."""

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


def create(connection: Connection) -> None:
    """Make the tables that are not there, in the caller's transaction, one process at a time."""
    dialect = connection.dialect.name
    take_write_lock(connection)
    if dialect == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
    if dialect in ("mysql", "mariadb"):
        connection.execute(sa.select(sa.func.get_lock(f"dexpy-{LOCK}", 60)))
    metadata.create_all(connection, tables=list(TABLES))
    if dialect in ("mysql", "mariadb"):
        connection.execute(sa.select(sa.func.release_lock(f"dexpy-{LOCK}")))
