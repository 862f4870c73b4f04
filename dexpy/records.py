"""Queries over recorded runs: ``from dexpy import records``.

Example:
    >>> from datetime import timedelta
    >>> from dexpy import records
    >>> recent_failures = records.failed().where(since=timedelta(days=1)).newest_first().limit(20)
    >>> recent_failures.count()
    0
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from dexpy.alembic import create_tables, include_object, upgrade_tables
from dexpy.database.column_types import metadata
from dexpy.database.tables import FINAL
from dexpy.database.tables import attempts as attempts_table
from dexpy.database.tables import records as table
from dexpy.foundation.errors import OptionsError
from dexpy.recording import retention
from dexpy.recording.current_store import current_store, prune_records
from dexpy.recording.queries import RecordQuery
from dexpy.recording.record import Attempt, Page, Record
from dexpy.recording.step_records import KeptStep, redacted_steps
from dexpy.recording.trace_tree import Node, Tree, tree_of

__all__ = [
    "Attempt",
    "KeptStep",
    "Node",
    "Page",
    "Record",
    "RecordQuery",
    "Tree",
    "all",
    "attempts",
    "attempts_table",
    "cancelled",
    "create_tables",
    "done",
    "expired",
    "failed",
    "for_actor",
    "for_trace",
    "get",
    "include_object",
    "metadata",
    "newest_first",
    "pending",
    "prune",
    "running",
    "steps",
    "table",
    "tree",
    "upgrade_tables",
    "where",
]

_every = RecordQuery()
where = _every.where
pending = _every.pending
running = _every.running
done = _every.done
failed = _every.failed
expired = _every.expired
cancelled = _every.cancelled
for_trace = _every.for_trace
for_actor = _every.for_actor
newest_first = _every.newest_first


def all() -> RecordQuery:  # noqa: A001 - reads as records.all()
    """Return the query over all records."""
    return _every


def prune(
    *,
    older_than: timedelta | None = None,
    statuses: Collection[str] = FINAL,
    batch: int = retention.BATCH,
    dry_run: bool = False,
) -> int:
    """Delete records that ended long ago, with their attempts, in batches.

    Without arguments it deletes what workers and relays would delete: records whose retention has passed, which their
    class or the settings declare. With *older_than* it deletes records of all classes by their age only.

    Args:
        older_than: The minimum time since they ended, instead of the retention of each class.
        statuses: Some of done, failed, expired and cancelled.
        batch: The number of records in one transaction.
        dry_run: Whether to count the records only.

    Returns:
        The number of records that were deleted, or would be.

    Raises:
        OptionsError: A status is not final, *older_than* is negative, *batch* is less than 1, or *statuses* or
            *batch* is set without *older_than*.

    Example:
        >>> from datetime import timedelta
        >>> from dexpy import records
        >>> records.prune(older_than=timedelta(days=30), dry_run=True)
        0
    """
    if older_than is None:
        if set(statuses) != set(FINAL) or batch != retention.BATCH:
            raise OptionsError("prune(): statuses and batch require older_than. Pass older_than=timedelta(days=30).")
        return prune_records.get()(dry_run=dry_run)
    store = current_store.get()
    return retention.prune(store, older_than, statuses=statuses, batch=batch, dry_run=dry_run)


def get(id: str) -> Record:
    """Return one record.

    Raises:
        RecordNotFound: No record has this id.
    """
    store = current_store.get()
    return Record(store.row_and_progress(id), store)


def tree(trace_id: str) -> Tree:
    """Return the recorded runs of a trace as a tree: nested and background runs are under the runs that started them.

    Args:
        trace_id: The id of the trace: ``tr_...``, or the id that was passed to `dexpy.trace`.

    Returns:
        The tree, from one query; without roots if the trace has no records.

    Example:
        >>> from dexpy import records
        >>> len(records.tree("tr_of_nothing"))
        0
    """
    return tree_of(current_store.get(), trace_id)


def steps(id: str) -> list[KeptStep]:
    """Return the stored durable steps of a run in order: finished steps, and the loop in progress with its cursor.

    Raises:
        RecordNotFound: No record has this id.
    """
    store = current_store.get()
    store.row(id)
    return redacted_steps(store, id)


def attempts(id: str) -> list[Attempt]:
    """Return all attempts of a record in order, including the running or successful one.

    Raises:
        RecordNotFound: No record has this id.
    """
    store = current_store.get()
    row = store.row(id)
    result = [
        Attempt(
            attempt.number,
            attempt.worker,
            attempt.started_at,
            attempt.ended_at,
            attempt.failure,
            attempt.error,
            attempt.error_message,
            attempt.traceback,
        )
        for attempt in store.attempts_of(id)
    ]
    if row.status in ("running", "done"):
        result.append(
            Attempt(row.num_attempts, row.claimed_by, row.started_at, row.completed_at, None, None, None, None)
        )
    elif row.num_attempts and not result:
        # A synchronous run has one attempt, which only its record stores.
        result.append(
            Attempt(
                row.num_attempts,
                None,
                row.started_at,
                row.completed_at,
                row.failure,
                row.error,
                row.error_message,
                None,
            )
        )
    return result
