"""Batches of row updates, in which a row that the database refuses, for example by a trigger, stops no other row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy.engine import Connection, Row

from dexpy.database.error_codes import is_locked
from dexpy.database.errors import is_away
from dexpy.foundation.failpoints import failpoint
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path
from dexpy.foundation.throttle import LogThrottle
from dexpy.recording.store import Store

BATCH = 100

T = TypeVar("T")

_refused = LogThrottle(every_s=float("inf"))


def update_each(
    store: Store,
    action: str,
    find: Callable[[Connection, int, Sequence[str]], Sequence[Row[Any]]],
    change: Callable[[Connection, Row[Any]], bool],
    batch_size: int | None = None,
) -> int:
    """Update the rows that a query finds, batch by batch; a row that fails is skipped.

    Args:
        store: The store of the rows.
        action: The name of the update for the log and for failpoints, such as ``recovery``.
        find: Reads and locks rows, at most the passed number and without the passed ids.
        change: Updates one row in its own savepoint; returns False if there was nothing to update.
        batch_size: How many rows are read in one transaction; `BATCH` by default.

    Returns:
        The number of updated rows.
    """
    limit = BATCH if batch_size is None else batch_size
    changed = 0
    skipped: list[str] = []
    while True:
        num_skipped = len(skipped)
        with store.begin() as connection:
            rows = find(connection, limit, skipped)
            num_changed = sum(_is_changed(connection, action, row, change, skipped) for row in rows)
            if num_changed:
                failpoint(f"before_{action}_commit")
        changed += num_changed
        if len(rows) < limit or not (num_changed or len(skipped) > num_skipped):
            return changed


def _is_changed(
    connection: Connection,
    action: str,
    row: Row[Any],
    change: Callable[[Connection, Row[Any]], bool],
    skipped: list[str],
) -> bool:
    try:
        with connection.begin_nested():
            if change(connection, row):
                return True
    except Exception as error:
        if is_locked(error):
            # An open transaction has locked the row or its key: a later call retries it.
            log_event(LogEvent.RECORD_LOCKED, action=action, operation=row.operation, run_id=row.id)
        elif is_away(error):
            raise
        else:
            log_refused_row(action, error, operation=row.operation, run_id=row.id)
    # A row that no statement finds by its id is in every batch: count it once, so that the loop ends.
    if row.id not in skipped:
        skipped.append(row.id)
    return False


def log_refused_row(action: str, error: BaseException, **facts: Any) -> None:
    """Log once that the database refused to update a row.

    Args:
        action: The name of the update.
        error: The error.
        facts: The fields that name the row.
    """
    error_path = class_path(error)
    _refused.log(
        LogEvent.RECORD_NOT_UPDATED, f"{action} {facts} {error_path}", action=action, **facts, error=error_path
    )


def write_each(
    connection: Connection, action: str, ids: Sequence[str], write: Callable[[str], object], field: str = "run_id"
) -> list[str]:
    """Write rows one by one, each in its own savepoint, after one statement for all of them has failed.

    Args:
        connection: A connection in a transaction.
        action: The name of the update, for the log.
        ids: The ids of the rows.
        write: Writes the row of an id.
        field: The field of the log that names a row.

    Returns:
        The ids of the written rows.
    """
    written: list[str] = []
    for run_id in ids:
        try:
            with connection.begin_nested():
                write(run_id)
            written.append(run_id)
        except Exception as error:
            if is_locked(error):
                continue
            if is_away(error):
                raise
            log_refused_row(action, error, **{field: run_id})
    return written


def write_all_or_each(write: Callable[[bool], T]) -> T:
    """Write many rows in one statement, or one by one if the statement fails because of one of them.

    Args:
        write: Writes in its own transaction; the argument is whether to write each row separately.
    """
    try:
        return write(False)
    except Exception as error:
        if is_away(error) or is_locked(error):
            raise
    return write(True)
