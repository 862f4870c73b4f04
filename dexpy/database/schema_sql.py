"""The SQL of a creation or an upgrade, as text for a database administrator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateSchema, CreateTable

from dexpy.database.dialects import dialect_named
from dexpy.database.migrations.history import NEWEST, migrations_between
from dexpy.database.own_columns import column_statements
from dexpy.database.schema import TABLES
from dexpy.database.schema_names import OwnTables
from dexpy.database.table_layout import own_columns
from dexpy.database.tables import versions

DIALECTS: Final = ("sqlite", "postgresql", "mariadb")
"""The kinds of database for which SQL can be printed."""

FIRST_WITH_OWN_COLUMNS: Final = 4
"""The first version whose records can have columns of the application."""

_NOW: Final = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now')",
    "postgresql": "clock_timestamp()",
    "mariadb": "UTC_TIMESTAMP(6)",
}


def schema_sql(dialect: str, start: int, end: int = NEWEST, schema: str | None = None) -> str:
    """Return the SQL that upgrades from one version to another; empty if they are the same.

    Statements end in a semicolon and are separated by an empty line. The text is always the same for the same prefix,
    schema and columns of the application.

    Args:
        dialect: One of `DIALECTS`.
        start: The version of the database; 0 for one without tables.
        end: The version after the upgrade; from 0 it must be the newest one.
        schema: The configured schema of the tables; None for that of the connection.
    """
    return as_script(dialect, upgrade_statements(dialect, start, end, schema), rebuilds=start > 0)


def upgrade_statements(dialect: str, start: int, end: int = NEWEST, schema: str | None = None) -> list[str]:
    """Return the statements that upgrade from one version to another; the arguments are those of `schema_sql`."""
    if start >= end:
        return []
    return list(_creation(dialect, schema) if start == 0 else _upgrade(dialect, start, end, schema))


def as_script(dialect: str, statements: list[str], *, rebuilds: bool = False) -> str:
    """Return statements as the text of one transaction, where the database has transactions of DDL.

    Args:
        dialect: One of `DIALECTS`.
        statements: The statements.
        rebuilds: Whether they may replace a table on SQLite to which others refer.
    """
    if not statements:
        return ""
    if not dialect_named(dialect).commits_ddl:
        begin = "BEGIN IMMEDIATE" if dialect == "sqlite" else "BEGIN"
        statements = [begin, *statements, "COMMIT"]
    if dialect == "sqlite" and rebuilds:
        # The pragma has no effect inside a transaction.
        statements = ["PRAGMA foreign_keys = OFF", *statements, "PRAGMA foreign_keys = ON"]
    return "\n\n".join(f"{statement};" for statement in statements) + "\n"


def _execute_nothing(*_statement: Any, **_parameters: Any) -> None:
    return None


def _dialect(name: str, schema: str | None) -> sa.Dialect:
    """Return the dialect of SQLAlchemy that names the schema of the tables."""
    dialect = sa.create_mock_engine(f"{name}://", _execute_nothing).dialect
    if schema is not None:
        preparer: Any = dialect.identifier_preparer
        preparer.schema_for_object = OwnTables(schema)
    return dialect


def _quoted_prefix(dialect: sa.Dialect, schema: str | None) -> str:
    return "" if schema is None else f"{dialect.identifier_preparer.quote_schema(schema)}."


def _creation(name: str, schema: str | None) -> Iterator[str]:
    dialect = _dialect(name, schema)
    if schema is not None:
        yield str(CreateSchema(schema, if_not_exists=True).compile(dialect=dialect))
    for table in TABLES:
        yield str(CreateTable(table).compile(dialect=dialect)).strip().expandtabs(4).replace(" \n", "\n")
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            yield str(CreateIndex(index).compile(dialect=dialect)).strip()
    yield _stamp(name, NEWEST, _quoted_prefix(dialect, schema))


def _upgrade(name: str, start: int, end: int, schema: str | None) -> Iterator[str]:
    dialect = _dialect(name, schema)
    prefix = _quoted_prefix(dialect, schema)
    for migration in migrations_between(start, end):
        for statement in migration.statements[name]:
            yield statement.text(prefix)
        yield _stamp(name, migration.version, prefix)
        if migration.version == FIRST_WITH_OWN_COLUMNS:
            yield from column_statements(own_columns(), dialect, prefix)


def _stamp(name: str, version: int, schema_prefix: str) -> str:
    table = f"{schema_prefix}{versions.name}"
    return f"INSERT INTO {table} (version, applied_at) VALUES ({version}, {_NOW[name]})"  # noqa: S608
