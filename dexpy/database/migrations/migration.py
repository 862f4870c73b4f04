"""The parts of a migration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import attrs
import sqlalchemy as sa

from dexpy.database.table_layout import renamed

SCHEMA: Final = "{schema}"
"""The placeholder in the text of a statement for the quoted schema of dexpy's tables with a dot, or nothing."""


def _always(_inspector: sa.Inspector, _schema: str | None) -> bool:
    return True


@attrs.frozen
class Statement:
    """One statement of a migration.

    Attributes:
        sql: The text, with `SCHEMA` before each table.
        is_needed: Returns whether to execute it after an interruption, on a database without transactional DDL; a
            statement without a check is idempotent.
    """

    sql: str
    is_needed: Callable[[sa.Inspector, str | None], bool] = attrs.field(default=_always, repr=False)

    def text(self, schema_prefix: str = "") -> str:
        """Return the SQL for tables in a schema, with the prefix of this process.

        Args:
            schema_prefix: The quoted schema with a dot; empty if the connection finds the tables by itself.
        """
        return renamed(self.sql).replace(SCHEMA, schema_prefix)


def has_column(table: str, column: str) -> Callable[[sa.Inspector, str | None], bool]:
    """Return a check for `Statement`: whether a table has a column."""

    def is_present(inspector: sa.Inspector, schema: str | None) -> bool:
        return any(each["name"] == column for each in inspector.get_columns(renamed(table), schema=schema))

    return is_present


def lacks_column(table: str, column: str) -> Callable[[sa.Inspector, str | None], bool]:
    """Return a check for `Statement`: whether a table exists without a column."""

    def is_missing(inspector: sa.Inspector, schema: str | None) -> bool:
        return inspector.has_table(renamed(table), schema=schema) and not has_column(table, column)(inspector, schema)

    return is_missing


def lacks_table(table: str) -> Callable[[sa.Inspector, str | None], bool]:
    """Return a check for `Statement`: whether a table does not exist."""

    def is_missing(inspector: sa.Inspector, schema: str | None) -> bool:
        return not inspector.has_table(renamed(table), schema=schema)

    return is_missing


@attrs.frozen
class Rebuild:
    """A table that SQLite rebuilds, because it cannot alter a constraint.

    Attributes:
        table: The name of the table.
        columns: All columns of dexpy; the copy would lose any other.
        indexes: The indexes that the migration creates; other indexes are of the application and kept.
    """

    table: str
    columns: tuple[str, ...]
    indexes: tuple[str, ...]

    @property
    def drop(self) -> str:
        """The statement of the migration that drops the old table."""
        return f"DROP TABLE {self.table}"


@attrs.frozen
class Migration:
    """The step from one version of the schema to the next.

    Attributes:
        version: The version after the migration.
        summary: A summary of the changes, in one line.
        statements: The statements in order, by dialect: sqlite, postgresql, mariadb.
        rebuilds: The tables that its statements for SQLite rebuild.
    """

    version: int
    summary: str
    statements: Mapping[str, tuple[Statement, ...]]
    rebuilds: tuple[Rebuild, ...] = ()


def statements(*parts: str | Statement) -> tuple[Statement, ...]:
    """Return statements from texts."""
    return tuple(part if isinstance(part, Statement) else Statement(part) for part in parts)
