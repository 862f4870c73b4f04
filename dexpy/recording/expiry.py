"""Expiry: pending records that were not started in time become ``expired``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.database.column_types import as_of, hide_from_planner
from dexpy.database.tables import records
from dexpy.recording.transitions import apply

_IS_OVERDUE = (records.c.status == "pending", records.c.expires_at <= as_of(0))
_LOCK = sa.select(*records.c["id", "operation"]).with_for_update(skip_locked=True)
_EXPIRED: Final = {
    "error": None,
    "failure": "expired",
    "error_message": "Expired before it was started.",
    "error_details": None,
}


def find_overdue(connection: Connection, limit: int, without: Collection[str] = ()) -> Sequence[Row[Any]]:
    """Lock overdue records, and return their ids and operations.

    Args:
        connection: A connection in a transaction.
        limit: The maximum number of records.
        without: The ids of records to leave out.
    """
    query = _LOCK.where(*_IS_OVERDUE).limit(limit)
    return connection.execute(query.where(records.c.id.not_in(list(without))) if without else query).all()


def expire(connection: Connection, id: str) -> bool:
    """Expire a record, overdue or not; return False if it is no longer pending."""
    return apply(connection, "expire", id, **_EXPIRED) is not None


def expire_if_overdue(connection: Connection, id: str) -> bool:
    """Expire a pending record that is overdue by the database's clock; return False for any other."""
    row = connection.execute(_LOCK.where(records.c.id == id, hide_from_planner(*_IS_OVERDUE))).first()
    return row is not None and expire(connection, row.id)
