"""`operation_signals`: the cancel request and the progress of a run, beside its record."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from dexpy.database.column_types import after, hide_from_planner
from dexpy.database.deletes import DeleteByKey, delete_unlocked
from dexpy.database.tables import FINAL, records, signals

_BY_RECORD = signals.c.record_id == sa.bindparam("p_id")
_IS_CLAIMED = sa.and_(
    records.c.id == sa.bindparam("p_id"),
    hide_from_planner(records.c.claim_token == sa.bindparam("p_token"), records.c.status == "running"),
)
_PROGRESS = sa.bindparam("p_progress", type_=signals.c.progress.type)
_UPDATE_PROGRESS = sa.update(signals).where(_BY_RECORD, sa.exists().where(_IS_CLAIMED)).values(progress=_PROGRESS)
_INSERT_PROGRESS = sa.insert(signals).from_select(
    ["record_id", "progress"], sa.select(records.c.id, _PROGRESS).where(_IS_CLAIMED)
)
_CANCELLED = sa.select(signals.c.record_id).where(signals.c.cancel_requested_at.is_not(None))


def request_cancel(connection: Connection, record_id: str) -> None:
    """Request the cancellation of a run, in the caller's transaction; idempotent."""
    request = sa.update(signals).where(_BY_RECORD).values(cancel_requested_at=after(0))
    if connection.execute(request, {"p_id": record_id}).rowcount:
        return
    try:
        with connection.begin_nested():
            connection.execute(sa.insert(signals).values(record_id=record_id, cancel_requested_at=after(0)))
    except IntegrityError:
        # The run has inserted the row meanwhile to report progress.
        connection.execute(request, {"p_id": record_id})


def write_progress(connection: Connection, record_id: str, claim_token: int, progress: Mapping[str, Any]) -> None:
    """Write the progress of a run while its claim is in force; overwrite that of an earlier attempt."""
    parameters = {"p_id": record_id, "p_token": claim_token, "p_progress": progress}
    if not connection.execute(_UPDATE_PROGRESS, parameters).rowcount:
        connection.execute(_INSERT_PROGRESS, parameters)


def is_cancel_requested(connection: Connection, record_id: str) -> bool:
    """Return whether the cancellation of a run is requested."""
    return connection.execute(_CANCELLED.where(signals.c.record_id == record_id)).first() is not None


def cancelled_among(connection: Connection, record_ids: Collection[str]) -> set[str]:
    """Return the ids of those records whose cancellation is requested."""
    return set(connection.execute(_CANCELLED.where(signals.c.record_id.in_(record_ids))).scalars())


def delete_signals(connection: Connection, record_id: str) -> None:
    """Delete the signals of a run that is retried."""
    connection.execute(DeleteByKey(signals).where(_BY_RECORD), {"p_id": record_id})


def withdraw_cancel(connection: Connection, record_id: str) -> None:
    """Withdraw a cancel request, and keep the progress of the run."""
    connection.execute(DeleteByKey(signals).where(_BY_RECORD, signals.c.progress.is_(None)), {"p_id": record_id})
    connection.execute(sa.update(signals).where(_BY_RECORD).values(cancel_requested_at=None), {"p_id": record_id})


def delete_ended_requests(connection: Connection) -> int:
    """Delete the cancel requests of runs that have ended, keep their progress, and return the number."""
    of_open_run = sa.exists().where(records.c.id == signals.c.record_id, records.c.status.not_in(FINAL))
    is_ended = sa.and_(signals.c.cancel_requested_at.is_not(None), ~of_open_run)
    withdraw = sa.update(signals).where(is_ended, signals.c.progress.is_not(None)).values(cancel_requested_at=None)
    return delete_unlocked(connection, signals, sa.and_(is_ended, signals.c.progress.is_(None))) + (
        connection.execute(withdraw).rowcount
    )
