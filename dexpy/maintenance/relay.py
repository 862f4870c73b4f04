"""The relay: ensures that every recorded run ends, even if its message or its worker is lost.

It runs in every worker, or alone as ``dexpy relay``; several relays share the work row by row.
It publishes due records without a message, republishes lost messages, recovers the runs of dead workers, expires
overdue records, and deletes what is no longer used. A task that fails does not stop the others.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timezone
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.brokers.sql.leases import ClaimedMessage
from dexpy.database import lock_timeouts
from dexpy.database.column_types import as_of
from dexpy.database.tables import STANDARD_COLUMNS, records
from dexpy.database.unreadable_rows import read_rows, report_unreadable
from dexpy.enqueue.concurrency_limiter import ConcurrencyLimiter
from dexpy.enqueue.dispatcher import Dispatcher
from dexpy.enqueue.held_runs import HeldRuns
from dexpy.enqueue.queues import is_queue_name
from dexpy.enqueue.rate_limiter import RateLimiter
from dexpy.foundation.failpoints import failpoint
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path
from dexpy.foundation.throttle import LogThrottle
from dexpy.liveness.heartbeat import Heartbeat
from dexpy.liveness.intervals import RecoveryIntervals
from dexpy.maintenance.recovery import LOCK_WAIT_S, Recovery
from dexpy.maintenance.republish import PUBLISHED, BrokerRepublisher
from dexpy.maintenance.republish_sql import SqlRepublisher
from dexpy.recording import batch_rows, concurrency_slots, expiry, pauses, rate_limits, retention, run_signals
from dexpy.recording.batches import update_each, write_all_or_each, write_each
from dexpy.recording.outcome_logging import run_facts
from dexpy.recording.store import Store
from dexpy.recording.transitions import is_applied

BATCH = 100
SET_ASIDE_S = 30.0
"""How long messages that the broker refuses are skipped, in seconds; less than a message's lease."""
CLEANUP_EVERY_S = 3600.0
BATCHES_KEPT_S = 30 * 86_400.0
"""How long an ended batch without records is kept, in seconds."""
COUNTERS = ("published", "republished", "recovered", "expired")
"""The keys of `Relay.counts` that are shown."""

_r = records.c
_UNPUBLISHED = (
    sa.select(_r.id, _r.operation)
    .where(_r.status == "pending", _r.enqueued_at.is_(None), _r.scheduled_at <= as_of(0))
    .order_by(_r.scheduled_at)
    .with_for_update(skip_locked=True)
)
# After the last datetime of Python; also text and bytes in SQLite that are not a datetime, if they sort after it.
_NEVER_DUE = (
    sa.select(_r.id)
    .where(_r.status == "pending", _r.scheduled_at > datetime.max.replace(tzinfo=timezone.utc))
    .limit(BATCH)
)
_HAS_ID = _r.id.in_(sa.bindparam("p_ids", expanding=True))
_MARK_PUBLISHED = sa.update(records).where(_HAS_ID).values(PUBLISHED)
_ROWS = sa.select(*STANDARD_COLUMNS).order_by(_r.priority.desc(), _r.scheduled_at)


