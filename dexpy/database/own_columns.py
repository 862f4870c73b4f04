"""The SQL that adds the application's columns to an existing table of records."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateColumn

from dexpy.database.table_layout import own_columns, own_indexes
from dexpy.database.tables import records


def missing_own_columns(missing: Collection[str]) -> tuple[sa.Column[Any], ...]:
    """Return those of the application's columns that the table of records lacks.

    Args:
        missing: The names of all columns that it lacks.
    """
    return tuple(column for column in own_columns() if column.name in missing)


def column_statements(
    columns: Collection[sa.Column[Any]], dialect: sa.Dialect, schema_prefix: str = ""
) -> tuple[str, ...]:
    """Return the statements that add columns, with their indexes, to the table of records.

    Args:
        columns: Columns of the application.
        dialect: The dialect of SQLAlchemy for the database.
        schema_prefix: The quoted schema with a dot; empty if the connection finds the table by itself.
    """
    quote = dialect.identifier_preparer.quote
    table = schema_prefix + quote(records.name)
    added = [f"ALTER TABLE {table} ADD COLUMN {CreateColumn(column).compile(dialect=dialect)}" for column in columns]
    indexed = [
        f"CREATE INDEX {quote(str(index.name))} ON {table} ({quote(column.name)})"
        for index in own_indexes(tuple(columns))
        for column in index.columns
    ]
    return (*added, *indexed)
