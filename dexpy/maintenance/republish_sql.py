"""Republishing for the SQL broker in the records' database, where missing messages can be detected.

A message is written in the transaction of its record, so a crash does not lose it; an operator may, by purging a queue
or by switching from a broker that still has messages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.brokers.sql.broker import SqlBroker
from dexpy.database.column_types import as_of
from dexpy.database.tables import records
from dexpy.database.unreadable_rows import read_rows
from dexpy.enqueue.dispatcher import Dispatcher
from dexpy.liveness.intervals import RecoveryIntervals
from dexpy.maintenance.republish import (
    BATCH,
    PUBLISHED,
    is_overdue,
    log_republished,
    queues_of_waiting,
    waiting_for,
)
from dexpy.recording.batches import write_each
from dexpy.recording.store import Store

_r = records.c


class SqlRepublisher:
    """Republishes records without a message.

    Args:
        dispatcher: Publishes the messages.
        broker: The broker in the database of the records.
        store: The store of records.
        intervals: The intervals of republishing.
    """

    def __init__(self, dispatcher: Dispatcher, broker: SqlBroker, store: Store, intervals: RecoveryIntervals) -> None:
        self._dispatcher = dispatcher
        self._broker = broker
        self._store = store
        self._after_s = intervals.resend_after_s

    def run_once(self) -> int:
        """Publish a message for every pending record without one.

        Returns:
            How many records were republished.
        """
        num_sent = 0
        for queue in queues_of_waiting(self._store, self._after_s):
            if self._is_short(queue):
                num_sent += sum(self._send(queue, ids) for ids in self._without_message(queue))
        if num_sent:
            self._dispatcher.wake_workers()
        return num_sent

    def _is_short(self, queue: str) -> bool:
        """Return whether a queue has fewer messages than waiting and running records."""
        has_message = sa.or_(_r.status == "running", sa.and_(*waiting_for(0)))
        count = sa.select(sa.func.count()).select_from(records).where(_r.queue == queue, has_message)
        expected: int = self._store.rows(count)[0][0]
        messages = self._broker.pending([queue])
        return messages.due + messages.leased < expected

    def _without_message(self, queue: str) -> Iterator[Collection[str]]:
        """Yield the ids of the pending records without a message, in batches."""
        columns: list[Any] = [_r.id, _r.enqueued_at, _r.send_count, as_of(0).label("now")]
        waiting: Any = sa.select(*columns).where(*waiting_for(self._after_s), _r.queue == queue)
        # The records first: a run that starts after this query has no message, and is no longer pending.
        stale = self._store.rows(waiting.order_by(_r.enqueued_at))
        record_ids = self._broker.record_ids(queue)
        # The interval grows for a record whose message is refused repeatedly.
        missing = [row.id for row in stale if row.id not in record_ids and is_overdue(row, self._after_s)]
        for start in range(0, len(missing), BATCH):
            yield missing[start : start + BATCH]

    def _send(self, queue: str, ids: Collection[str]) -> int:
        stale = sa.select(records).where(_r.id.in_(ids), *waiting_for(self._after_s))
        by_id = sa.select(records)

        def publish(connection: Connection, row: Row[Any]) -> None:
            connection.execute(sa.update(records).where(_r.id == row.id).values(PUBLISHED))
            self._dispatcher.publish_with(connection, row)

        with self._store.begin() as connection:
            locked = stale.with_for_update(skip_locked=True)
            rows = {row.id: row for row in read_rows(connection, locked, lambda run_id: by_id.where(_r.id == run_id))}
            written = write_each(connection, "publish", list(rows), lambda run_id: publish(connection, rows[run_id]))
        log_republished(queue, [rows[run_id] for run_id in written])
        return len(written)
