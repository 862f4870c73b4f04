"""All tables of dexpy, made and looked for together."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dexpy.recording.database import take_write_lock
from dexpy.recording.messages import messages
from dexpy.recording.metadata import metadata
from dexpy.recording.tables import attempts, records

TABLES = (records, attempts, messages)
"""In the order in which they are made."""


def is_complete(connection: Connection) -> bool:
    """Whether every table is there."""
    present = set(sa.inspect(connection).get_table_names())
    return all(table.name in present for table in TABLES)


def create(connection: Connection) -> None:
    """Make the tables that are not there, in the caller's transaction."""
    take_write_lock(connection)
    metadata.create_all(connection, tables=list(TABLES))
