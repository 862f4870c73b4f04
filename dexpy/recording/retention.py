"""How long records are kept: old ones that have ended are deleted, in batches that keep nobody waiting."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

import sqlalchemy as sa

from dexpy.foundation.errors import OptionsError, listed
from dexpy.recording.metadata import as_of
from dexpy.recording.sqlite import take_write_lock
from dexpy.recording.store import Store
from dexpy.recording.tables import FINAL, attempts, records, signals, steps

BATCH = 1000
MANY = 1_000_000
"""So many records that have ended are worth a warning."""

_r = records.c


def _old(older_than_s: float, statuses: Collection[str]) -> sa.Select[str]:
    # A key for replay stays as long as it was promised: its record is the answer to the next call.
    is_replayed = sa.and_(_r.once_key.is_not(None), sa.or_(_r.once_expires_at.is_(None), _r.once_expires_at > as_of(0)))
    # So does a key that is unique for a length of time: without its record a second run would be taken in.
    is_unique = sa.and_(_r.unique_key.is_not(None), _r.unique_expires_at.is_not(None), _r.unique_expires_at > as_of(0))
    return sa.select(_r.id).where(
        _r.completed_at < as_of(-older_than_s),
        _r.status.in_(sorted(statuses)),
        sa.not_(is_replayed),
        sa.not_(is_unique),
    )


def prune(
    store: Store,
    older_than: timedelta,
    *,
    statuses: Collection[str] = FINAL,
    batch: int = BATCH,
    dry_run: bool = False,
) -> int:
    """Delete records that have ended, with their attempts, batch by batch.

    Args:
        store: Where they are.
        older_than: They ended at least so long ago, by the database's clock.
        statuses: Of done, failed and expired.
        batch: How many in one transaction.
        dry_run: Count them only.

    Returns:
        How many there were.

    Raises:
        OptionsError: A status in which a record has not ended, a negative time, or a batch of none.
    """
    if open_ones := set(statuses) - set(FINAL):
        raise OptionsError(
            f"prune(statuses=...) got {listed(open_ones)}; only what has ended can be deleted: {listed(FINAL)}."
        )
    if older_than < timedelta(0) or batch < 1:
        raise OptionsError(f"prune(older_than={older_than!r}, batch={batch!r}) wants 0 or more, and at least 1.")
    old = _old(older_than.total_seconds(), statuses)
    if dry_run:
        # No row at all from a file that nothing was ever recorded in.
        return sum(row[0] for row in store.rows(sa.select(sa.func.count()).select_from(old.subquery())))
    next_batch = old.order_by(_r.completed_at).limit(batch).with_for_update(skip_locked=True)
    deleted = 0
    while True:
        with store.begin() as connection:
            # On SQLite no row is locked by reading it: somebody could revive it before it is deleted.
            take_write_lock(connection)
            ids = connection.execute(next_batch).scalars().all()
            for table in (attempts.c.record_id, signals.c.record_id, steps.c.record_id, _r.id):
                connection.execute(sa.delete(table.table).where(table.in_(ids)))
        deleted += len(ids)
        if len(ids) < batch:
            return deleted


def are_many(store: Store, many: int = MANY) -> bool:
    """Whether more than so many records have ended: one walk along an index, that far and no farther."""
    one_more = sa.select(_r.completed_at).where(_r.completed_at.is_not(None)).order_by(_r.completed_at)
    return bool(store.rows(one_more.offset(many).limit(1)))
