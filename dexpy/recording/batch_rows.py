"""The rows of batches and their callbacks, in SQL.

A run names its batch in ``batch_id``. Its end does not change the row of the batch, which would be locked by one end
after the other: whether a batch has ended is read from an index over the statuses of its runs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import StatementError

from dexpy.database.column_types import after
from dexpy.database.dialects import dialect_of
from dexpy.database.tables import FINAL, batch_callbacks, batches, records
from dexpy.foundation.errors import BatchEnded, BatchNotFound
from dexpy.foundation.safe_text import is_plain_text, shortened

Event: TypeAlias = Literal["finish", "success", "failure"]
EVENTS: Final[tuple[Event, ...]] = ("finish", "success", "failure")
"""When a callback is enqueued: all runs have ended, all have succeeded, the first one has failed."""

UNFINISHED: Final = ("open", "running")
"""The statuses of a batch that has not ended; an open one accepts runs after its last run has ended."""
ENDED: Final = ("done", "failed", "cancelled")
"""The statuses of a batch that has ended."""
FAILED: Final = ("failed", "expired")
"""The statuses of a run, or batch, that has failed; a cancelled one has not."""

_b, _c, _r = batches.c, batch_callbacks.c, records.c


def _newest(table: Any, status: str, batch_id: sa.ColumnElement[str]) -> sa.ScalarSelect[str]:
    # From the newest: runs end from the oldest, whose dead entries the index keeps while an old snapshot is open.
    columns = table.c
    query: sa.Select[str] = sa.select(columns.id).where(columns.batch_id == batch_id, columns.status == status)
    return query.order_by(columns.id.desc()).limit(1).scalar_subquery()


def _has_unfinished(batch_id: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Return the condition that a batch has a run or batch that has not ended."""
    runs = [_newest(records, status, batch_id) for status in ("pending", "running")]
    inner = batches.alias("inner_batches")
    inner_batches = [_newest(inner, status, batch_id) for status in UNFINISHED]
    return sa.func.coalesce(*runs, *inner_batches).is_not(None)


