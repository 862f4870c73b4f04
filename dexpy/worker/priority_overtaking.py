"""Priority overtaking: a delivery runs a more urgent record of its queue instead of its own.

It applies only where a server carries the messages, which delivers them in the order of arrival: Redis, RabbitMQ or the
application's own broker. The broker in the database delivers by priority itself, so `Claims` has no overtaking there.
A process reads the highest pending priority of a queue once a second, and does nothing more while no record is above
the message's.

The transaction that claims the other record marks the delivery's own one as unpublished, so that the relay republishes
it, or a late delivery claims it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.database.column_types import as_of
from dexpy.database.dialects import dialect_of
from dexpy.database.tables import records
from dexpy.declaration import registry
from dexpy.recording.store import Store
from dexpy.recording.transitions import is_applied

PRIORITY_POLL_S = 1.0
"""How often a process reads the highest pending priority of a queue, in seconds."""
MAX_PRIORITY_LEVELS = 16
"""How many priorities of a queue are searched for a due record."""

ClaimRecord: TypeAlias = Callable[[Connection, str], Row[Any] | None]
"""Claims a record by its id, in a transaction."""

_r = records.c
_IN_QUEUE = (_r.status == "pending", _r.queue == sa.bindparam("p_queue", type_=_r.queue.type))
_NOT_EXPIRED = sa.or_(_r.expires_at.is_(None), _r.expires_at > as_of(0))
_LEVEL: sa.BindParameter[int] = sa.bindparam("p_level", type_=sa.Integer)

# ORDER BY and LIMIT instead of max(): not every database stops early for max().
_HIGHEST = sa.select(_r.priority).where(*_IN_QUEUE).order_by(_r.priority.desc()).limit(1)
_LOWER = _HIGHEST.where(_r.priority < _LEVEL)

# Records with a limit or a turn wait for messages of such records: their limits are checked then.
_CLAIMABLE = (_NOT_EXPIRED, _r.concurrency_key.is_(None), _r.rate_key.is_(None), _r.fair_key.is_(None))
_NEXT_ROW = sa.select(_r.id, _r.operation).where(*_IN_QUEUE, *_CLAIMABLE).limit(1).with_for_update(skip_locked=True)
_NEXT_OF_LEVEL = _NEXT_ROW.where(_r.priority == _LEVEL)

# Two queries instead of one with OR: each is one index lookup, however many records are scheduled for later.
_SCHEDULED_AND_DUE = _NEXT_OF_LEVEL.where(_r.scheduled_at <= as_of(0)).order_by(_r.scheduled_at)
_UNSCHEDULED = _NEXT_OF_LEVEL.where(_r.scheduled_at.is_(None))
# Without an order PostgreSQL may scan the table from its start; with one MariaDB sorts and locks all rows.
_UNSCHEDULED_IN_ORDER = _UNSCHEDULED.order_by(_r.scheduled_at)

_UNPUBLISHED = _NEXT_ROW.where(_r.enqueued_at.is_(None), _r.scheduled_at <= as_of(0)).order_by(_r.scheduled_at)


@attrs.define(eq=False)
class _QueuePriority:
    """The highest pending priority of a queue, as last read.

    Attributes:
        highest: The priority; None if nothing is pending.
        polled_at: When it was read, by `time.monotonic`.
    """

    highest: int | None = None
    polled_at: float = -PRIORITY_POLL_S


class PriorityOvertaking:
    """Claims other records than that of a message.

    Args:
        store: The store of records.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue_priorities: dict[str, _QueuePriority] = {}

    def claim_more_urgent(
        self,
        queue: str,
        priority: int,
        delivered_id: str,
        claim: ClaimRecord,
        paused: Sequence[str] = (),
    ) -> Row[Any] | None:
        """Claim a due record of the queue that is more urgent than a message; None if there is none.

        Args:
            queue: The queue of the message.
            priority: Its priority.
            delivered_id: The id of the delivered record, which is then marked as unpublished.
            claim: Claims the other record.
            paused: The names of paused operations.
        """
        pending = self._poll(queue)
        if pending.highest is None or pending.highest <= priority:
            return None
        with self._store.begin() as connection:
            # The delivered row first: it waits for that one without another lock; the other row skips locked ones.
            is_applied(connection, "mark_unpublished", delivered_id)
            level, other = _find_more_urgent(connection, queue, priority, pending.highest, paused)
            row = None if other is None else claim(connection, other)
            if row is None:
                connection.rollback()
        # The next delivery continues from this priority; higher ones are searched again after the next poll.
        pending.highest = level
        return row

    def _poll(self, queue: str) -> _QueuePriority:
        """Return the queue's highest pending priority; reads it once a second."""
        pending = self._queue_priorities.setdefault(queue, _QueuePriority())
        now = time.monotonic()
        if now - pending.polled_at >= PRIORITY_POLL_S:
            # Set before the query, so that one thread reads and the others continue.
            pending.polled_at = now
            with self._store.autocommit() as connection:
                pending.highest = connection.execute(_HIGHEST, {"p_queue": queue}).scalar()
        return pending

    def claim_unpublished(self, queue: str, claim: ClaimRecord, paused: Sequence[str] = ()) -> Row[Any] | None:
        """Claim a record of the queue that has no message, the longest due first; None if there is none."""
        with self._store.begin() as connection:
            other = _first_known(connection, _UNPUBLISHED, {"p_queue": queue}, paused)
            return None if other is None else claim(connection, other)


def _find_more_urgent(
    connection: Connection, queue: str, priority: int, level: int | None, paused: Sequence[str]
) -> tuple[int | None, str | None]:
    """Return the priority at which the search ended, and the id of the most urgent due record known here."""
    parameters = {"p_queue": queue}
    unscheduled = _UNSCHEDULED_IN_ORDER if dialect_of(connection).needs_order_for_index else _UNSCHEDULED
    for _ in range(MAX_PRIORITY_LEVELS):
        if level is None or level <= priority:
            break
        for query in (unscheduled, _SCHEDULED_AND_DUE):
            if (record_id := _first_known(connection, query, {**parameters, "p_level": level}, paused)) is not None:
                return level, record_id
        level = connection.execute(_LOWER, {**parameters, "p_level": level}).scalar()
    return level, None


def _first_known(
    connection: Connection, query: sa.Select[Any, Any], parameters: dict[str, Any], paused: Sequence[str]
) -> str | None:
    """Return the id of the first row whose class is declared in this process and not paused."""
    if paused:
        query = query.where(_r.operation.not_in(paused))
    row = connection.execute(query, parameters).first()
    if row is not None and not registry.is_known(row.operation):
        row = connection.execute(query.where(_r.operation.in_(registry.names())), parameters).first()
    return None if row is None else str(row.id)
