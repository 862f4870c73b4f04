"""Records that nobody has begun in time: each is ``expired``, by whoever sees it first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.recording.metadata import as_of, of_this_row
from dexpy.recording.tables import records
from dexpy.recording.transitions import apply

_IS_LATE = (records.c.status == "pending", records.c.expires_at <= as_of(0))
_FREE = sa.select(*records.c["id", "name"]).with_for_update(skip_locked=True)
_TOO_LATE: Final = {
    "error": None,
    "failure": "expired",
    "error_message": "Its time was over before a worker could begin it.",
    "error_details": None,
}


def late(connection: Connection, limit: int, without: Collection[str] = ()) -> Sequence[Row[Any]]:
    """The ids and names of records whose time is over, locked.

    Args:
        connection: In a transaction.
        limit: How many at most.
        without: Ids of records that are not meant.
    """
    query = _FREE.where(*_IS_LATE).limit(limit)
    return connection.execute(query.where(records.c.id.not_in(list(without))) if without else query).all()


def expire(connection: Connection, id: str) -> bool:
    """Expire a record, whatever its time; False if it is not pending any more."""
    return apply(connection, "expire", id, **_TOO_LATE) is not None


def expire_if_late(connection: Connection, id: str) -> bool:
    """Expire one record if its time is over, by the database's clock; False if it is not, or the record not pending."""
    found = connection.execute(_FREE.where(records.c.id == id, of_this_row(*_IS_LATE))).first()
    return found is not None and expire(connection, found.id)
