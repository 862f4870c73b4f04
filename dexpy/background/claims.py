"""Claims: which row a delivery of a message runs.

A message is a hint, and may come late, twice or too early; what is run is decided by a compare-and-set of a row.

That is why priority works on every broker. A server hands out messages in the order in which they came, and a worker
holds many of them in reserve; so where something more urgent waits in the queue, a delivery runs that instead.
In the same transaction its own row is owed a message: the relay sends it, or a delivery that comes late for its own
row takes over. Each row that waits has a message or is owed one, whatever was lost or came twice,
and each delivery starts one run at most. The SQL broker orders its messages itself, so there everything stays as it is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs
import sqlalchemy as sa
from dramatiq.middleware import CurrentMessage
from sqlalchemy.engine import Connection, Row

from dexpy.background.dispatch import Dispatcher
from dexpy.background.limits import Limits, Taken, limit_of
from dexpy.background.outages import insist
from dexpy.declaration import registry
from dexpy.declaration.concurrency import Concurrency
from dexpy.foundation.checkpoint import checkpoint
from dexpy.foundation.errors import InvalidTransition, RecordNotFound
from dexpy.foundation.log import line
from dexpy.recording import slots
from dexpy.recording.expiry import expire_if_late
from dexpy.recording.metadata import as_of
from dexpy.recording.store import Store
from dexpy.recording.tables import records
from dexpy.recording.transitions import apply, is_applied

LOOK_EVERY_S = 1.0
"""How often a process looks for the highest priority that waits in a queue, in seconds."""
MOST_LEVELS = 16
"""So many priorities of a queue are searched for something that is due."""

_r = records.c
_IN_QUEUE = (_r.status == "pending", _r.queue == sa.bindparam("p_queue", type_=_r.queue.type))
_IN_TIME = sa.or_(_r.expires_at.is_(None), _r.expires_at > as_of(0))
_LEVEL: sa.BindParameter[int] = sa.bindparam("p_level", type_=sa.Integer)

# Ordered and limited, where max() would say the same: not every database stops early for that.
_HIGHEST = sa.select(_r.priority).where(*_IN_QUEUE).order_by(_r.priority.desc()).limit(1)
_LOWER = _HIGHEST.where(_r.priority < _LEVEL)

# Those of a key wait for their own messages: whether there is a slot for them is asked then.
_FREE = (_IN_TIME, _r.concurrency_key.is_(None))
_ONE = sa.select(_r.id, _r.name).where(*_IN_QUEUE, *_FREE).limit(1).with_for_update(skip_locked=True)
_OF_LEVEL = _ONE.where(_r.priority == _LEVEL)

# Two queries, and not one with OR: so each is one step in the index, however many are scheduled for later.
_DUE_SINCE = _OF_LEVEL.where(_r.scheduled_at <= as_of(0)).order_by(_r.scheduled_at)
_DUE_EVER = _OF_LEVEL.where(_r.scheduled_at.is_(None))
# Without an order PostgreSQL may read the table from its beginning; with one MariaDB sorts them all, and locks them.
_DUE_EVER_IN_ORDER = _DUE_EVER.order_by(_r.scheduled_at)

_OWED = _ONE.where(_r.enqueued_at.is_(None), _r.scheduled_at <= as_of(0)).order_by(_r.scheduled_at)


@attrs.define(eq=False)
class _Delivery:
    """One delivery of a message.

    Attributes:
        class_name: As the message has it.
        record_id: Of the row that the message is for.
        queue: That it came from; None where nobody says.
        priority: Of the row, as the message has it.
        unanswered: The row that it tried to claim, and under which name, while nobody knows whether it did.
        is_settled: Its row found no slot, and waits for one or was discarded.
    """

    class_name: str
    record_id: str
    queue: str | None
    priority: int
    unanswered: tuple[str, str] | None = None
    is_settled: bool = False

    @classmethod
    def current(cls, class_name: str, record_id: str) -> _Delivery:
        """The delivery that this thread is about."""
        message: Any = CurrentMessage.get_current_message()
        if message is None:
            return cls(class_name, record_id, None, 0)
        return cls(class_name, record_id, message.queue_name, message.options.get("dexpy", {}).get("priority", 0))

    @property
    def facts(self) -> dict[str, Any]:
        """For the log."""
        return {"operation": self.class_name, "run": self.record_id}


@attrs.define(eq=False)
class _Waiting:
    """The highest priority that waits in a queue, as far as this process knows.

    Attributes:
        highest: None for nothing.
        looked_at: By `time.monotonic`.
    """

    highest: int | None = None
    looked_at: float = -LOOK_EVERY_S


class Claims:
    """Answers a delivery with the row that it is to run.

    Args:
        store: Where the rows are.
        dispatcher: Sends what cannot be run yet.
        worker_id: Names this process.
    """

    def __init__(self, store: Store, dispatcher: Dispatcher, worker_id: Callable[[], str]) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._worker_id = worker_id
        self._waiting: dict[str, _Waiting] = {}
        self._held: set[tuple[str, int]] = set()
        self._lock = threading.Lock()
        self.limits = Limits(store, dispatcher)

    @contextmanager
    def taken(self, class_name: str, record_id: str) -> Generator[Row[Any] | None]:
        """The row that a delivery is to run, claimed, and held until the end of the block; None for none.

        Args:
            class_name: The operation's stable name, as the message has it.
            record_id: Of the row that the message is for; the answer may be another one, of a class known here.
        """
        delivery = _Delivery.current(class_name, record_id)
        row = insist("claim", lambda: self._claim(delivery), **delivery.facts)
        if row is None and not delivery.is_settled:
            row = insist("look", lambda: self._not_claimed(delivery), **delivery.facts)
        if row is None or not self._hold(row):
            yield None
            return
        try:
            yield row
        finally:
            self._let_go(row)

    def _let_go(self, row: Row[Any]) -> None:
        with self._lock:
            self._held.discard((row.id, row.claim_token))
        if row.concurrency_key is not None:
            checkpoint("slot_releasing")
            facts = {"operation": row.name, "run": row.id}
            insist("offer", lambda: self.limits.offer(row.concurrency_key, row.name), **facts)

    @contextmanager
    def asked(self, record_id: str) -> Generator[Row[Any] | None]:
        """A row that a person wants run now, claimed, and held until the end of the block.

        None if it is not due, or all slots of its key are taken.

        Raises:
            RecordNotFound: There is no such record.
            InvalidTransition: It is not pending; nothing was changed.
        """
        # First, for a process that is no worker yet enters itself in a transaction of its own.
        worker = self._worker_id()
        with self._store.begin() as connection:
            expire_if_late(connection, record_id)
        with self._store.begin() as connection:
            has_slot = self._has_slot(connection, record_id)
            row = apply(connection, "claim", record_id, claimed_by=worker) if has_slot else None
        if row is None:
            found = self._store.row(record_id)
            if found.status != "pending":
                why = "It can be done while a record is pending. Nothing was changed."
                raise InvalidTransition(record_id, "perform", found.status, why)
            facts = {"operation": found.name, "run": record_id, "scheduled_at": found.scheduled_at}
            line(logging.INFO, "not_due" if has_slot else "no_slot", **facts)
            yield None
            return
        self._hold(row)
        try:
            yield row
        finally:
            self._let_go(row)

    def _has_slot(self, connection: Connection, record_id: str) -> bool:
        """Whether a row may run by the limit of its class; its key is held to the end of the transaction then."""
        own = slots.own(connection, record_id)
        if own is None or own.concurrency_key is None or (limit := limit_of(own.name)) is None:
            return True
        slots.enter(connection, own.concurrency_key)
        return limit.limit > slots.running(connection, own.concurrency_key)

    def _hold(self, row: Row[Any]) -> bool:
        """Whether no other thread of this process has this very claim: two that lost their answers may both find it."""
        claim = (row.id, row.claim_token)
        with self._lock:
            if claim in self._held:
                return False
            self._held.add(claim)
            return True

    def _claim(self, delivery: _Delivery) -> Row[Any] | None:
        if (row := self._claimed_unheard(delivery)) is not None:
            return row
        if (waiting := self._outranked(delivery)) is not None:
            row = self._claim_more_urgent(delivery, waiting)
        return row if row is not None else self._claim_own(delivery)

    def _claim_own(self, delivery: _Delivery) -> Row[Any] | None:
        if (concurrency := limit_of(delivery.class_name)) is not None:
            return self._claim_slot(delivery, concurrency)
        with self._store.at_once() as connection:
            row = self._apply(connection, delivery, delivery.record_id)
        delivery.unanswered = None
        return row

    def _claim_slot(self, delivery: _Delivery, concurrency: Concurrency) -> Row[Any] | None:
        """The longer way, of those that have to wait for a slot perhaps."""
        with self._store.begin() as connection:
            own = slots.own(connection, delivery.record_id)
            if own is None or own.concurrency_key is None:
                # Gone, or from before its class had a limit.
                taken = Taken(self._apply(connection, delivery, delivery.record_id))
            else:
                taken = self.limits.take(connection, own, concurrency, partial(self._apply, connection, delivery))
        delivery.unanswered = None
        delivery.is_settled = taken.is_settled
        if taken.is_settled:
            checkpoint("blocked")
        if taken.is_more_free and own is not None and own.concurrency_key is not None:
            key, name = own.concurrency_key, own.name
            insist("offer", lambda: self.limits.offer(key, name), **delivery.facts)
        return taken.row

    def _apply(self, connection: Connection, delivery: _Delivery, id: str) -> Row[Any] | None:
        worker = self._worker_id()
        delivery.unanswered = id, worker
        return apply(connection, "claim", id, claimed_by=worker)

    def _claimed_unheard(self, delivery: _Delivery) -> Row[Any] | None:
        """The row that this delivery has claimed, if the database went away before it could say so."""
        if delivery.unanswered is None:
            return None
        record_id, worker = delivery.unanswered
        found = self._store.rows(sa.select(records).where(_r.id == record_id))
        delivery.unanswered = None
        return next((row for row in found if self._is_unheard(row, worker)), None)

    def _is_unheard(self, row: Row[Any], worker: str) -> bool:
        ours = row.status == "running" and row.claimed_by == worker
        return ours and (row.id, row.claim_token) not in self._held

    def _outranked(self, delivery: _Delivery) -> _Waiting | None:
        """What waits in the queue, if there is something more urgent; a question to the database once in a while."""
        if self._dispatcher.transactional or delivery.queue is None:
            return None
        waiting = self._waiting.setdefault(delivery.queue, _Waiting())
        now = time.monotonic()
        if now - waiting.looked_at >= LOOK_EVERY_S:
            # Before the question, so that one thread asks and the others go on.
            waiting.looked_at = now
            with self._store.at_once() as connection:
                waiting.highest = connection.execute(_HIGHEST, {"p_queue": delivery.queue}).scalar()
        return waiting if waiting.highest is not None and waiting.highest > delivery.priority else None

    def _claim_more_urgent(self, delivery: _Delivery, waiting: _Waiting) -> Row[Any] | None:
        with self._store.begin() as connection:
            # Its own row first: so nothing is held while it waits for that, and the other one is taken if it is free.
            is_applied(connection, "owe", delivery.record_id)
            level, other = self._more_urgent(connection, delivery, waiting)
            row = None if other is None else self._apply(connection, delivery, other)
            if row is None:
                connection.rollback()
        delivery.unanswered = None
        # The next delivery goes on from there: what was not found is not searched for again until the next look.
        waiting.highest = level
        if row is not None:
            line(logging.DEBUG, "outranked", **delivery.facts, by=row.id, priority=row.priority)
        return row

    def _more_urgent(
        self, connection: Connection, delivery: _Delivery, waiting: _Waiting
    ) -> tuple[int | None, str | None]:
        """Where the search ended, and the most urgent row that is due and known here."""
        of = {"p_queue": delivery.queue}
        due_ever = _DUE_EVER_IN_ORDER if connection.dialect.name == "postgresql" else _DUE_EVER
        level = waiting.highest
        for _ in range(MOST_LEVELS):
            if level is None or level <= delivery.priority:
                break
            for query in (due_ever, _DUE_SINCE):
                if (found := _first_known(connection, query, {**of, "p_level": level})) is not None:
                    return level, found
            level = connection.execute(_LOWER, {**of, "p_level": level}).scalar()
        return level, None

    def _not_claimed(self, delivery: _Delivery) -> Row[Any] | None:
        """A late delivery, or one that came before its time: its own row is seen to, and it may run another one."""
        if (row := self._claimed_unheard(delivery)) is not None:
            return row
        queue = delivery.queue
        try:
            own = self._store.row(delivery.record_id)
        except RecordNotFound:
            line(logging.WARNING, "record.gone", **delivery.facts)
        else:
            queue = own.queue
            if own.status == "pending":
                self._send_again(own)
            line(logging.DEBUG, "not_claimed", **delivery.facts, status=own.status)
        if self._dispatcher.transactional or queue is None:
            return None
        return self._claim_owed(delivery, queue)

    def _send_again(self, row: Row[Any]) -> None:
        with self._store.begin() as connection:
            if expire_if_late(connection, row.id):
                # Sent again it would come back at once, and again, until the relay has seen it.
                line(logging.WARNING, "expired", operation=row.name, run=row.id)
                return
            if not self._dispatcher.transactional:
                is_applied(connection, "owe", row.id)
            self._dispatcher.send(connection, row)
        self._dispatcher.ring()

    def _claim_owed(self, delivery: _Delivery, queue: str) -> Row[Any] | None:
        """Run a row that has no message, the longest due first, with the message that was left over."""
        with self._store.begin() as connection:
            other = _first_known(connection, _OWED, {"p_queue": queue})
            row = None if other is None else self._apply(connection, delivery, other)
        delivery.unanswered = None
        return row


def _first_known(connection: Connection, query: sa.Select[Any, Any], of: dict[str, Any]) -> str | None:
    """The id of the first row whose class this process has declared."""
    found = connection.execute(query, of).first()
    if found is not None and not registry.is_known(found.name):
        found = connection.execute(query.where(_r.name.in_(registry.names())), of).first()
    return None if found is None else str(found.id)
