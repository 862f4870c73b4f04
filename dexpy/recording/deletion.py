"""Deletes that wait for nobody who has other rows locked.

MariaDB and MySQL walk over a whole small table where a list of keys names most of it, and a DELETE waits there for
each row that it meets, its own or not: one that an application's open transaction has just enqueued, for one.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles

from dexpy.recording.sqlite import take_write_lock

PREFIX = "p_"
"""Of the parameters of `by_key`."""


class DeleteByKey(sa.Delete):
    """A DELETE whose condition has one value for the primary key, or for its first columns: it meets no other row."""

    inherit_cache = True


@compiles(DeleteByKey, "mysql", "mariadb")
def _compiled(statement: DeleteByKey, compiler: Any, **rest: Any) -> str:
    # In the form for several tables such a row is looked up before anything else is thought about.
    name = compiler.preparer.format_table(statement.table)
    plain: str = compiler.visit_delete(statement, **rest)
    return plain.replace(f"DELETE FROM {name}", f"DELETE {name} FROM {name} FORCE INDEX (PRIMARY)", 1)  # noqa: S608


def meets_others(connection: Connection) -> bool:
    """Whether a DELETE with a list of keys may have to wait for rows that are not meant."""
    return connection.dialect.name in ("mysql", "mariadb")


def by_key(table: sa.Table) -> DeleteByKey:
    """The delete of one row, by parameters ``p_`` and the names of the columns of its key."""
    given = {column: sa.bindparam(PREFIX + column.name, type_=column.type) for column in table.primary_key.columns}
    return DeleteByKey(table).where(*(column == value for column, value in given.items()))


def delete_free(connection: Connection, table: sa.Table, condition: sa.ColumnElement[bool]) -> int:
    """Delete what a condition finds, but for rows that somebody has locked; they are there the next time.

    Args:
        connection: In a transaction.
        table: Of the rows.
        condition: Which ones.

    Returns:
        How many were deleted.
    """
    key = table.primary_key.columns
    # On SQLite no row is locked by reading it.
    take_write_lock(connection)
    free = sa.select(*key).where(condition).with_for_update(skip_locked=True)
    found = [
        {PREFIX + column.name: value for column, value in zip(key, row, strict=True)}
        for row in connection.execute(free).all()
    ]
    return connection.execute(by_key(table), found).rowcount if found else 0
