"""The SQL of a creation or an upgrade, as text for a database administrator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from dexpy.database.dialects import dialect_named
from dexpy.database.migrations.history import NEWEST, migrations_between
from dexpy.database.schema import TABLES

DIALECTS: Final = ("sqlite", "postgresql", "mariadb")
"""The kinds of database for which SQL can be printed."""

_NOW: Final = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now')",
    "postgresql": "clock_timestamp()",
    "mariadb": "UTC_TIMESTAMP(6)",
}


def schema_sql(dialect: str, start: int, end: int = NEWEST) -> str:
    """Return the SQL that upgrades from one version to another; empty if they are the same.

    Statements end in a semicolon and are separated by an empty line. The text is always the same.

    Args:
        dialect: One of `DIALECTS`.
        start: The version of the database; 0 for one without tables.
        end: The version after the upgrade; from 0 it must be the newest one.
    """
    if start >= end:
        return ""
    statements = list(_creation(dialect) if start == 0 else _upgrade(dialect, start, end))
    if not dialect_named(dialect).commits_ddl:
        begin = "BEGIN IMMEDIATE" if dialect == "sqlite" else "BEGIN"
        statements = [begin, *statements, "COMMIT"]
    if dialect == "sqlite" and start:
        # The pragma has no effect inside a transaction.
        statements = ["PRAGMA foreign_keys = OFF", *statements, "PRAGMA foreign_keys = ON"]
    return "\n\n".join(f"{statement};" for statement in statements) + "\n"


def _execute_nothing(*_statement: Any, **_parameters: Any) -> None:
    return None


def _creation(name: str) -> Iterator[str]:
    dialect = sa.create_mock_engine(f"{name}://", _execute_nothing).dialect
    for table in TABLES:
        yield str(CreateTable(table).compile(dialect=dialect)).strip().expandtabs(4).replace(" \n", "\n")
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            yield str(CreateIndex(index).compile(dialect=dialect)).strip()
    yield _stamp(name, NEWEST)


def _upgrade(name: str, start: int, end: int) -> Iterator[str]:
    for migration in migrations_between(start, end):
        for statement in migration.statements[name]:
            yield statement.text()
        yield _stamp(name, migration.version)


def _stamp(name: str, version: int) -> str:
    return f"INSERT INTO operation_schema (version, applied_at) VALUES ({version}, {_NOW[name]})"  # noqa: S608
