"""Functions for an application's Alembic migrations: exclude, create or upgrade dexpy's tables."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection

from dexpy.database import schema


def include_object(object: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """Exclude the tables of dexpy, as ``context.configure(include_object=...)`` of Alembic.

    Args:
        object: A table, column, index or constraint.
        name: The name of the object.
        type_: ``"table"``, ``"column"``, ``"index"`` and so on.
        reflected: Whether the object was reflected from the database.
        compare_to: The object that it is compared with, or None.

    Returns:
        Whether Alembic compares the object: False for the tables of dexpy with their columns and indexes.

    Example:
        >>> from dexpy import records
        >>> records.include_object(records.table, "operation_records", "table", True, None)
        False
        >>> records.include_object(None, "accounts", "table", True, None)
        True
    """
    if type_ == "table":
        return name not in _own_names()
    return getattr(getattr(object, "table", None), "name", None) not in _own_names()


def _own_names() -> set[str]:
    return {table.name for table in schema.TABLES}


def create_tables(connection: Connection) -> list[str]:
    """Create the missing tables of dexpy, as ``dexpy db init`` does, in a migration of the application.

    Tables of an earlier version are unchanged; see `upgrade_tables`.

    Args:
        connection: The connection of the migration: ``op.get_bind()`` in a revision of Alembic.

    Returns:
        The names of the created tables.

    Raises:
        DatabaseUnavailable: Another process has held the lock for a minute.

    Example:
        >>> import sqlalchemy as sa
        >>> from dexpy import records
        >>> engine = sa.create_engine("sqlite://")
        >>> with engine.begin() as connection:
        ...     names = records.create_tables(connection)
        >>> "operation_records" in names
        True
    """
    return schema.create(connection)


def upgrade_tables(connection: Connection) -> list[int]:
    """Apply dexpy's missing migrations, as ``dexpy db upgrade`` does, in a migration of the application.

    Missing tables are created.

    Args:
        connection: The connection of the migration: ``op.get_bind()`` in a revision of Alembic.

    Returns:
        The versions of the schema that were applied; empty if it was up to date.

    Raises:
        DatabaseUnavailable: Another process or an open transaction has held a lock for a minute.
        ConfigurationError: SQLite would lose columns of the application, or follow references to a replaced table.

    Example:
        >>> import sqlalchemy as sa
        >>> from dexpy import records
        >>> engine = sa.create_engine("sqlite://")
        >>> with engine.begin() as connection:
        ...     names = records.create_tables(connection)
        ...     records.upgrade_tables(connection)
        []
    """
    return schema.upgrade_in(connection)
