"""Records that nobody has begun in time: each is ``expired``, by whoever sees it first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.recording.metadata import as_of
from dexpy.recording.tables import records
from dexpy.recording.transitions import apply

_LATE = (
    sa.select(records.c.id)
    .where(records.c.status == "pending", records.c.expires_at <= as_of(0))
    .with_for_update(skip_locked=True)
)
_TOO_LATE: Final = {
    "error": None,
    "failure": "expired",
    "error_message": "Its time was over before a worker could begin it.",
    "error_details": None,
}


def expire_late(connection: Connection, limit: int) -> Sequence[Row[Any]]:
    """Expire records whose time is over, in the caller's transaction.

    Args:
        connection: In a transaction.
        limit: How many at most.

    Returns:
        The rows, as they are now.
    """
    return _expire(connection, _LATE.limit(limit))


def expire_if_late(connection: Connection, id: str) -> bool:
    """Expire one record if its time is over, by the database's clock; False if it is not, or the record not pending."""
    return bool(_expire(connection, _LATE.where(records.c.id == id)))


def _expire(connection: Connection, query: sa.Select[Any]) -> Sequence[Row[Any]]:
    ids = connection.execute(query).scalars().all()
    return [row for late in ids if (row := apply(connection, "expire", late, **_TOO_LATE)) is not None]
