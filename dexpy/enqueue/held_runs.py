"""Held runs: those whose message was delivered while their queue or operation was paused.

A held record is pending, without a message; its `blocked_key` names the pause. When the pause is over, a worker
publishes the held runs in their order: the highest priority first, then the oldest.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.brokers.sql import statements
from dexpy.database.column_types import after, hide_from_planner, next_count
from dexpy.database.tables import records
from dexpy.enqueue.dispatcher import Dispatcher
from dexpy.foundation.failpoints import failpoint
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.recording.batches import write_all_or_each, write_each
from dexpy.recording.pauses import HELD
from dexpy.recording.store import Store

BATCH = 100
DIRECT_WAIT_S = 60.0
"""How long the message of a direct run waits until the next check, in seconds, unless the pause ends before."""

_r = records.c
_HELD_BY = (_r.blocked_key == sa.bindparam("p_key", type_=_r.blocked_key.type), _r.status == "pending")
_NEXT = (
    sa.select(_r.id).where(*_HELD_BY).order_by(_r.priority.desc(), _r.id).limit(BATCH).with_for_update(skip_locked=True)
)
_RELEASED: Final = {"blocked_key": None, "enqueued_at": after(0), "send_count": next_count(_r.send_count)}


def _blocked_keys() -> sa.Select[Any]:
    """Return the query for all keys that records wait for, one index lookup for each."""
    lowest = sa.select(sa.func.min(_r.blocked_key).label("key")).cte("blocking", recursive=True)
    higher = sa.select(sa.func.min(_r.blocked_key)).where(_r.blocked_key > lowest.c.key).scalar_subquery()
    keys = lowest.union_all(sa.select(higher).where(lowest.c.key.is_not(None)))
    return sa.select(keys.c.key).where(keys.c.key.is_not(None))


_BLOCKED_KEYS = _blocked_keys()


class HeldRuns:
    """Publishes the held runs of pauses that are over.

    Args:
        store: The store of records.
        dispatcher: Publishes the messages.
    """

    def __init__(self, store: Store, dispatcher: Dispatcher) -> None:
        self._store = store
        self._dispatcher = dispatcher

    def release(self) -> int:
        """Publish every held run whose pause is over; return how many there were."""
        with self._store.begin() as connection:
            keys = connection.execute(_BLOCKED_KEYS).scalars().all()
        held = {key for key in keys if isinstance(key, str) and key.startswith(HELD)}
        # Read after the keys: a pause that is over now does not hold a run later.
        over = held - self._store.pauses.refresh().keys if held else held
        return self.release_keys(over)

    def release_keys(self, keys: Collection[str]) -> int:
        """Publish the runs that these keys hold; return how many there were."""
        return sum(self._release_key(key) for key in sorted(keys))

    def _release_key(self, key: str) -> int:
        num_released = 0
        while rows := write_all_or_each(lambda each: self._mark(key, each)):
            failpoint("held_runs_marked")
            if not self._dispatcher.transactional:
                refused = [row for row in rows if not self._dispatcher.publish_row(row)]
                self._dispatcher.mark_unpublished(refused)
            num_released += len(rows)
            log_event(LogEvent.RUNS_RESUMED, count=len(rows), first_run_id=rows[0].id)
        if num_released and self._dispatcher.transactional:
            self._dispatcher.wake_workers()
        return num_released

    def _mark(self, key: str, each: bool) -> Sequence[Row[Any]]:
        """Return a batch of the runs that a key holds, marked as published; where messages are rows, with them."""
        with self._store.begin() as connection:
            ids = list(connection.execute(_NEXT, {"p_key": key}).scalars())
            if each:
                ids = write_each(connection, "resume", ids, lambda run_id: self._write(connection, [run_id]))
            elif ids:
                self._write(connection, ids)
            return self._rows(connection, ids)

    def _write(self, connection: Connection, ids: Collection[str]) -> None:
        has_id = _r.id.in_(list(ids))
        connection.execute(
            sa.update(records).where(has_id, hide_from_planner(_r.status == "pending")).values(_RELEASED)
        )
        if self._dispatcher.transactional:
            for row in self._rows(connection, ids):
                # The time at which it was due, so that it keeps its place among the messages of its queue.
                self._dispatcher.publish_with(connection, row, due_at=row.scheduled_at or row.created_at)

    def _rows(self, connection: Connection, ids: Collection[str]) -> Sequence[Row[Any]]:
        if not ids:
            return ()
        query = sa.select(records).where(_r.id.in_(list(ids))).order_by(_r.priority.desc(), _r.id)
        rows: Sequence[Row[Any]] = connection.execute(query).all()
        return rows

    def make_direct_due(self) -> None:
        """Make the messages of direct runs due that wait for the end of a pause; the others wait again."""
        sql_queue = self._dispatcher.transport.sql_queue
        if sql_queue is None:
            return
        # A plain read first: there are rarely any.
        with sql_queue.database.connect() as connection:
            query = statements.select_deferred(DIRECT_WAIT_S, statements.PAUSED_MARK)
            ids = sorted(int(row.id) for row in connection.execute(query))
        for start in range(0, len(ids), BATCH):
            with sql_queue.database.begin() as connection:
                connection.execute(statements.MAKE_DUE, {"p_ids": ids[start : start + BATCH]})
        if ids:
            self._dispatcher.wake_workers()
