"""`operation_signals`: what is said to a run while it runs, beside its record."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from dexpy.recording.deletion import DeleteByKey, delete_free
from dexpy.recording.metadata import after, of_this_row
from dexpy.recording.tables import FINAL, records, signals

_OF = signals.c.record_id == sa.bindparam("p_id")
_RUNS = sa.and_(
    records.c.id == sa.bindparam("p_id"),
    of_this_row(records.c.claim_token == sa.bindparam("p_token"), records.c.status == "running"),
)
_PROGRESS = sa.bindparam("p_progress", type_=signals.c.progress.type)
_SAY = sa.update(signals).where(_OF, sa.exists().where(_RUNS)).values(progress=_PROGRESS)
_SAY_FIRST = sa.insert(signals).from_select(["record_id", "progress"], sa.select(records.c.id, _PROGRESS).where(_RUNS))
_CANCELLED = sa.select(signals.c.record_id).where(signals.c.cancel_requested_at.is_not(None))


def request_cancel(connection: Connection, record_id: str) -> None:
    """Ask a running operation to end, in the caller's transaction; again is once."""
    said = sa.update(signals).where(_OF).values(cancel_requested_at=after(0))
    if connection.execute(said, {"p_id": record_id}).rowcount:
        return
    try:
        with connection.begin_nested():
            connection.execute(sa.insert(signals).values(record_id=record_id, cancel_requested_at=after(0)))
    except IntegrityError:
        # The run has said something itself in this very moment.
        connection.execute(said, {"p_id": record_id})


def keep_progress(connection: Connection, record_id: str, claim_token: int, progress: Mapping[str, Any]) -> None:
    """Keep how far a run is, while its claim is in force; what an earlier attempt said is overwritten."""
    parameters = {"p_id": record_id, "p_token": claim_token, "p_progress": progress}
    if not connection.execute(_SAY, parameters).rowcount:
        connection.execute(_SAY_FIRST, parameters)


def is_cancel_requested(connection: Connection, record_id: str) -> bool:
    """Whether somebody has called a run off."""
    return connection.execute(_CANCELLED.where(signals.c.record_id == record_id)).first() is not None


def cancelled_among(connection: Connection, record_ids: Collection[str]) -> set[str]:
    """Those of these records that somebody has called off."""
    found = connection.execute(_CANCELLED.where(signals.c.record_id.in_(record_ids)))
    return set(found.scalars())


def forget(connection: Connection, record_id: str) -> None:
    """Take back what was said: the run begins anew."""
    connection.execute(DeleteByKey(signals).where(_OF), {"p_id": record_id})


def withdraw_cancel(connection: Connection, record_id: str) -> None:
    """Take back a request to end; what the run said itself stays."""
    connection.execute(DeleteByKey(signals).where(_OF, signals.c.progress.is_(None)), {"p_id": record_id})
    connection.execute(sa.update(signals).where(_OF).values(cancel_requested_at=None), {"p_id": record_id})


def forget_ended(connection: Connection) -> int:
    """Take back the requests to runs that have ended, and say how many; their last progress stays with the record."""
    of_open_run = sa.exists().where(records.c.id == signals.c.record_id, records.c.status.not_in(FINAL))
    is_over = sa.and_(signals.c.cancel_requested_at.is_not(None), ~of_open_run)
    told = sa.update(signals).where(is_over, signals.c.progress.is_not(None)).values(cancel_requested_at=None)
    return delete_free(connection, signals, sa.and_(is_over, signals.c.progress.is_(None))) + (
        connection.execute(told).rowcount
    )
