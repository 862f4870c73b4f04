"""What a migration is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import attrs
import sqlalchemy as sa

SCHEMA: Final = "{schema}"
"""In the text of a statement: the quoted schema of dexpy's tables with a dot, or nothing."""


def _always(_inspector: sa.Inspector, _schema: str | None) -> bool:
    return True


@attrs.frozen
class Statement:
    """One statement of a migration.

    Attributes:
        sql: Its text, with `SCHEMA` before each table.
        is_needed: Whether it is still to be executed, after a migration was interrupted on a database whose DDL commits
            at once; a statement without a check has the same effect twice as once.
    """

    sql: str
    is_needed: Callable[[sa.Inspector, str | None], bool] = attrs.field(default=_always, repr=False)

    def text(self, schema_prefix: str = "") -> str:
        """Return the SQL for tables in a schema.

        Args:
            schema_prefix: The quoted schema with a dot; empty if the connection finds the tables by itself.
        """
        return self.sql.replace(SCHEMA, schema_prefix)


def has_column(table: str, column: str) -> Callable[[sa.Inspector, str | None], bool]:
    """Return a check for `Statement`: whether a table has a column."""

    def is_present(inspector: sa.Inspector, schema: str | None) -> bool:
        return any(each["name"] == column for each in inspector.get_columns(table, schema=schema))

    return is_present


@attrs.frozen
class Rebuild:
    """A table that SQLite creates anew, because it cannot alter a constraint.

    Attributes:
        table: Its name.
        columns: All columns of dexpy's; the copy would lose any other.
        indexes: The indexes that the migration creates; others are the application's, and are kept.
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
        version: The version that it leads to.
        summary: What it changes, in one line.
        statements: In order, by the name of the dialect: sqlite, postgresql, mariadb.
        rebuilds: The tables that its statements for SQLite create anew.
    """

    version: int
    summary: str
    statements: Mapping[str, tuple[Statement, ...]]
    rebuilds: tuple[Rebuild, ...] = ()


def statements(*parts: str | Statement) -> tuple[Statement, ...]:
    """Return statements from their texts."""
    return tuple(part if isinstance(part, Statement) else Statement(part) for part in parts)
