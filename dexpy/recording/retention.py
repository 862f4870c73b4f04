"""Retention: deletes old records that have ended, in short batches."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from dexpy.database.column_types import as_of
from dexpy.database.dialects import dialect_of
from dexpy.database.error_codes import DEADLOCK, SERIALIZATION_FAILURE, code_of, is_locked
from dexpy.database.tables import FINAL, attempts, records, signals, steps
from dexpy.foundation.errors import OptionsError, listed
from dexpy.foundation.failpoints import failpoint
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path
from dexpy.foundation.throttle import LogThrottle
from dexpy.recording import batch_rows
from dexpy.recording.store import Store

BATCH = 1000
MAX_SKIPPED = 20_000
"""The maximum number of ids that a query leaves out; each is a parameter."""
MANY = 1_000_000
"""The number of ended records above which a warning is logged."""

LONGEST_AGE_S = 500 * 365 * 86_400
"""The longest age, in seconds; an earlier time may be out of the range of dates."""

_r = records.c
_refused = LogThrottle(every_s=float("inf"))


RECENT_TICKS = 100
"""The number of the newest ticks of each recurring task whose records are kept."""

_newer = records.alias()
_oldest_recent_tick = (
    sa.select(_newer.c.run_at)
    .where(_newer.c.recurring_key == _r.recurring_key, _newer.c.run_at.is_not(None))
    .order_by(_newer.c.run_at.desc())
    .limit(1)
    .offset(RECENT_TICKS - 1)
    .correlate(records)
    .scalar_subquery()
)
# Null, and so not older, if the task has fewer ticks.
_IS_NO_RECENT_TICK = sa.or_(_r.recurring_key.is_(None), _r.run_at.is_(None), _r.run_at < _oldest_recent_tick)


def deletable(older_than_s: float, statuses: Collection[str]) -> sa.Select[str]:
    """Return the query for the ids of records that may be deleted.

    Args:
        older_than_s: The minimum time since they ended, in seconds.
        statuses: Their final statuses.
    """
    # A record is kept until its idempotency key expires, because calls replay it.
    is_replayed = sa.and_(_r.once_key.is_not(None), sa.or_(_r.once_expires_at.is_(None), _r.once_expires_at > as_of(0)))
    # A record is kept while its key is unique: without it a second run would be accepted.
    is_unique = sa.and_(_r.unique_key.is_not(None), _r.unique_expires_at.is_not(None), _r.unique_expires_at > as_of(0))
    return sa.select(_r.id).where(
        _r.completed_at < as_of(-older_than_s),
        _r.status.in_(sorted(statuses)),
        sa.not_(is_replayed),
        sa.not_(is_unique),
        _IS_NO_RECENT_TICK,
        # A batch counts its runs when it ends, and again when one of them is retried.
        sa.not_(batch_rows.is_needed(as_of(-older_than_s))),
    )


def prune(
    store: Store,
    older_than: timedelta,
    *,
    statuses: Collection[str] = FINAL,
    batch: int = BATCH,
    dry_run: bool = False,
    not_deleted: list[str] | None = None,
) -> int:
    """Delete records that have ended, with their attempts, batch by batch.

    Args:
        store: The store of the records.
        older_than: The minimum time since they ended, by the database's clock.
        statuses: Some of done, failed, expired and cancelled.
        batch: The number of records in one transaction.
        dry_run: Whether to count the records only.
        not_deleted: A list to append the ids of records to that the database refuses to delete, for example because of
            a foreign key.

    Returns:
        The number of records that were deleted, or would be.

    Raises:
        OptionsError: A status is not final, *older_than* is negative, or *batch* is less than 1.
    """
    if not_ended := set(statuses) - set(FINAL):
        raise OptionsError(f"prune(statuses=): expected final statuses ({listed(FINAL)}), got {listed(not_ended)}.")
    if older_than < timedelta(0) or batch < 1:
        raise OptionsError(
            f"prune(): expected older_than of 0 or more and batch of at least 1, got {older_than!r} and {batch!r}."
        )
    selected = deletable(min(older_than.total_seconds(), LONGEST_AGE_S), statuses)
    if dry_run:
        # A new file without records has no tables.
        return sum(row[0] for row in store.rows(sa.select(sa.func.count()).select_from(selected.subquery())))
    next_batch = selected.order_by(_r.completed_at).limit(batch).with_for_update(skip_locked=True)
    deleted = 0
    undeleted: list[str] = [] if not_deleted is None else not_deleted
    skipped: list[str] = []
    while True:
        with store.begin() as connection:
            ids = connection.execute(next_batch.where(_r.id.not_in(skipped)) if skipped else next_batch)
            batch_ids = ids.scalars().all()
        if batch_ids and set(batch_ids) <= set(skipped):
            # Ids that no statement finds, such as bytes, would be selected again in an endless loop.
            break
        deleted += len(delete_all(store, selected, batch_ids, undeleted))
        # Skip rows that the database refused to delete, and rows that were locked meanwhile.
        skipped = [*undeleted, *(batch_ids if len(batch_ids) == batch else ())][-MAX_SKIPPED:]
        if len(batch_ids) < batch:
            break
    _delete_batches(store, older_than, batch)
    if undeleted:
        log_event(
            LogEvent.RECORDS_SKIPPED, count=len(undeleted), first_run_id=undeleted[0], advice="see record.not_deleted"
        )
    return deleted


def _delete_batches(store: Store, older_than: timedelta, batch: int) -> None:
    """Delete the batches that ended long ago and have no records any more."""
    cutoff = as_of(-min(older_than.total_seconds(), LONGEST_AGE_S))
    num_deleted = batch
    while num_deleted == batch:
        with store.begin() as connection:
            num_deleted = batch_rows.delete_ended(connection, cutoff, batch)


def delete_all(store: Store, selected: sa.Select[str], ids: Sequence[str], undeleted: list[str]) -> Sequence[str]:
    """Delete records in one transaction; if one is refused, delete two halves, recursively.

    Args:
        store: The store of the records.
        selected: The query that found them; records that it no longer finds, or that are locked, are left out.
        ids: The ids of the records.
        undeleted: A list to append the ids of records to that the database refuses to delete.

    Returns:
        The ids of the deleted records.

    Raises:
        DBAPIError: The database is away, or another transaction conflicts with the deletion.
    """
    if not ids:
        return ()
    try:
        with store.begin() as connection:
            # On SQLite a read locks no row: the run could be retried before its row is deleted.
            dialect_of(connection).acquire_write_lock(connection)
            locked = selected.where(_r.id.in_(ids)).with_for_update(skip_locked=True)
            locked_ids = connection.execute(locked).scalars().all()
            failpoint("records_locked_for_deletion")
            _delete(connection, locked_ids)
            return locked_ids
    except DBAPIError as error:
        # The statement raises, or the commit if a foreign key of the application is deferred.
        if is_locked(error) or not _is_of_a_row(error):
            raise
        if len(ids) == 1:
            undeleted.append(ids[0])
            error_path = class_path(error)
            _refused.log(LogEvent.RECORD_NOT_DELETED, f"{ids[0]} {error_path}", run_id=ids[0], error=error_path)
            return ()
    half = len(ids) // 2
    return [
        *delete_all(store, selected, ids[:half], undeleted),
        *delete_all(store, selected, ids[half:], undeleted),
    ]


def _delete(connection: Connection, ids: Sequence[str]) -> None:
    if not ids:
        return
    for column in (attempts.c.record_id, signals.c.record_id, steps.c.record_id):
        connection.execute(sa.delete(column.table).where(column.in_(ids)))
    connection.execute(sa.delete(records).where(_r.id.in_(ids)))


def _is_of_a_row(error: DBAPIError) -> bool:
    """Return whether an error is about a row, not about the connection or a conflicting transaction."""
    return not error.connection_invalidated and code_of(error) not in (SERIALIZATION_FAILURE, *DEADLOCK)


def has_more_than(store: Store, many: int = MANY) -> bool:
    """Return whether more than *many* records have ended, by an index scan of at most that length."""
    ended = sa.select(_r.completed_at).where(_r.completed_at.is_not(None)).order_by(_r.completed_at)
    return bool(store.rows(ended.offset(many).limit(1)))
