"""Claims: selects the record that a delivery of a message runs, and claims it.

A message is only a hint: it may come late, twice or too early. The claim is a compare-and-set of the record's row.
Each pending record has a message or is marked as unpublished, and each delivery starts at most one run, which may be
that of another record: see `priority_overtaking`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import attrs
import sqlalchemy as sa
from dramatiq.middleware import CurrentMessage
from sqlalchemy.engine import Connection, Row

from dexpy.database.dialects import dialect_of
from dexpy.database.errors import retry_while_away
from dexpy.database.tables import records
from dexpy.declaration import registry
from dexpy.declaration.contract import Contract
from dexpy.enqueue.concurrency_limiter import ConcurrencyLimiter
from dexpy.enqueue.dispatcher import Dispatcher
from dexpy.enqueue.jobs import VERSION
from dexpy.enqueue.limited_claims import LimitedClaim, Limits, claim_limited
from dexpy.enqueue.rate_limiter import RateLimiter
from dexpy.foundation.errors import InvalidTransition, RecordNotFound
from dexpy.foundation.failpoints import failpoint
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.throttle import LogThrottle
from dexpy.liveness.heartbeat import HeldRecords
from dexpy.recording import concurrency_slots, expiry
from dexpy.recording.expiry import expire_if_overdue
from dexpy.recording.fair_turns import FairTurns
from dexpy.recording.outcome_logging import run_facts
from dexpy.recording.store import Store
from dexpy.recording.transitions import apply, is_applied
from dexpy.worker.priority_overtaking import PriorityOvertaking

MOST_SETTLED = 16
"""How many runs one delivery may make wait for their limits before it ends without a run."""

_r = records.c
_missing_record_log = LogThrottle(every_s=5.0)


def why_version_unsupported() -> str | None:
    """Return why this process cannot read the current message's version; None if it can."""
    message = CurrentMessage.get_current_message()
    facts: object = {} if message is None else message.options.get("dexpy")
    version: object = cast("Mapping[str, Any]", facts).get("v", VERSION) if isinstance(facts, Mapping) else VERSION
    if isinstance(version, int) and version <= VERSION:
        return None
    return f"its message has version {version!r}, and this worker supports {VERSION}. Upgrade dexpy in this worker"


@attrs.define(eq=False)
class _Delivery:
    """One delivery of a message.

    Attributes:
        class_name: The class name in the message.
        record_id: The id of the message's record.
        queue: The queue of the message; None if unknown.
        priority: The priority in the message.
        turn: Whether the run waits for its turn, as the message has it; None without a fair key.
        held: The record ids that this delivery has added to the held records.
        unconfirmed_claim: Record id and worker id of a claim whose reply has not arrived; None if there is none.
        is_settled: Whether the record of the message waits for a limit now, is discarded, or a pause holds it.
    """

    class_name: str
    record_id: str
    queue: str | None
    priority: int
    turn: object = None
    held: list[str] = attrs.field(factory=list[str])
    unconfirmed_claim: tuple[str, str] | None = None
    is_settled: bool = False

    @classmethod
    def current(cls, class_name: str, record_id: str) -> _Delivery:
        """Return the delivery of this thread's current message."""
        message: Any = CurrentMessage.get_current_message()
        if message is None:
            return cls(class_name, record_id, None, 0)
        fields = message.options.get("dexpy", {})
        return cls(class_name, record_id, message.queue_name, fields.get("priority", 0), fields.get("fair"))

    @property
    def facts(self) -> dict[str, Any]:
        """The fields of log lines."""
        return {"operation": self.class_name, "run_id": self.record_id}


