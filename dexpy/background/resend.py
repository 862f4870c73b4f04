"""Messages that may have been lost are sent again: a flushed Redis, a purged queue, a worker that took them along.

Nobody can see that a message is gone. What can be seen is a queue of the broker with fewer messages in it than there
are records that wait for one; so many are sent again, the longest sent first. A message that a worker holds does not
count: it is begun in a moment, or its worker is dead. A record whose message was not
lost has two then, and the second one is acknowledged without a run; the queue is short again by one, and the next look
sends the next record. So it goes on until all have been sent that were lost, and a long queue is not made longer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Row

from dexpy.background.dispatch import Dispatcher
from dexpy.foundation.pace import Pace
from dexpy.recording.metadata import after, as_of
from dexpy.recording.store import Store
from dexpy.recording.tables import records

BATCH = 100
LONGEST_S = 3600.0
"""Between two sends of one record where nobody can count what lies in the queue, in seconds."""

_r = records.c
SENT: Final = {"enqueued_at": after(0), "send_count": _r.send_count + 1}
"""What becomes of the row of a message that is sent."""


def waiting_for(seconds: float) -> tuple[sa.ColumnElement[bool], ...]:
    """Records whose message should have been in the broker, and due, for so many seconds."""
    then = as_of(-seconds)
    return (
        _r.status == "pending",
        _r.enqueued_at <= then,
        sa.or_(_r.scheduled_at.is_(None), _r.scheduled_at <= then),
    )


def window(after_s: float, send_count: int) -> timedelta:
    """How long a message that was sent so often is left alone: each time longer, and an hour at the longest."""
    return timedelta(seconds=min(after_s * 2.0 ** min(send_count - 1, 20), LONGEST_S))


def queues_of_waiting(store: Store, seconds: float) -> Collection[str]:
    """The queues of the records that have waited longest, each for so many seconds at least."""
    oldest = sa.select(_r.queue).where(*waiting_for(seconds)).order_by(_r.enqueued_at).limit(10 * BATCH).subquery()
    return [row[0] for row in store.rows(sa.select(oldest.c.queue).distinct())]


class Resend:
    """One look for lost messages.

    Args:
        dispatcher: Sends.
        store: Where records are.
        pace: After how long a message may be lost.
    """

    def __init__(self, dispatcher: Dispatcher, store: Store, pace: Pace) -> None:
        self._dispatcher = dispatcher
        self._store = store
        self._after_s = pace.resend_after_s

    def run_once(self) -> int:
        """Send again what seems to be missing in the broker's queues.

        Returns:
            How many records were sent again.
        """
        sent, failed = 0, None
        for queue in queues_of_waiting(self._store, self._after_s):
            try:
                count, is_done = self._fill(queue)
            except Exception as error:  # noqa: BLE001 - one that cannot be counted keeps no other from its turn
                failed, count, is_done = error, 0, False
            sent += count
            if not is_done and not self._dispatcher.carrier.answers():
                break
        if failed is not None:
            raise failed
        return sent

    def _fill(self, queue: str) -> tuple[int, bool]:
        """Send again what is missing in one queue: how many, and whether the broker has taken them all."""
        sent = 0
        while rows := self._take(queue):
            for index, row in enumerate(rows):
                if not self._dispatcher.deliver_row(row):
                    self._dispatcher.owe(rows[index:])
                    return sent, False
                sent += 1
            if len(rows) < BATCH:
                break
        return sent, True

    def _take(self, queue: str) -> Sequence[Row[Any]]:
        """A batch of those that are to be sent again, marked as sent."""
        lying = self._dispatcher.carrier.waiting(queue)
        stale = sa.select(records, as_of(0).label("now")).where(*waiting_for(self._after_s), _r.queue == queue)
        with self._store.begin() as connection:
            if lying is None:
                # Whatever lies in such a queue comes in time; the waits grow, so that a long queue is not made longer.
                found = connection.execute(
                    stale.order_by(_r.send_count, _r.enqueued_at).limit(BATCH).with_for_update(skip_locked=True)
                ).all()
                found = [row for row in found if row.now - row.enqueued_at >= window(self._after_s, row.send_count)]
            else:
                missing = min(connection.execute(self._expected(queue)).scalar_one() - lying, BATCH)
                if missing <= 0:
                    return ()
                found = connection.execute(
                    stale.order_by(_r.enqueued_at).limit(missing).with_for_update(skip_locked=True)
                ).all()
            if found:
                ids = [row.id for row in found]
                connection.execute(sa.update(records).where(_r.id.in_(ids)).values(SENT))
        return found

    def _expected(self, queue: str) -> sa.Select[int]:
        """How many messages a queue should have."""
        return sa.select(sa.func.count()).select_from(records).where(*waiting_for(0), _r.queue == queue)
