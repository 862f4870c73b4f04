"""The SQL that adds the application's columns to an existing table of records."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
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


def unindexed_columns(
    missing: Collection[sa.Column[Any]], indexes: Iterable[Mapping[str, Any]]
) -> tuple[sa.Column[Any], ...]:
    """Return the application's existing columns that lack their index; one with another name is sufficient.

    Args:
        missing: Those of the application's columns that the table of records lacks.
        indexes: The indexes of the table, as the inspector of SQLAlchemy returns them.
    """
    indexed = {index["column_names"][0] for index in indexes}
    expected = (column for column in own_columns() if column.info.get("has_index") and column not in set(missing))
    return tuple(column for column in expected if column.name not in indexed)


def index_statements(
    columns: Collection[sa.Column[Any]], dialect: sa.Dialect, schema_prefix: str = ""
) -> tuple[str, ...]:
    """Return the statements that create the indexes on columns; the arguments are those of `column_statements`."""
    quote = dialect.identifier_preparer.quote
    return tuple(
        f"CREATE INDEX {quote(str(index.name))} ON {schema_prefix}{quote(records.name)} ({quote(column.name)})"
        for index in own_indexes(tuple(columns))
        for column in index.columns
    )


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
    return (*added, *index_statements(columns, dialect, schema_prefix))
