"""Republishing of messages that may be lost, for example by a flushed Redis, a purged queue or a dead worker.

A single lost message is not detectable, but a queue with fewer messages than waiting records is: the difference is
republished, the oldest records first. Messages that a worker holds do not count: their runs start soon, or the worker
is dead. A record whose message was not lost then has two; the second is acknowledged without a run, the queue is short
by one again, and the next check republishes the next record, until every lost message is replaced.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.database.column_types import after, as_of, next_count
from dexpy.database.tables import records
from dexpy.database.unreadable_rows import read_rows
from dexpy.enqueue.dispatcher import Dispatcher
from dexpy.enqueue.queues import is_queue_name
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.liveness.intervals import RecoveryIntervals
from dexpy.recording.batches import write_all_or_each, write_each
from dexpy.recording.pauses import HELD
from dexpy.recording.store import Store

BATCH = 100
LONGEST_S = 3600.0
"""The longest time between two messages of a record if the broker does not count its messages, in seconds."""

_r = records.c
PUBLISHED: Final = {
    "enqueued_at": after(0),
    "send_count": next_count(_r.send_count),
    "fair_queue": sa.case((sa.and_(_r.blocked_key.is_(None), _r.fair_key.is_not(None)), _r.queue)),
}
"""The changes to a record when its message is published."""


def waiting_for(seconds: float) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions for records whose message should have been in the broker, and due, for this long."""
    then = as_of(-seconds)
    return (
        _r.status == "pending",
        # The message of a held run is acknowledged on purpose.
        sa.or_(_r.blocked_key.is_(None), _r.blocked_key.not_like(f"{HELD}%")),
        _r.enqueued_at <= then,
        sa.or_(_r.scheduled_at.is_(None), _r.scheduled_at <= then),
    )


def window(after_s: float, send_count: int) -> timedelta:
    """Return how long to wait before republishing: longer with each time, at most an hour."""
    return timedelta(seconds=min(after_s * 2.0 ** max(0, min(send_count - 1, 20)), LONGEST_S))


def queues_of_waiting(store: Store, seconds: float) -> Collection[str]:
    """Return the queues of the records that have waited longest, each for at least this many seconds.

    Without paused queues: their messages wait too, and their lost ones are republished after the pause.
    """
    waiting = sa.select(_r.queue).where(*waiting_for(seconds))
    if paused := store.pauses.current().queues:
        waiting = waiting.where(_r.queue.not_in(sorted(paused)))
    oldest = waiting.order_by(_r.enqueued_at).limit(10 * BATCH).subquery()
    return [row[0] for row in store.rows(sa.select(oldest.c.queue).distinct()) if is_queue_name(row[0])]


def is_overdue(row: Row[Any], after_s: float) -> bool:
    """Return whether a row, with ``now``, has waited long enough to be republished; True if its time is unknown."""
    return row.enqueued_at is None or row.now - row.enqueued_at >= window(after_s, row.send_count)


def _read(connection: Connection, stale: sa.Select[Any]) -> Sequence[Row[Any]]:
    with_now = sa.select(records, as_of(0).label("now"))
    return read_rows(connection, stale, lambda run_id: with_now.where(_r.id == run_id))


def log_republished(queue: str, rows: Sequence[Row[Any]]) -> None:
    """Log that the messages of these records were republished, if there are any."""
    if rows:
        log_event(LogEvent.MESSAGE_REPUBLISHED, queue=queue, count=len(rows), first_run_id=rows[0].id)


class BrokerRepublisher:
    """Republishes lost messages to a broker.

    Args:
        dispatcher: Publishes the messages.
        store: The store of records.
        intervals: The intervals of republishing.
    """

    def __init__(self, dispatcher: Dispatcher, store: Store, intervals: RecoveryIntervals) -> None:
        self._dispatcher = dispatcher
        self._store = store
        self._after_s = intervals.resend_after_s

    def run_once(self) -> int:
        """Republish what seems to be missing in the broker's queues.

        Returns:
            How many records were republished.
        """
        num_sent, failure = 0, None
        for queue in queues_of_waiting(self._store, self._after_s):
            try:
                count, is_done = self._fill(queue)
            except Exception as error:  # noqa: BLE001 - an error of one queue must not stop the others
                failure, count, is_done = error, 0, False
            num_sent += count
            if not is_done and not self._dispatcher.transport.is_reachable():
                break
        if failure is not None:
            raise failure
        return num_sent

    def _fill(self, queue: str) -> tuple[int, bool]:
        """Republish what is missing in one queue; return how many, and whether the broker has accepted all."""
        num_sent = 0
        while rows := self._take(queue):
            for index, row in enumerate(rows):
                if not self._dispatcher.publish_row(row):
                    self._dispatcher.mark_unpublished(rows[index:])
                    log_republished(queue, rows[:index])
                    return num_sent, False
                num_sent += 1
            log_republished(queue, rows)
            if len(rows) < BATCH:
                break
        return num_sent, True

    def _take(self, queue: str) -> Sequence[Row[Any]]:
        """Return a batch of the records to republish, marked as published."""
        return write_all_or_each(lambda each: self._mark(queue, self._dispatcher.transport.count_due(queue), each))

    def _mark(self, queue: str, num_messages: int | None, each: bool) -> Sequence[Row[Any]]:
        stale = sa.select(records, as_of(0).label("now")).where(*waiting_for(self._after_s), _r.queue == queue)
        with self._store.begin() as connection:
            if num_messages is None:
                # The broker cannot count its messages; the intervals grow, so that a long queue does not get longer.
                oldest = stale.order_by(_r.send_count, _r.enqueued_at).limit(BATCH).with_for_update(skip_locked=True)
                rows = [row for row in _read(connection, oldest) if is_overdue(row, self._after_s)]
            else:
                missing = min(connection.execute(self._expected(queue)).scalar_one() - num_messages, BATCH)
                if missing <= 0:
                    return ()
                oldest = stale.order_by(_r.enqueued_at).limit(missing).with_for_update(skip_locked=True)
                rows = list(_read(connection, oldest))
            if rows and each:
                statement = sa.update(records).values(PUBLISHED)
                ids = [row.id for row in rows]
                marked = write_each(
                    connection, "republish", ids, lambda one: connection.execute(statement.where(_r.id == one))
                )
                rows = [row for row in rows if row.id in marked]
            elif rows:
                connection.execute(sa.update(records).where(_r.id.in_([row.id for row in rows])).values(PUBLISHED))
        return rows

    def _expected(self, queue: str) -> sa.Select[int]:
        """Return the query for how many messages a queue should have."""
        return sa.select(sa.func.count()).select_from(records).where(*waiting_for(0), _r.queue == queue)
