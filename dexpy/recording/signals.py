"""`operation_signals`: what is said to a run while it runs, beside its record."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dexpy.recording.metadata import after
from dexpy.recording.tables import FINAL, records, signals

_OF = signals.c.record_id == sa.bindparam("p_id")
_CANCELLED = sa.select(signals.c.record_id).where(signals.c.cancel_requested_at.is_not(None))


def request_cancel(connection: Connection, record_id: str) -> None:
    """Ask a running operation to end, in the caller's transaction; again is once."""
    changed = connection.execute(
        sa.update(signals).where(_OF).values(cancel_requested_at=after(0)), {"p_id": record_id}
    )
    if not changed.rowcount:
        connection.execute(sa.insert(signals).values(record_id=record_id, cancel_requested_at=after(0)))


def is_cancel_requested(connection: Connection, record_id: str) -> bool:
    """Whether somebody has called a run off."""
    return connection.execute(_CANCELLED.where(signals.c.record_id == record_id)).first() is not None


def cancelled_among(connection: Connection, record_ids: Collection[str]) -> set[str]:
    """Those of these records that somebody has called off."""
    found = connection.execute(_CANCELLED.where(signals.c.record_id.in_(record_ids)))
    return set(found.scalars())


def forget(connection: Connection, record_id: str) -> None:
    """Take back what was said: the run begins anew."""
    connection.execute(sa.delete(signals).where(_OF), {"p_id": record_id})


def forget_ended(connection: Connection) -> int:
    """Delete the signals of runs that have ended, and say how many."""
    of_open_run = sa.exists().where(records.c.id == signals.c.record_id, records.c.status.not_in(FINAL))
    return connection.execute(sa.delete(signals).where(~of_open_run)).rowcount
