"""Reads rows that may have values that Python cannot represent; logs each such row once and returns all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import DataError

from dexpy.database.column_types import collecting_unreadable
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.redaction import class_path
from dexpy.foundation.throttle import LogThrottle

_rows = LogThrottle(every_s=float("inf"))


def report_unreadable(run_id: Any, kinds: Sequence[str]) -> None:
    """Log once that a row has unreadable values."""
    unreadable = ",".join(sorted(set(kinds)))
    advice = "correct the row in the database, or delete it"
    _rows.log(LogEvent.RECORD_UNREADABLE, f"{run_id} {unreadable}", run_id=run_id, columns=unreadable, advice=advice)


def read_rows(
    connection: Connection, query: sa.Select[Any], row_query: Callable[[Any], sa.Select[Any]]
) -> Sequence[Row[Any]]:
    """Return the rows of a query over records, and log each row that has an unreadable value.

    One statement is enough if all values are readable. Otherwise each row is read separately, so that the log names it;
    a row that the driver cannot decode is left out.

    Args:
        connection: A connection in a transaction.
        query: A query with the column ``id``; executed a second time for the ids only.
        row_query: Returns the query for one row by its id.
    """
    try:
        with collecting_unreadable() as kinds:
            rows = connection.execute(query).all()
    except (ValueError, OverflowError, DataError):
        kinds, rows = ["row"], list[Row[Any]]()
    if not kinds:
        return rows
    ids = connection.execute(query.with_only_columns(query.selected_columns["id"])).scalars().all()
    read = (_read_one(connection, row_query(run_id), run_id, kinds) for run_id in ids)
    return [row for row in read if row is not None]


def _read_one(connection: Connection, query: sa.Select[Any], run_id: Any, all_kinds: Sequence[str]) -> Row[Any] | None:
    try:
        with collecting_unreadable() as kinds:
            row = connection.execute(query).first()
    except (ValueError, OverflowError, DataError) as error:
        report_unreadable(run_id, [class_path(error)])
        return None
    if row is None and "text" in all_kinds:
        # No statement selects the row, because its id is not text.
        report_unreadable(run_id, ["id"])
    elif kinds:
        report_unreadable(run_id, kinds)
    return row
