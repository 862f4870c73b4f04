"""The layout of dexpy's tables in this process: the prefix of their names, and the application's columns of records.

All statements refer to the same `Table` objects, so a process has one layout, that of its current runtime.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from dexpy.database.column_types import metadata
from dexpy.database.tables import records


def _named_items() -> Iterator[Any]:
    for table in metadata.tables.values():
        items: tuple[Any, ...] = (table, *table.indexes, *table.constraints)
        yield from (item for item in items if item.name is not None)


_STANDARD_NAMES: Final = tuple((item, str(item.name)) for item in _named_items())
"""Each named object of the schema with its name without a prefix."""
_STANDARD_NAME = re.compile(r"\b(?:operation_|dexpy_messages|(?:ix|uq|ck)_(?:operation|message)_)\w*")


class _Layout:
    """The layout that the `Table` objects have now."""

    def __init__(self) -> None:
        self.prefix = ""
        self.columns: tuple[sa.Column[Any], ...] = ()
        self.changes = 0
        self.lock = threading.Lock()
        self.seen: WeakKeyDictionary[Engine, int] = WeakKeyDictionary()


_layout = _Layout()


def set_layout(prefix: str, columns: Sequence[sa.Column[Any]] = ()) -> None:
    """Give the tables a prefix, and the records the columns of the application; idempotent.

    Args:
        prefix: The prefix of all tables, indexes and constraints; "" for the standard names.
        columns: New columns of the table of records, or those that it has already; ``has_index`` in their ``info`` adds
            an index.
    """
    with _layout.lock:
        if prefix == _layout.prefix and tuple(columns) == _layout.columns:
            return
        _remove_columns()
        for item, name in _STANDARD_NAMES:
            item.name = prefix + name
            if isinstance(item, sa.Table):
                item.fullname = item.name
        for column in columns:
            records.append_column(column)
            if column.info.get("has_index"):
                sa.Index(f"{prefix}ix_operation_own_{column.name}", column)
        _layout.prefix, _layout.columns = prefix, tuple(columns)
        _layout.changes += 1


def _remove_columns() -> None:
    for index in own_indexes(_layout.columns):
        records.indexes.discard(index)
    columns: Any = records._columns  # pyright: ignore[reportPrivateUsage] - SQLAlchemy has no public method
    for column in _layout.columns:
        columns.remove(column)


def table_prefix() -> str:
    """Return the prefix of the tables."""
    return _layout.prefix


def own_columns() -> tuple[sa.Column[Any], ...]:
    """Return the columns of the application in the table of records."""
    return _layout.columns


def own_indexes(columns: Sequence[sa.Column[Any]]) -> list[sa.Index]:
    """Return the indexes on some columns of the application, in the order of the columns."""
    return [index for column in columns for index in records.indexes if column in set(index.columns)]


def renamed(sql: str) -> str:
    """Return the text of a statement with standard names, with the prefix before each of them."""
    return _STANDARD_NAME.sub(lambda match: _layout.prefix + match[0], sql) if _layout.prefix else sql


def forget_statements(engine: Engine) -> None:
    """Drop the statements that an engine of the application has compiled for an earlier layout of this process."""
    # Usually a process sets its layout once, before its first statement.
    if _layout.changes > 1 and _layout.seen.get(engine) != _layout.changes:
        engine.clear_compiled_cache()
        _layout.seen[engine] = _layout.changes
