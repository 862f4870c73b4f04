"""Rows that cannot be written, by a trigger of the application's, for one: they wait for who mends them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy.engine import Connection, Row

from dexpy.background.outages import is_away
from dexpy.foundation.checkpoint import checkpoint
from dexpy.foundation.log import line
from dexpy.foundation.redaction import class_path
from dexpy.recording.codes import is_locked
from dexpy.recording.store import Store

BATCH = 100


def change_each(
    store: Store,
    deed: str,
    find: Callable[[Connection, int, Sequence[str]], Sequence[Row[Any]]],
    change: Callable[[Connection, Row[Any]], bool],
) -> int:
    """Change whatever is found, batch after batch; what cannot be changed keeps no other from its turn.

    Args:
        store: Where the rows are.
        deed: For the log: ``rescue`` becomes ``rescue.failed``.
        find: Reads and locks so many rows at most, without those of the ids.
        change: Changes one, in a savepoint of its own; False if there was nothing to change.

    Returns:
        How many were changed.
    """
    changed = 0
    passed_over: list[str] = []
    while True:
        with store.begin() as connection:
            rows = find(connection, BATCH, passed_over)
            done = sum(_is_changed(connection, deed, row, change, passed_over) for row in rows)
            if done:
                checkpoint(f"before_{deed}_commit")
        changed += done
        if len(rows) < BATCH:
            return changed


def _is_changed(
    connection: Connection,
    deed: str,
    row: Row[Any],
    change: Callable[[Connection, Row[Any]], bool],
    passed_over: list[str],
) -> bool:
    try:
        with connection.begin_nested():
            if change(connection, row):
                return True
    except Exception as error:
        if is_locked(error):
            # A key of it, for one, by somebody's open transaction: its turn comes again.
            line(logging.DEBUG, f"{deed}.waits", operation=row.name, run=row.id)
        elif is_away(error):
            raise
        else:
            line(logging.ERROR, f"{deed}.failed", operation=row.name, run=row.id, error=class_path(error))
    passed_over.append(row.id)
    return False
