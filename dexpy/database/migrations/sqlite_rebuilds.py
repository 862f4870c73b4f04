"""Tables that SQLite rebuilds, because it cannot alter their constraints, and the objects to keep of the old table.

The procedure is that of https://www.sqlite.org/lang_altertable.html#otheralter.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection

from dexpy.database.dialects import SQLITE, dialect_of
from dexpy.database.migrations.migration import Migration, Rebuild, Statement
from dexpy.database.table_layout import renamed
from dexpy.foundation.errors import ConfigurationError, listed


def stop_enforcing_references(connection: Connection) -> None:
    """Allow a connection of dexpy to drop a table that others refer to; the pool replaces the connection after its use.

    Args:
        connection: A connection before its first write.
    """
    if dialect_of(connection) is SQLITE:
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        connection.connection.invalidate(soft=True)


def require_no_enforced_references(connection: Connection, migration: Migration) -> None:
    """Require that SQLite enforces no references to a table that a migration rebuilds in an application's transaction.

    Raises:
        ConfigurationError: SQLite enforces foreign keys on this connection, and a table refers to a rebuilt one.
    """
    if dialect_of(connection) is not SQLITE or not connection.exec_driver_sql("PRAGMA foreign_keys").scalar():
        return
    tables: Any = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
    for rebuild in migration.rebuilds:
        referring = {
            table
            for table in tables
            for row in connection.exec_driver_sql('SELECT "table" FROM pragma_foreign_key_list(?)', (table,))
            if str(row[0]).lower() == renamed(rebuild.table)
        }
        if referring:
            raise ConfigurationError(
                f"{renamed(rebuild.table)}: SQLite cannot replace the table while it enforces the references of "
                f"{listed(referring)}. Run dexpy db upgrade, or send PRAGMA foreign_keys = OFF before the transaction."
            )


def objects_to_keep(connection: Connection, migration: Migration, statement: Statement) -> list[str]:
    """Return the SQL of an application's indexes and triggers that a statement drops with a table.

    Raises:
        ConfigurationError: The table has columns of the application, which the new table would lack.
    """
    if dialect_of(connection) is not SQLITE:
        return []
    for rebuild in migration.rebuilds:
        if statement.sql == rebuild.drop:
            _require_known_columns(connection, rebuild)
            objects = connection.exec_driver_sql(
                "SELECT name, sql FROM sqlite_master"
                " WHERE tbl_name = ? AND type IN ('index', 'trigger') AND sql IS NOT NULL ORDER BY rowid",
                (renamed(rebuild.table),),
            )
            of_migration = {renamed(name) for name in rebuild.indexes}
            return [row.sql for row in objects if row.name not in of_migration]
    return []


def _require_known_columns(connection: Connection, rebuild: Rebuild) -> None:
    table = renamed(rebuild.table)
    present = connection.exec_driver_sql("SELECT name FROM pragma_table_xinfo(?)", (table,)).scalars()
    if unknown := set(present) - set(rebuild.columns):
        raise ConfigurationError(
            f"{table}: columns {listed(unknown)} do not belong to dexpy, and this migration of SQLite "
            "would lose them. Move them to a table of the application, drop them here, and retry the upgrade."
        )
