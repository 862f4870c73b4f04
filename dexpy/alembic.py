"""dexpy's tables in an application's Alembic: exclude them, compare them, create and upgrade them.

Import it as ``import dexpy.alembic``, after the module that calls `dexpy.configure`: prefix, schema and columns of the
application are those of its runtime.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.schema import SchemaConst

from dexpy.database import schema, schema_names
from dexpy.database.column_types import Integer, Json, String, Text, UtcDateTime
from dexpy.database.migrations.history import NEWEST
from dexpy.database.schema_sql import upgrade_statements
from dexpy.database.tables import Key
from dexpy.foundation.errors import ConfigurationError
from dexpy.runtime import current_runtime

__all__ = ["Key", "create_tables", "include_object", "metadata", "render_item", "upgrade", "upgrade_tables"]

_MYSQL = "from sqlalchemy.dialects import mysql"
_MOMENT = "sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), 'mysql', 'mariadb')"
_LONG_TEXT = "sa.Text().with_variant(mysql.LONGTEXT(), 'mysql', 'mariadb')"

if TYPE_CHECKING:
    metadata: sa.MetaData


def __getattr__(name: str) -> Any:
    if name == "metadata":
        return _copy_metadata()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _copy_metadata() -> sa.MetaData:
    """Return the tables with the names, the schema and the columns of the current runtime."""
    table_schema = current_runtime().settings.schema
    copied = sa.MetaData()
    for table in schema.TABLES:
        table.to_metadata(copied, schema=SchemaConst.RETAIN_SCHEMA if table_schema is None else table_schema)
    return copied


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
        >>> import dexpy.alembic
        >>> from dexpy import records
        >>> dexpy.alembic.include_object(records.table, "operation_records", "table", True, None)
        False
        >>> dexpy.alembic.include_object(None, "accounts", "table", True, None)
        True
    """
    current_runtime()
    own_names = {table.name for table in schema.TABLES}
    if type_ == "table":
        return name not in own_names
    return getattr(getattr(object, "table", None), "name", None) not in own_names


def render_item(type_: str, obj: Any, autogen_context: Any) -> str | bool:
    """Render the column types of dexpy in a revision, as ``context.configure(render_item=...)`` of Alembic.

    Args:
        type_: ``"type"`` for a column type.
        obj: The object to render.
        autogen_context: The context of autogenerate, which gets the imports of the revision.

    Returns:
        The Python expression; False for what is not a type of dexpy, which Alembic renders itself.

    Example:
        >>> import dexpy.alembic
        >>> class Context:
        ...     imports = set()
        >>> dexpy.alembic.render_item("type", dexpy.alembic.Key(40), Context())
        'dexpy.alembic.Key(40)'
    """
    if type_ != "type":
        return False
    imports: set[str] = autogen_context.imports
    if isinstance(obj, Key):
        imports.add("import dexpy.alembic")
        return f"dexpy.alembic.Key({obj.length})"
    if isinstance(obj, UtcDateTime):
        imports.add(_MYSQL)
        return _MOMENT
    if isinstance(obj, Text):
        if not obj._variant_mapping:  # pyright: ignore[reportPrivateUsage] - SQLAlchemy has no public attribute
            return "sa.Text()"
        imports.add(_MYSQL)
        return _LONG_TEXT
    if isinstance(obj, String):
        return f"sa.String({obj.length})"
    return "sa.JSON()" if isinstance(obj, Json) else "sa.Integer()" if isinstance(obj, Integer) else False


@contextmanager
def _in_own_schema(connection: Connection) -> Generator[None]:
    """Name the configured schema in dexpy's statements on a connection of a migration."""
    table_schema = current_runtime().settings.schema
    if table_schema is None:
        yield
        return
    before = schema_names.schema_map_of(connection)
    schema_names.name_schema(connection, table_schema)
    try:
        yield
    finally:
        schema_names.restore(connection, before)


def create_tables(connection: Connection) -> list[str]:
    """Create the missing tables of dexpy, as ``dexpy db init`` does, in a migration of the application.

    Tables of an earlier version are unchanged; see `upgrade`.

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
    with _in_own_schema(connection):
        return schema.create(connection)


def upgrade_tables(connection: Connection) -> list[int]:
    """Apply dexpy's missing migrations, as ``dexpy db upgrade`` does, in a migration of the application.

    Missing tables and missing columns of the application are created.

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
    with _in_own_schema(connection):
        return schema.upgrade_in(connection)


def upgrade(op: Any, version: int, *, from_version: int = 0) -> None:
    """Create the tables, or upgrade them to a version of the schema, in a revision of Alembic.

    With a connection it applies what the database lacks, so a revision also works where a later one has run, or where
    ``dexpy db`` has created the tables. In offline mode (``alembic upgrade --sql``) it writes the SQL from
    *from_version*.

    Args:
        op: Alembic's ``op``.
        version: The version of the schema that the revision was written for; an empty database gets the newest one.
        from_version: The version before the revision, for offline mode; 0 for the revision that creates the tables.

    Raises:
        ConfigurationError: This release of dexpy does not know the version.
        DatabaseUnavailable: Another process or an open transaction has held a lock for a minute.
    """
    if not 0 <= from_version < version <= NEWEST:
        raise ConfigurationError(
            f"dexpy.alembic.upgrade(op, {version}, from_version={from_version}): expected versions from 0 to {NEWEST} "
            "in ascending order. Install the release of dexpy that has the version."
        )
    context = op.get_context()
    if not context.as_sql:
        with _in_own_schema(op.get_bind()):
            schema.upgrade_in(op.get_bind(), version)
        return
    name = "mariadb" if context.dialect.name == "mysql" else context.dialect.name
    end = NEWEST if from_version == 0 else version
    for statement in upgrade_statements(name, from_version, end, current_runtime().settings.schema):
        # Alembic reads a colon as a parameter.
        op.execute(statement.replace(":", r"\:"))