class Relay:
    """One relay.

    Args:
        dispatcher: Publishes the messages.
        heartbeat: The heartbeat of this process.
        intervals: The intervals of recovery and republishing.
        rates: Publishes the runs that wait for a rate limit.
        batch_size: How many records it publishes in one transaction.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        heartbeat: Heartbeat,
        intervals: RecoveryIntervals,
        rates: RateLimiter | None = None,
        *,
        batch_size: int = BATCH,
    ) -> None:
        store = dispatcher.store
        assert store is not None  # noqa: S101 - only a process with records has a relay
        self._dispatcher = dispatcher
        self._store = store
        self._batch_size = batch_size
        self._set_aside: dict[str, float] = {}
        self._refused: deque[tuple[float, ClaimedMessage]] = deque()
        self._log_throttle = LogThrottle()
        self._cleaned_up_at = time.monotonic()
        self.counts: Counter[str] = Counter()
        """The number of records so far, by task."""
        self.tasks: list[tuple[str, Callable[[], int]]] = [
            ("recovered", Recovery(dispatcher, store, heartbeat).run_once),
            ("expired", self._expire),
            ("unblocked", ConcurrencyLimiter(store, dispatcher).refill_slots),
            ("resumed", HeldRuns(store, dispatcher).release),
            ("unthrottled", (rates or RateLimiter(store, dispatcher)).refill),
        ]
        if dispatcher.batch_ends is not None:
            self.tasks.append(("batches", dispatcher.batch_ends.run_once))
        sql_queue = dispatcher.transport.sql_queue
        if dispatcher.transactional and sql_queue is not None:
            self.tasks.append(("published", self._insert_unpublished))
            self.tasks.append(("republished", SqlRepublisher(dispatcher, sql_queue, store, intervals).run_once))
        else:
            self.tasks.append(("republished", BrokerRepublisher(dispatcher, store, intervals).run_once))
        self.tasks.append(("reported", self._report_never_due))
        self.tasks.append(("deleted", self._clean_up_if_due))

    def run_once(self) -> bool:
        """Run all tasks once.

        Returns:
            Whether every task succeeded.
        """
        is_successful = True
        for name, task in self.tasks:
            try:
                with lock_timeouts.limited(LOCK_WAIT_S):
                    self.counts[name] += task()
            except Exception as error:  # noqa: BLE001 - a task that fails must not stop the others
                is_successful = False
                facts = {"task": task.__qualname__, "error": class_path(error)}
                self._log_throttle.log(LogEvent.RELAY_FAILED, str(facts), **facts)
        return is_successful

    def publish_unpublished(self) -> bool:
        """Publish all due records without a message.

        Returns:
            Whether the broker is reachable.
        """
        if self._dispatcher.transactional:
            return True
        with lock_timeouts.limited(LOCK_WAIT_S):
            while batch := self._claim():
                if not self._publish(batch):
                    return False
            return self._publish_stored()

    def _insert_unpublished(self) -> int:
        """Insert the messages of records that a process with another broker could not publish."""

        def find(connection: Connection, limit: int, without: Collection[str]) -> Sequence[Row[Any]]:
            unpublished = _UNPUBLISHED.where(_r.id.not_in(list(without))) if without else _UNPUBLISHED
            rows: Sequence[Row[Any]] = cast("Any", connection.execute(unpublished.limit(limit))).all()
            return rows

        def publish(connection: Connection, unpublished: Row[Any]) -> bool:
            connection.execute(_MARK_PUBLISHED, {"p_ids": [unpublished.id]})
            for row in self._rows(connection, [unpublished.id]):
                if not is_queue_name(row.queue):
                    return is_applied(connection, "park", row.id, **_invalid_queue(row))
                self._dispatcher.publish_with(connection, row)
                return True
            return False

        if num_published := update_each(self._store, "publish", find, publish, self._batch_size):
            self._dispatcher.wake_workers()
        return num_published

    def _claim(self) -> Sequence[Row[Any]]:
        now = time.monotonic()
        self._set_aside = {run: until for run, until in self._set_aside.items() if until > now}
        unpublished = _UNPUBLISHED.where(_r.id.not_in(list(self._set_aside))) if self._set_aside else _UNPUBLISHED

        def mark(each: bool) -> Sequence[Row[Any]]:
            with self._store.begin() as connection:
                ids = connection.execute(unpublished.limit(self._batch_size)).scalars().all()
                if not ids:
                    return ()
                marked = ids
                if each:
                    marked = write_each(
                        connection, "publish", ids, lambda one: connection.execute(_MARK_PUBLISHED, {"p_ids": [one]})
                    )
                    self._set_aside |= {run: now + SET_ASIDE_S for run in ids if run not in marked}
                else:
                    connection.execute(_MARK_PUBLISHED, {"p_ids": ids})
                return self._rows(connection, marked)

        return write_all_or_each(mark)

    def _rows(self, connection: Connection, ids: Sequence[str]) -> Sequence[Row[Any]]:
        return read_rows(connection, _ROWS.where(_r.id.in_(ids)), lambda one: _ROWS.where(_r.id == one))

    def _publish(self, rows: Sequence[Row[Any]]) -> bool:
        failpoint("relay_rows_marked")
        refused: list[Row[Any]] = []
        for index, row in enumerate(rows):
            if not is_queue_name(row.queue):
                self._fail_invalid_queue(row)
                continue
            if self._dispatcher.publish_row(row):
                self.counts["published"] += 1
                continue
            if not self._dispatcher.transport.is_reachable():
                self._dispatcher.mark_unpublished([*refused, *rows[index:]])
                return False
            refused.append(row)
        if refused:
            # The broker is reachable and refuses these messages: they must not delay the others.
            until = time.monotonic() + SET_ASIDE_S
            self._set_aside |= {row.id: until for row in refused}
            self._dispatcher.mark_unpublished(refused)
        return True

    def _fail_invalid_queue(self, row: Row[Any]) -> None:
        """Fail a record with an invalid queue name, which another program must have written."""
        with self._store.begin() as connection:
            if is_applied(connection, "park", row.id, **_invalid_queue(row)):
                reason = "invalid queue name"
                log_event(LogEvent.RUN_FAILED, **run_facts(row), failure="undecodable", reason=reason)

    def _publish_stored(self) -> bool:
        """Publish the direct messages that are stored in the database."""
        sql_queue = self._dispatcher.transport.sql_queue
        if sql_queue is None:
            return True
        self._release_refused()
        while (message := sql_queue.claim()) is not None:
            if not is_queue_name(message.queue_name):
                self._log_throttle.log(LogEvent.QUEUE_IGNORED, message.queue_name, queue=message.queue_name, dead=True)
                message.nack()
                continue
            if self._dispatcher.transport.publish([message.content]):
                message.ack()
            elif self._dispatcher.transport.is_reachable():
                # Its lease is kept: a released message would be claimed again before the others.
                self._refused.append((time.monotonic() + SET_ASIDE_S, message))
            else:
                message.release()
                return False
        return True

    def _release_refused(self) -> None:
        now = time.monotonic()
        while self._refused and self._refused[0][0] <= now:
            _, message = self._refused.popleft()
            message.release()

    def _expire(self) -> int:
        def expire(connection: Connection, row: Row[Any]) -> bool:
            is_expired = expiry.expire(connection, row.id)
            if is_expired:
                log_event(LogEvent.RUN_EXPIRED, **run_facts(row))
            return is_expired

        return update_each(self._store, "expiry", expiry.find_overdue, expire)

    def _report_never_due(self) -> int:
        """Log the records whose due time is unreadable: no other task reads them."""
        for row in self._store.rows(_NEVER_DUE):
            report_unreadable(row.id, ["scheduled_at"])
        return 0

    def _clean_up_if_due(self) -> int:
        if time.monotonic() - self._cleaned_up_at < CLEANUP_EVERY_S:
            return 0
        self._cleaned_up_at = time.monotonic()
        with self._store.begin() as connection:
            num_deleted = run_signals.delete_ended_requests(connection)
            num_deleted += concurrency_slots.delete_unused_keys(connection)
            num_deleted += pauses.delete_ended(connection)
        num_deleted += self._delete_batches() + self._delete_starts()
        warn_of_many(self._store)
        return num_deleted

    def _delete_batches(self) -> int:
        """Delete the batches that ended long ago, so many in each transaction that other processes do not wait long."""
        num_deleted = 0
        while True:
            with self._store.begin() as connection:
                num_ended = batch_rows.delete_ended(connection, as_of(-BATCHES_KEPT_S), BATCH)
            num_deleted += num_ended
            if num_ended < BATCH:
                return num_deleted

    def _delete_starts(self) -> int:
        """Delete the starts of rate keys that are out of every window, in batches."""
        num_deleted = 0
        while True:
            with self._store.begin() as connection:
                num_expired = rate_limits.delete_expired(connection)
                num_deleted += num_expired
                if num_expired < rate_limits.BATCH:
                    return num_deleted + rate_limits.delete_unused_keys(connection)


def _invalid_queue(row: Row[Any]) -> dict[str, Any]:
    message = f"queue: invalid name {row.queue!r:.100}. Correct the record's queue in the database and retry."
    return {"error": None, "failure": "undecodable", "error_message": message, "error_details": None}


def warn_of_many(store: Store, many: int = retention.MANY) -> bool:
    """Log a warning if more than this many records have ended and are not pruned."""
    if not retention.has_more_than(store, many):
        return False
    log_event(
        LogEvent.RECORDS_ACCUMULATED,
        count=many,
        advice="set [retention], or delete old ones: dexpy prune --older-than 30d",
    )
    return True