class Claims:
    """Claims a record for each delivery.

    Args:
        store: The store of records.
        dispatcher: Republishes records that cannot run yet.
        worker_id: Returns the worker id of this process.
        held_records: The records that this process holds.
        rates: Publishes the runs that wait for a rate limit.
    """

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        worker_id: Callable[[], str],
        held_records: HeldRecords | None = None,
        rates: RateLimiter | None = None,
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._worker_id = worker_id
        self._held_records = held_records or HeldRecords()
        # The broker in the database delivers by priority itself.
        self._overtaking = None if dispatcher.transactional else PriorityOvertaking(store)
        self._turns = FairTurns()
        self._held: set[tuple[str, int]] = set()
        self._lock = threading.Lock()
        self.limits = ConcurrencyLimiter(store, dispatcher)
        self.rates = rates or RateLimiter(store, dispatcher)

    @contextmanager
    def claim_for_message(self, class_name: str, record_id: str) -> Generator[Row[Any] | None]:
        """Claim the record that a delivery runs, and hold it until the end of the block; None if there is none.

        Args:
            class_name: The operation's stable name in the message.
            record_id: The id of the message's record; the claimed record may be another one.
        """
        delivery = _Delivery.current(class_name, record_id)
        facts = {"operation": class_name, "run_id": record_id}
        try:
            row = retry_while_away("claim", partial(self._claim, delivery), **facts)
            if row is None and not delivery.is_settled:
                row = retry_while_away("handle_unclaimed", partial(self._handle_unclaimed, delivery), **facts)
            if row is None or not self._try_hold(row):
                yield None
                return
            try:
                yield row
            finally:
                self._release(row)
        finally:
            self._held_records.release(delivery.held)

    def _release(self, row: Row[Any]) -> None:
        with self._lock:
            self._held.discard((row.id, row.claim_token))
        if row.concurrency_key is not None:
            failpoint("before_slot_release")
            facts = {"operation": row.operation, "run_id": row.id}
            retry_while_away(
                "offer_slots", lambda: self.limits.offer_slots(row.concurrency_key, row.operation), **facts
            )

    @contextmanager
    def claim_by_id(self, record_id: str) -> Generator[Row[Any] | None]:
        """Claim a record by its id, and hold it until the end of the block.

        None if it is not due, or if a limit allows no start.

        Raises:
            RecordNotFound: No record has this id.
            InvalidTransition: The record is not pending; nothing was changed.
        """
        self._held_records.hold(record_id)
        try:
            with self._claim_pending(record_id) as row:
                yield row
        finally:
            self._held_records.release([record_id])

    @contextmanager
    def _claim_pending(self, record_id: str) -> Generator[Row[Any] | None]:
        # First: a process without a worker row registers itself in a separate transaction.
        worker = self._worker_id()
        with self._store.begin() as connection:
            expire_if_overdue(connection, record_id)
        with self._store.begin() as connection:
            delivered = concurrency_slots.read_for_claim(connection, record_id)
            limits = Limits.of(delivered)
            locked = None if delivered is None or limits == Limits() else limits.lock(connection, delivered)
            why_closed = None if locked is None else locked.why_closed
            row = None if why_closed else apply(connection, "claim", record_id, claimed_by=worker)
            if row is not None and locked is not None:
                locked.note_start(connection, record_id)
        if row is None:
            record = self._store.row(record_id)
            if record.status != "pending":
                why = "Expected a record that is pending. Nothing was changed."
                raise InvalidTransition(record_id, "perform", record.status, why)
            facts = {"operation": record.operation, "run_id": record_id, "scheduled_at": record.scheduled_at}
            log_event(LogEvent.RUN_POSTPONED, **facts, reason=why_closed or "not due")
            yield None
            return
        self._try_hold(row)
        try:
            yield row
        finally:
            self._release(row)

    def _try_hold(self, row: Row[Any]) -> bool:
        """Hold a claim for this thread; False if another thread has it: after lost replies both may find it."""
        claim = (row.id, row.claim_token)
        with self._lock:
            if claim in self._held:
                return False
            self._held.add(claim)
            return True

    def holds(self, row: Row[Any]) -> bool:
        """Whether a thread of this process holds this claim."""
        return (row.id, row.claim_token) in self._held

    def _claim(self, delivery: _Delivery) -> Row[Any] | None:
        if delivery.unconfirmed_claim is not None and (row := self._recover_lost_reply(delivery)) is not None:
            return row
        # Without a call: this is the way of every claim.
        pauses = self._store.pauses
        paused = pauses.latest if time.monotonic() <= pauses.fresh_until else pauses.current()
        if paused.exist and (key := paused.key_for(delivery.queue, delivery.class_name)) is not None:
            self._hold_back(delivery, key)
            return None
        if self._overtaking is not None and delivery.queue is not None:
            row = self._overtaking.claim_more_urgent(
                delivery.queue,
                delivery.priority,
                delivery.record_id,
                partial(self._apply, delivery),
                paused.stored_operations,
            )
            delivery.unconfirmed_claim = None
            if row is not None:
                log_event(LogEvent.RECORD_OUTRANKED, **delivery.facts, claimed_run_id=row.id, priority=row.priority)
                return row
        if delivery.turn is not None and delivery.queue is not None:
            row = self._claim_in_turn(delivery, delivery.queue, paused.stored_operations)
            if row is not None or delivery.is_settled:
                return row
        contract: Contract | None = registry.contract_of(delivery.class_name)
        if contract is not None and (contract.concurrency is not None or contract.rate is not None):
            return self._claim_limited(delivery)
        with self._store.autocommit() as connection:
            row = self._apply(delivery, connection, delivery.record_id, delivery.class_name)
        delivery.unconfirmed_claim = None
        return row

    def _hold_back(self, delivery: _Delivery, key: str) -> None:
        """Let a due record wait without a message for the end of a pause."""
        with self._store.begin() as connection:
            is_due = is_applied(connection, "hold", delivery.record_id, blocked_key=key)
        delivery.is_settled = is_due
        if is_due:
            log_event(LogEvent.RUN_HELD, **delivery.facts, queue=delivery.queue)

    def _claim_in_turn(self, delivery: _Delivery, queue: str, paused: Collection[str]) -> Row[Any] | None:
        """Claim the next run of a queue whose fair key has its turn; None if there is none."""
        if delivery.turn == "later":
            with self._store.autocommit() as connection:
                is_applied(connection, "enter_queue", delivery.record_id)
        for _ in range(MOST_SETTLED):
            row = None
            with self._store.begin() as connection:
                dialect_of(connection).acquire_write_lock(connection)
                next_row = self._turns.next_in_queue(connection, queue, paused, partial(expiry.expire, connection))
                if next_row is None:
                    return None
                is_limited = Limits.of(next_row) != Limits()
                if not is_limited:
                    row = self._apply(delivery, connection, next_row.id)
            if is_limited:
                # In a transaction of its own, which locks the keys of the limits before the record.
                row = self._claim_limited_by_id(delivery, next_row.id, next_row.operation)
            delivery.unconfirmed_claim = None
            if row is not None:
                self._return_message(delivery, row, next_row)
                return row
        return None

    def _return_message(self, delivery: _Delivery, row: Row[Any], next_row: Row[Any]) -> None:
        """Give the delivered record a message of its own again, unless that of the claimed record stands for it."""
        is_alike = row.operation == delivery.class_name and next_row.has_message
        if row.id == delivery.record_id or is_alike:
            return
        with self._store.autocommit() as connection:
            is_applied(connection, "mark_unpublished", delivery.record_id)

    def _claim_limited(self, delivery: _Delivery) -> Row[Any] | None:
        """Claim a record whose class has a concurrency limit or a rate limit."""
        return self._claim_limited_by_id(delivery, delivery.record_id, delivery.class_name)

    def _claim_limited_by_id(self, delivery: _Delivery, record_id: str, operation: str) -> Row[Any] | None:
        with self._store.begin() as connection:
            delivered = concurrency_slots.read_for_claim(connection, record_id)
            limits = Limits.of(delivered)
            claim, paused = partial(self._apply, delivery, connection), self._store.pauses.current().stored_operations
            if delivered is None or delivered.operation != operation or limits == Limits():
                # Deleted, of another class than in the message, or enqueued before its class had a limit.
                result = LimitedClaim(claim(record_id, operation))
            else:
                result = claim_limited(connection, delivered, limits, self._turns, paused, claim)
        delivery.unconfirmed_claim = None
        if record_id == delivery.record_id:
            delivery.is_settled = result.is_settled
        if result.is_settled:
            failpoint("run_blocked")
        if delivered is not None:
            self._offer(delivered, result, delivery.facts)
        return result.row

    def _offer(self, delivered: Row[Any], result: LimitedClaim, facts: Mapping[str, Any]) -> None:
        """Offer what is left of the limits of a delivered row to the runs that wait."""
        if result.has_free_slots and delivered.concurrency_key is not None:
            key, operation = delivered.concurrency_key, delivered.operation
            retry_while_away("offer_slots", lambda: self.limits.offer_slots(key, operation), **facts)
        if result.has_waiting_starts and delivered.rate_key is not None:
            self.rates.schedule(delivered.rate_key, delivered.operation)

    def _apply(
        self, delivery: _Delivery, connection: Connection, id: str, operation: str | None = None
    ) -> Row[Any] | None:
        """Claim a record; with *operation*, only if it is of that class, whose limit was checked."""
        worker = self._worker_id()
        if id not in delivery.held:
            # First: recovery would end a record that is claimed and not held.
            self._held_records.hold(id)
            delivery.held.append(id)
        delivery.unconfirmed_claim = id, worker
        return apply(connection, "claim", id, claimed_by=worker, operation=operation)

    def _recover_lost_reply(self, delivery: _Delivery) -> Row[Any] | None:
        """Return the row that this delivery has claimed, if the connection was lost before the reply."""
        if delivery.unconfirmed_claim is None:
            return None
        record_id, worker = delivery.unconfirmed_claim
        rows = self._store.rows(sa.select(records).where(_r.id == record_id))
        delivery.unconfirmed_claim = None
        return next((row for row in rows if self._is_reply_lost(row, worker)), None)

    def _is_reply_lost(self, row: Row[Any], worker: str) -> bool:
        is_claimed_here = row.status == "running" and row.claimed_by == worker
        return is_claimed_here and (row.id, row.claim_token) not in self._held

    def _handle_unclaimed(self, delivery: _Delivery) -> Row[Any] | None:
        """Handle a late or early delivery: republish its record if needed, and perhaps run an unpublished one."""
        if (row := self._recover_lost_reply(delivery)) is not None:
            return row
        queue = delivery.queue
        try:
            current_row = self._store.row(delivery.record_id)
        except RecordNotFound:
            _missing_record_log.log(LogEvent.RECORD_NOT_FOUND, delivery.class_name, **delivery.facts)
        else:
            queue = current_row.queue
            if (
                current_row.status == "pending"
                and current_row.operation != delivery.class_name
                and registry.is_known(current_row.operation)
            ):
                # The row decides about its class and limit, not the message.
                delivery.class_name = current_row.operation
                row = self._claim(delivery)
                return row if row is not None or delivery.is_settled else self._handle_unclaimed(delivery)
            if current_row.status == "pending":
                self._republish(current_row)
            log_event(LogEvent.RECORD_NOT_CLAIMED, **delivery.facts, status=current_row.status)
        paused = self._store.pauses.current()
        if self._overtaking is None or queue is None or queue in paused.queues:
            return None
        row = self._overtaking.claim_unpublished(queue, partial(self._apply, delivery), paused.stored_operations)
        delivery.unconfirmed_claim = None
        return row

    def _republish(self, row: Row[Any]) -> None:
        with self._store.begin() as connection:
            if expire_if_overdue(connection, row.id):
                # A republished message would be delivered again at once, until the relay expires the record.
                log_event(LogEvent.RUN_EXPIRED, **run_facts(row))
                return
            if not self._dispatcher.transactional:
                is_applied(connection, "mark_unpublished", row.id)
            self._dispatcher.publish_with(connection, row)
        self._dispatcher.wake_workers()
