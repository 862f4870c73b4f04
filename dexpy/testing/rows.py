"""Deletes the rows that a block of `isolated` has added to a persistent database."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from dexpy.database.schema import DATA_TABLES

if TYPE_CHECKING:
    from dexpy.recording.store import Store

BATCH = 500
"""The number of rows that one statement deletes; their keys are its parameters."""


class NewRows:
    """The rows that were added to dexpy's tables since this object was created.

    Args:
        store: The store of the block.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        if not store.database.dialect.creates_tables:
            # SQLite's tables are created at the first write, because this thread may hold the write lock now.
            store.prepare()
        self._before = {table.name: set[tuple[Any, ...]]() for table in DATA_TABLES}
        if not self._is_file_missing:
            self._before = {table.name: self._keys(table) for table in DATA_TABLES}

    @property
    def _is_file_missing(self) -> bool:
        path = self._store.database.path
        return path is not None and not os.path.exists(path)

    def _keys(self, table: sa.Table) -> set[tuple[Any, ...]]:
        return {tuple(row) for row in self._store.rows(sa.select(*table.primary_key))}

    def delete_new(self) -> None:
        """Delete the added rows."""
        if self._is_file_missing:
            return
        new = {table: sorted(self._keys(table) - self._before[table.name]) for table in DATA_TABLES}
        if not any(new.values()):
            # Without a transaction: a session that the block left open may hold SQLite's write lock.
            return
        with self._store.begin() as connection:
            for table, keys in new.items():
                for start in range(0, len(keys), BATCH):
                    connection.execute(sa.delete(table).where(_has_key_in(table, keys[start : start + BATCH])))


def _has_key_in(table: sa.Table, keys: Sequence[tuple[Any, ...]]) -> sa.ColumnElement[bool]:
    columns = list(table.primary_key)
    if len(columns) == 1:
        return columns[0].in_([key[0] for key in keys])
    return sa.tuple_(*columns).in_(keys)