def _has_failed(batch_id: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Return the condition that a batch has a run or batch that has failed."""
    inner = batches.alias("inner_batches")
    runs = [_newest(records, status, batch_id) for status in FAILED]
    return sa.func.coalesce(*runs, _newest(inner, "failed", batch_id)).is_not(None)


_ID: Final = sa.bindparam("p_batch", type_=_b.id.type)
_AWAITS_FAILURE: Final = sa.exists().where(_c.batch_id == _b.id, _c.event == "failure", _c.enqueued_at.is_(None))
_IS_COMPLETE: Final = sa.select(_b.id).where(_b.id == _ID, _b.status == "running", ~_has_unfinished(_ID))
_FIRST_FAILURE: Final = sa.select(_b.id).where(
    _b.id == _ID, _b.status.in_(UNFINISHED), _AWAITS_FAILURE, _has_failed(_ID)
)
_COMPLETE: Final = sa.select(_b.id).where(_b.status == "running", ~_has_unfinished(_b.id)).order_by(_b.id)
_WITH_FAILURE: Final = (
    sa.select(_b.id).where(_b.status.in_(UNFINISHED), _AWAITS_FAILURE, _has_failed(_b.id)).order_by(_b.id)
)


@attrs.frozen
class Counts:
    """The numbers of runs and inner batches of a batch.

    Attributes:
        runs: The number of runs by status.
        inner: The number of inner batches by status.
    """

    runs: Mapping[str, int]
    inner: Mapping[str, int] = attrs.field(factory=dict[str, int])

    @property
    def status(self) -> str:
        """The status of a batch whose runs have all ended."""
        if any(self.runs.get(status) for status in FAILED) or self.inner.get("failed"):
            return "failed"
        return "cancelled" if self.runs.get("cancelled") or self.inner.get("cancelled") else "done"


def insert_batch(connection: Connection, values: Mapping[str, Any]) -> None:
    """Insert the row of a batch; *values* are its columns without the times."""
    connection.execute(sa.insert(batches).values(created_at=after(0), updated_at=after(0), **values))


def insert_callbacks(connection: Connection, batch_id: str, callbacks: Sequence[Mapping[str, Any]]) -> None:
    """Insert the callbacks of a batch: the event, the id of the run, and its job as JSON."""
    if not callbacks:
        return
    try:
        connection.execute(sa.insert(batch_callbacks), [{"batch_id": batch_id, **each} for each in callbacks])
    except StatementError as error:
        # The job contains props, which errors of an application's engine would show.
        error.hide_parameters = True
        raise


def read_batch(connection: Connection, batch_id: str) -> Row[Any] | None:
    """Return the row of a batch, or None."""
    if not is_plain_text(batch_id):
        return None
    return connection.execute(sa.select(batches).where(_b.id == batch_id)).first()


def not_found(batch_id: object) -> BatchNotFound:
    """Return the error for an id without a batch."""
    return BatchNotFound(
        f"No batch has the id {shortened(batch_id)}. It may have been rolled back or pruned; check the id."
    )


def require_accepting(connection: Connection, batch_id: str) -> None:
    """Require that a batch accepts runs, and keep it from ending before the end of this transaction.

    Raises:
        BatchNotFound: No batch has this id.
        BatchEnded: It has ended or is cancelled.
    """
    dialect_of(connection).acquire_write_lock(connection)
    # Shared: transactions that add runs do not wait for each other.
    query = sa.select(_b.status, _b.cancelled_at).where(_b.id == batch_id).with_for_update(read=True)
    row = connection.execute(query).first()
    if row is None:
        raise not_found(batch_id)
    if row.status not in UNFINISHED or row.cancelled_at is not None:
        raise BatchEnded(batch_id, "cancelled" if row.cancelled_at is not None else row.status)


def is_complete(connection: Connection, batch_id: str) -> bool:
    """Return whether all runs of a batch have ended, and its end is not written."""
    return connection.execute(_IS_COMPLETE, {"p_batch": batch_id}).first() is not None


def has_first_failure(connection: Connection, batch_id: str) -> bool:
    """Return whether a run of a batch has failed, and the callback for that is not enqueued."""
    return connection.execute(_FIRST_FAILURE, {"p_batch": batch_id}).first() is not None


def find_complete(connection: Connection, limit: int) -> list[str]:
    """Return the ids of batches whose end, or whose first failure, is not handled."""
    complete = connection.execute(_COMPLETE.limit(limit)).scalars().all()
    return list(dict.fromkeys([*complete, *connection.execute(_WITH_FAILURE.limit(limit)).scalars()]))


def lock_unfinished(connection: Connection, batch_id: str) -> Row[Any] | None:
    """Lock a batch that has not ended; None if it has, or if another transaction adds runs or writes its end."""
    dialect_of(connection).acquire_write_lock(connection)
    query = sa.select(batches).where(_b.id == batch_id, _b.status.in_(UNFINISHED))
    return connection.execute(query.with_for_update(skip_locked=True)).first()


def count_members(connection: Connection, batch_id: str) -> Counts:
    """Count the runs and inner batches of a batch by status."""
    return Counts(_count_by_status(connection, _r, batch_id), _count_by_status(connection, _b, batch_id))


def _count_by_status(connection: Connection, columns: Any, batch_id: str) -> dict[str, int]:
    selected: tuple[Any, ...] = (columns.status, sa.func.count().label("number"))
    query = sa.select(*selected).where(columns.batch_id == batch_id).group_by(columns.status)
    return {row.status: row.number for row in connection.execute(query).all()}


def write_end(connection: Connection, batch_id: str, counts: Counts) -> str:
    """Write the end of a locked batch, and return its status."""
    values = {"status": counts.status, "counts": dict(counts.runs), "finished_at": after(0), "updated_at": after(0)}
    connection.execute(sa.update(batches).where(_b.id == batch_id).values(values))
    return counts.status


def take_callback(connection: Connection, batch_id: str, event: Event) -> Row[Any] | None:
    """Mark a callback as enqueued and return its earlier row; None if there is none, or if it is enqueued already.

    Its props remain in its run alone.
    """
    is_waiting = (_c.batch_id == batch_id, _c.event == event, _c.enqueued_at.is_(None))
    callback = connection.execute(sa.select(batch_callbacks).where(*is_waiting).with_for_update()).first()
    if callback is not None:
        connection.execute(sa.update(batch_callbacks).where(*is_waiting).values(enqueued_at=after(0), job={}))
    return callback


def write_callback_run(connection: Connection, batch_id: str, event: Event, run_id: str) -> None:
    """Write that another run, which holds the key of a callback, is the run of the callback."""
    is_callback = (_c.batch_id == batch_id, _c.event == event)
    connection.execute(sa.update(batch_callbacks).where(*is_callback).values(run_id=run_id))


def read_callback(connection: Connection, batch_id: str, event: Event) -> Row[Any] | None:
    """Return the row of a callback, or None."""
    query = sa.select(batch_callbacks).where(_c.batch_id == batch_id, _c.event == event)
    return connection.execute(query).first()


def batch_of_callback(connection: Connection, run_id: str) -> str | None:
    """Return the id of the batch that has enqueued a run as its callback, or None."""
    return connection.execute(sa.select(_c.batch_id).where(_c.run_id == run_id)).scalar()


def close(connection: Connection, batch_id: str) -> None:
    """Close an open batch: it ends with its last run."""
    is_open = (_b.id == batch_id, _b.status == "open")
    connection.execute(sa.update(batches).where(*is_open).values(status="running", updated_at=after(0)))


def cancel(connection: Connection, batch_id: str) -> None:
    """Close a batch that has not ended, and keep it from accepting further runs."""
    is_unfinished = (_b.id == batch_id, _b.status.in_(UNFINISHED))
    values = {"status": "running", "cancelled_at": sa.func.coalesce(_b.cancelled_at, after(0)), "updated_at": after(0)}
    connection.execute(sa.update(batches).where(*is_unfinished).values(values))


def reopen(connection: Connection, batch_id: str | None) -> None:
    """Let a batch and the batches around it run again, because one of its runs is retried."""
    while batch_id is not None:
        # Without a condition on the status: it waits for a transaction that writes the end meanwhile.
        status = sa.case((_b.status == "open", "open"), else_="running")
        values = {"status": status, "cancelled_at": None, "finished_at": None, "updated_at": after(0)}
        connection.execute(sa.update(batches).where(_b.id == batch_id).values(values))
        batch_id = connection.execute(sa.select(_b.batch_id).where(_b.id == batch_id)).scalar()


def unfinished_members(batch_id: str, without: Collection[str]) -> sa.Select[Any]:
    """Return the query for the runs of a batch that have not ended, without some ids."""
    query = (
        sa.select(*_r["id", "operation", "status"])
        .where(_r.batch_id == batch_id, _r.status.not_in(FINAL))
        .order_by(_r.id)
    )
    return query.where(_r.id.not_in(list(without))) if without else query


def inner_batches(batch_id: str) -> sa.Select[Any]:
    """Return the query for the ids of the batches inside of a batch."""
    return sa.select(_b.id).where(_b.batch_id == batch_id).order_by(_b.id)


def with_inner(connection: Connection, batch_id: str) -> list[str]:
    """Return the ids of a batch and of all batches inside of it."""
    found = [batch_id]
    for outer_id in found:
        found += connection.execute(inner_batches(outer_id)).scalars().all()
    return found


def is_needed(cutoff: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Return the condition that a record belongs to a batch that has not ended before a time."""
    has_ended = sa.and_(_b.status.in_(ENDED), _b.finished_at < cutoff)
    return sa.and_(_r.batch_id.is_not(None), sa.exists().where(_b.id == _r.batch_id, sa.not_(has_ended)))


def delete_ended(connection: Connection, cutoff: sa.ColumnElement[Any], limit: int) -> int:
    """Delete batches that ended before a time and have no runs and no inner batches any more; return how many."""
    inner = batches.alias("inner_batches")
    is_empty = sa.and_(~sa.exists().where(_r.batch_id == _b.id), ~sa.exists().where(inner.c.batch_id == _b.id))
    query = sa.select(_b.id).where(_b.status.in_(ENDED), _b.finished_at < cutoff, is_empty)
    ids = connection.execute(query.limit(limit).with_for_update(skip_locked=True)).scalars().all()
    if ids:
        connection.execute(sa.delete(batch_callbacks).where(_c.batch_id.in_(ids)))
        connection.execute(sa.delete(batches).where(_b.id.in_(ids)))
    return len(ids)
