"""Recorded runs, to be asked about: ``from dexpy import records``.

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

from dexpy.database.alembic import create_tables, include_object, upgrade_tables
from dexpy.database.column_types import metadata
from dexpy.database.tables import FINAL
from dexpy.database.tables import attempts as attempts_table
from dexpy.database.tables import records as table
from dexpy.recording import retention
from dexpy.recording.current_store import current_store
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
    """Every record."""
    return _every


def prune(
    *, older_than: timedelta, statuses: Collection[str] = FINAL, batch: int = retention.BATCH, dry_run: bool = False
) -> int:
    """Delete records that ended long ago, with their attempts, batch by batch.

    Args:
        older_than: They ended at least so long ago.
        statuses: Of done, failed, expired and cancelled.
        batch: How many in one transaction.
        dry_run: Count them only.

    Returns:
        How many there were.

    Raises:
        OptionsError: A status in which a record has not ended, a negative time, or a batch of none.

    Example:
        >>> from datetime import timedelta
        >>> from dexpy import records
        >>> records.prune(older_than=timedelta(days=30), dry_run=True)
        0
    """
    store = current_store.get()
    return retention.prune(store, older_than, statuses=statuses, batch=batch, dry_run=dry_run)


def get(id: str) -> Record:
    """One record.

    Raises:
        RecordNotFound: No record has this id.
    """
    store = current_store.get()
    return Record(store.row_and_progress(id), store)


def tree(trace_id: str) -> Tree:
    """The recorded runs of a trace, nested ones and those in the background under the runs that started them.

    Args:
        trace_id: ``tr_...``, or the one that `dexpy.trace` was given.

    Returns:
        The tree, from one query; without roots when nothing of the trace is recorded.

    Example:
        >>> from dexpy import records
        >>> len(records.tree("tr_of_nothing"))
        0
    """
    return tree_of(current_store.get(), trace_id)


def steps(id: str) -> list[KeptStep]:
    """What a run has behind it: its finished steps, and how far the loop is that it is in; the first one first.

    Raises:
        RecordNotFound: No record has this id.
    """
    store = current_store.get()
    store.row(id)
    return redacted_steps(store, id)


def attempts(id: str) -> list[Attempt]:
    """Every attempt of a record, the first one first, the running or successful one included.

    Raises:
        RecordNotFound: No record has this id.
    """
    store = current_store.get()
    row = store.row(id)
    result = [
        Attempt(
            each.number,
            each.worker,
            each.started_at,
            each.ended_at,
            each.failure,
            each.error,
            each.error_message,
            each.traceback,
        )
        for each in store.attempts_of(id)
    ]
    if row.status in ("running", "done"):
        result.append(
            Attempt(row.num_attempts, row.claimed_by, row.started_at, row.completed_at, None, None, None, None)
        )
    elif row.num_attempts and not result:
        # A run outside of the background tries once, and its record is all that is kept of it.
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
