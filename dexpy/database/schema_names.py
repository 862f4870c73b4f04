"""The schema of dexpy's tables in every statement on a server, independent of the connection's state.

An application may change the schema of a connection at any time by a search path, ``USE`` or a map of schemas, and a
pooled connection may keep the change. Therefore dexpy's own statements never rely on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect, Engine

from dexpy.database.column_types import metadata
from dexpy.database.dialects import dialect_of
from dexpy.database.tables import records

OPTION = "schema_translate_map"


class OwnTables:
    """Returns the schema of a table to the compiler of an engine, for dexpy's tables their own schema.

    Compiled statements are cached with the schema, while a map of schemas rewrites the text at each execution.

    Args:
        schema: The schema of dexpy's tables.
    """

    def __init__(self, schema: str) -> None:
        self.schema = schema

    def __call__(self, item: Any) -> str | None:
        """Return the schema of a table, or of an object that belongs to one."""
        schema: str | None = item.schema
        return self.schema if schema is None and getattr(item, "metadata", None) is metadata else schema


def name_tables(engine: Engine, schema: str) -> None:
    """Make all statements of an engine name the schema of dexpy's tables; idempotent.

    Args:
        engine: An engine of dexpy that has connected: some dialects create their preparer at the first connection.
        schema: The schema of dexpy's tables.
    """
    if not schema or schema_named_by(engine.dialect) == schema:
        return
    preparer: Any = engine.dialect.identifier_preparer
    preparer.schema_for_object = OwnTables(schema)
    engine.clear_compiled_cache()


def schema_named_by(dialect: Dialect) -> str | None:
    """Return the schema that `name_tables` has set for an engine; or None."""
    provider = dialect.identifier_preparer.schema_for_object
    return provider.schema if isinstance(provider, OwnTables) else None


def read_schema(connection: Connection) -> str | None:
    """Return the schema in which a connection finds or creates dexpy's tables; None for an unknown kind of server."""
    query = dialect_of(connection).schema_query
    if query is None:
        return None
    schema: str | None = connection.exec_driver_sql(query.format(table=records.name)).scalar()
    # The caller begins the transaction.
    connection.rollback()
    return schema


def schema_map_of(connection: Connection) -> Mapping[str | None, str | None] | None:
    """Return the map of schemas that a connection applies to statements."""
    schema_map: Mapping[str | None, str | None] | None = connection.get_execution_options().get(OPTION)
    return schema_map


def name_schema(connection: Connection, schema: str) -> None:
    """Make the next statements name the schema of dexpy's tables."""
    is_named = dialect_of(connection).fixed_schema is not None or schema_named_by(connection.dialect) == schema
    if is_named and not schema_map_of(connection):
        return
    connection.execution_options(**{OPTION: {None: schema} if schema else None})


def restore(connection: Connection, before: Mapping[str | None, str | None] | None) -> None:
    """Make the next statements use the previous map."""
    if schema_map_of(connection) is not before:
        connection.execution_options(**{OPTION: before})


def schema_in(connection: Connection) -> str | None:
    """Return the schema that statements on a connection name now; None for the connection's own."""
    schema_map = schema_map_of(connection)
    return schema_map.get(None) if schema_map else schema_named_by(connection.dialect)


def inspector(connection: Connection) -> tuple[sa.Inspector, str | None]:
    """Return an inspector of tables, and the schema to inspect."""
    return sa.inspect(connection), schema_in(connection)
