"""`Pruning`: deletes old records in every worker and relay, by the retention of their classes and the settings.

There is no leader. Each batch is a short transaction that skips locked rows, so that several processes share the work
and none delays a claim; a process that dies leaves the rest to the others, and to its successor.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Collection, Mapping
from typing import Any

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Row

from dexpy.database import lock_timeouts
from dexpy.database.column_types import as_of
from dexpy.database.error_codes import is_locked
from dexpy.database.errors import is_conflict
from dexpy.database.tables import FINAL, records
from dexpy.foundation.backoff import Backoff
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.periodic import PeriodicTask
from dexpy.maintenance.recovery import LOCK_WAIT_S
from dexpy.recording.retention import MAX_SKIPPED, delete_all
from dexpy.recording.retention_rules import (
    STORE_EVERY_S,
    Selection,
    declared_rules,
    read_rules,
    selections,
    store_rules,
)
from dexpy.recording.store import Store

FULL_ROUND_EVERY_S = 86400.0
"""How often a round reads all old records, in seconds; the others read those that became old since the last round."""
READ_RULES_EVERY_S = 60.0
"""How often a round reads the rules again, in seconds: a round of many records may take hours."""
RULES_RETRY = Backoff(1.0, 60.0)
"""The pauses before the rules are stored again after an error."""
SHORTEST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
"""The pause between two batches is as long as the batch took, within these bounds, in seconds."""

_r = records.c
# As the driver reads and writes it: an unreadable time in one row must not stop the deletion of the others.
_ended_at = sa.type_coerce(_r.completed_at, sa.types.NullType())


@attrs.define
class _Position:
    """How far a round has come with one selection.

    Attributes:
        selection: The records.
        ended_at: Records that ended earlier were read already; None for none.
        cutoff: The latest end of the records of the round.
        skipped: The ids of records that were not deleted.
        refused: The ids of those of them that the database refuses to delete.
        first_ended_at: Where the round began.
    """

    selection: Selection
    ended_at: Any = None
    cutoff: Any = None
    skipped: list[str] = attrs.field(factory=list[str])
    refused: list[str] = attrs.field(factory=list[str])
    first_ended_at: Any = attrs.field(default=attrs.Factory(lambda self: self.ended_at, takes_self=True))


class Pruning:
    """The deletion of old records.

    Args:
        store: The store of the records.
        defaults: How long records are kept that have no rule of their class, in seconds, by status; None is for ever.
        interval_s: The pause between two rounds, in seconds.
        batch_size: The number of records in one transaction.
    """

    def __init__(
        self, store: Store, defaults: Mapping[str, float | None], *, interval_s: float, batch_size: int
    ) -> None:
        self._store = store
        self._defaults = defaults
        self._interval_s = interval_s
        self._batch_size = batch_size
        self._positions: deque[_Position] = deque()
        self._cutoffs: dict[Selection, Any] = {}
        self._full_round_at = 0.0
        self._started_at = 0.0
        self._rules_read_at = 0.0
        self._begun: set[Selection] = set()
        self._deleted: Counter[tuple[str, str]] = Counter()
        self._pause_s = interval_s

    def periodic_task(self) -> PeriodicTask:
        """Return the task that deletes one batch after another, and pauses after each round."""
        return PeriodicTask("prune", self._interval_s, self.run_once, pause_s=lambda: self._pause_s)

    def rules_task(self, *, is_worker: bool) -> PeriodicTask:
        """Return the task that stores the rules of the classes of this process, whether or not it deletes records.

        Args:
            is_worker: Whether this process is a worker.
        """

        def store() -> bool:
            store_rules(self._store, declared_rules(is_worker=is_worker))
            return True

        # A rule that was stored within `STORE_EVERY_S` is not stored again.
        return PeriodicTask("retention", STORE_EVERY_S / 2, store, retry=RULES_RETRY)

    def run_once(self) -> bool:
        """Delete the next batch of this round, or begin a round.

        Returns:
            True; an error is raised.
        """
        started = time.monotonic()
        if not self._positions:
            self._begin_round()
        elif started - self._rules_read_at >= READ_RULES_EVERY_S:
            self._read_rules_again()
        is_left = bool(self._positions) and self._delete_batch()
        elapsed_s = time.monotonic() - started
        self._pause_s = min(max(elapsed_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S) if is_left else self._interval_s
        return True

    def run_round(self, statuses: Collection[str] = FINAL, not_deleted: list[str] | None = None) -> Counter[Any]:
        """Delete all old records now, without pauses between the batches.

        Args:
            statuses: Some of the final statuses.
            not_deleted: A list to append the ids of records to that the database refuses to delete.

        Returns:
            The number of deleted records, by operation and status.
        """
        store_rules(self._store, declared_rules())
        deleted: Counter[tuple[str, str]] = Counter()
        for selection in self._read_selections(statuses):
            position = self._position(selection, None)
            while self._is_selected(selection, statuses) and self._delete_next(position, deleted):
                pass
            if not_deleted is not None:
                not_deleted += position.skipped
        _log(deleted)
        return deleted

    def count(self, statuses: Collection[str] = FINAL) -> Counter[Any]:
        """Return how many records would be deleted, by operation and status.

        Args:
            statuses: Some of the final statuses.
        """
        counts: Counter[tuple[str, str]] = Counter()
        for selection in self.selections(statuses):
            query = selection.query().with_only_columns(_r.operation, _r.status, sa.func.count().label("number"))
            for row in self._store.rows(query.group_by(_r.operation, _r.status)):
                counts[row.operation, row.status] += row.number
        return counts

    def selections(self, statuses: Collection[str] = FINAL) -> list[Selection]:
        """Return the records that may be deleted, by the rules of all processes."""
        rules = read_rules(self._store, declared_rules())
        return [selection for selection in selections(self._defaults, rules) if selection.status in statuses]

    def _begin_round(self) -> None:
        store_rules(self._store, declared_rules())
        is_full = not self._full_round_at or time.monotonic() - self._full_round_at >= FULL_ROUND_EVERY_S
        if is_full:
            self._full_round_at = time.monotonic()
            self._cutoffs.clear()
        self._started_at = time.monotonic()
        self._deleted.clear()
        chosen = self._read_selections()
        self._begun = set(chosen)
        self._positions.extend(self._position(each, self._cutoffs.get(each)) for each in chosen)

    def _read_selections(self, statuses: Collection[str] = FINAL) -> list[Selection]:
        self._rules_read_at = time.monotonic()
        return self.selections(statuses)

    def _is_selected(self, selection: Selection, statuses: Collection[str]) -> bool:
        """Return whether the rules still select these records, which is read again from time to time."""
        is_due = time.monotonic() - self._rules_read_at >= READ_RULES_EVERY_S
        return not is_due or selection in self._read_selections(statuses)

    def _read_rules_again(self) -> None:
        """Leave out what the rules no longer select, and add what they select now."""
        chosen = self._read_selections()
        self._positions = deque(each for each in self._positions if each.selection in chosen)
        self._positions.extend(self._position(each, None) for each in chosen if each not in self._begun)
        self._begun.update(chosen)

    def _position(self, selection: Selection, ended_at: Any) -> _Position:
        now = sa.select(sa.type_coerce(as_of(-selection.keep_s), sa.types.NullType()).label("cutoff"))
        return _Position(selection, ended_at, next(row.cutoff for row in self._store.rows(now)))

    def _delete_batch(self) -> bool:
        """Delete a batch; return whether there is more to delete in this round."""
        position = self._positions[0]
        if not self._delete_next(position, self._deleted):
            self._cutoffs[position.selection] = self._next_start(position)
            self._positions.popleft()
        if self._positions:
            return True
        _log(self._deleted, time.monotonic() - self._started_at)
        return False

    def _next_start(self, position: _Position) -> Any:
        """Return the end of the first record that a lock has kept from this round, or else the end of the round."""
        query = position.selection.query().with_only_columns(_ended_at.label("ended_at"))
        query = query.where(_ended_at < _bound(position.cutoff))
        if position.first_ended_at is not None:
            query = query.where(_ended_at >= _bound(position.first_ended_at))
        if position.refused:
            query = query.where(_r.id.not_in(position.refused[-MAX_SKIPPED:]))
        left = self._store.rows(query.order_by(_r.completed_at).limit(1))
        return left[0].ended_at if left else position.cutoff

    def _delete_next(self, position: _Position, deleted: Counter[tuple[str, str]]) -> bool:
        """Delete the next batch of a selection; return whether there may be another one."""
        with lock_timeouts.limited(LOCK_WAIT_S):
            rows = self._read_batch(position)
            if not rows:
                return False
            ids = [row.id for row in rows]
            try:
                deleted_ids = set(delete_all(self._store, position.selection.query(), ids, position.refused))
            except Exception as error:
                if not is_locked(error) and not is_conflict(error):
                    raise
                # The next round deletes them.
                deleted_ids = set[str]()
        deleted.update((row.operation, row.status) for row in rows if row.id in deleted_ids)
        position.skipped += [each for each in ids if each not in deleted_ids and each not in position.skipped]
        position.ended_at = rows[-1].ended_at
        return len(rows) == self._batch_size

    def _read_batch(self, position: _Position) -> list[Row[Any]]:
        query = position.selection.query().add_columns(_r.operation, _r.status, _ended_at.label("ended_at"))
        if position.ended_at is not None:
            query = query.where(_ended_at >= _bound(position.ended_at))
        if position.skipped:
            query = query.where(_r.id.not_in(position.skipped[-MAX_SKIPPED:]))
        ordered = query.order_by(_r.completed_at).limit(self._batch_size)
        with self._store.begin() as connection:
            rows = connection.execute(ordered.with_for_update(skip_locked=True)).all()
        # A row that no statement finds by its id is read again without end.
        return [row for row in rows if row.id not in position.skipped]


def _bound(ended_at: Any) -> sa.BindParameter[Any]:
    return sa.bindparam(None, ended_at, type_=sa.types.NullType())


def _log(deleted: Counter[tuple[str, str]], duration_s: float | None = None) -> None:
    for (operation, status), count in sorted(deleted.items()):
        duration_ms = None if duration_s is None else duration_s * 1000
        log_event(LogEvent.RECORDS_PRUNED, operation=operation, status=status, count=count, duration_ms=duration_ms)
