"""Deletes that do not wait for locks on other rows.

If a list of keys contains most of a small table, MariaDB and MySQL scan all of it. The DELETE then waits for the lock
of every scanned row, for example of one that an open transaction of the application has just inserted.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles

from dexpy.database.dialects import dialect_of

PREFIX = "p_"
"""The prefix of the parameters of `by_key`."""


class DeleteByKey(sa.Delete):
    """A DELETE by one value of the primary key, or of its first columns, which locks no other row."""

    inherit_cache = True


@compiles(DeleteByKey, "mysql", "mariadb")
def _compiled(statement: DeleteByKey, compiler: Any, **rest: Any) -> str:
    # MariaDB looks up the row of a multi-table DELETE by its key.
    name = compiler.preparer.format_table(statement.table)
    plain: str = compiler.visit_delete(statement, **rest)
    return plain.replace(f"DELETE FROM {name}", f"DELETE {name} FROM {name} FORCE INDEX (PRIMARY)", 1)  # noqa: S608


def by_key(table: sa.Table) -> DeleteByKey:
    """Return the DELETE of one row by its key; each parameter is named ``p_`` plus the column's name."""
    parameters = {column: sa.bindparam(PREFIX + column.name, type_=column.type) for column in table.primary_key.columns}
    return DeleteByKey(table).where(*(column == value for column, value in parameters.items()))


def delete_unlocked(connection: Connection, table: sa.Table, condition: sa.ColumnElement[bool]) -> int:
    """Delete the rows that match a condition, except locked rows, which a later call deletes.

    Args:
        connection: A connection in a transaction.
        table: The table of the rows.
        condition: The condition on the rows.

    Returns:
        The number of deleted rows.
    """
    key = table.primary_key.columns
    # On SQLite reading locks no row.
    dialect_of(connection).acquire_write_lock(connection)
    unlocked = sa.select(*key).where(condition).with_for_update(skip_locked=True)
    keys = [
        {PREFIX + column.name: value for column, value in zip(key, row, strict=True)}
        for row in connection.execute(unlocked).all()
    ]
    return connection.execute(by_key(table), keys).rowcount if keys else 0
