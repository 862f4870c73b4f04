"""Messages that may have been lost are sent again: a flushed Redis, a purged queue, a worker that took them along.

Nobody can see that a message is gone. What can be seen is a queue of the broker with fewer messages than there are
records that wait for one or run by one; so many are sent again, the longest sent first. A record whose message was not
lost has two then, and the second one is acknowledged without a run; the queue is short again by one, and the next look
sends the next record. So it goes on until all have been sent that were lost, and a long queue is not made longer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from dexpy.background.dispatch import Dispatcher
from dexpy.foundation.pace import Pace
from dexpy.recording.metadata import after, as_of
from dexpy.recording.store import Store
from dexpy.recording.tables import records

BATCH = 100
LONGEST_S = 3600.0
"""Between two sends of one record to a broker whose queues cannot be counted, in seconds."""

_r = records.c
WAITING: tuple[sa.ColumnElement[bool], ...] = (
    _r.status == "pending",
    _r.enqueued_at.is_not(None),
    sa.or_(_r.scheduled_at.is_(None), _r.scheduled_at <= as_of(0)),
)
"""Records whose message should be in the broker."""
BEGUN: tuple[sa.ColumnElement[bool], ...] = (_r.status == "running", _r.send_count > 0)
"""Records whose message a worker holds until their attempt is over."""


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
        sent = 0
        for queue in self._suspects():
            while rows := self._take(queue):
                for index, row in enumerate(rows):
                    if not self._dispatcher.deliver_row(row):
                        self._dispatcher.owe(rows[index:])
                        return sent
                    sent += 1
                if len(rows) < BATCH:
                    break
        return sent

    def _suspects(self) -> Collection[str]:
        """The queues of the records that have waited longest."""
        oldest = (
            sa.select(_r.queue)
            .where(*WAITING, _r.enqueued_at <= as_of(-self._after_s))
            .order_by(_r.enqueued_at)
            .limit(10 * BATCH)
            .subquery()
        )
        return [row[0] for row in self._store.rows(sa.select(oldest.c.queue).distinct())]

    def _take(self, queue: str) -> Sequence[Row[Any]]:
        """A batch of those that are to be sent again, marked as sent."""
        held = self._dispatcher.carrier.depth(queue)
        stale = sa.select(records, as_of(0).label("now")).where(
            *WAITING, _r.queue == queue, _r.enqueued_at <= as_of(-self._after_s)
        )
        with self._store.begin() as connection:
            if held is None:
                # Whatever lies in such a queue comes in time; the waits grow, so that a long queue is not made longer.
                found = connection.execute(
                    stale.order_by(_r.send_count, _r.enqueued_at).limit(BATCH).with_for_update(skip_locked=True)
                ).all()
                found = [row for row in found if row.now - row.enqueued_at >= self._window(row.send_count)]
            else:
                missing = min(connection.execute(self._expected(queue)).scalar_one() - held, BATCH)
                if missing <= 0:
                    return ()
                found = connection.execute(
                    stale.order_by(_r.enqueued_at).limit(missing).with_for_update(skip_locked=True)
                ).all()
            if found:
                ids = [row.id for row in found]
                sent = {"enqueued_at": after(0), "send_count": _r.send_count + 1}
                connection.execute(sa.update(records).where(_r.id.in_(ids)).values(sent))
        return found

    def _expected(self, queue: str) -> sa.Select[int]:
        """How many messages a queue should have."""
        kinds = [WAITING, BEGUN] if self._dispatcher.carrier.counts_running else [WAITING]
        of_kind = [
            sa.select(sa.func.count()).select_from(records).where(*kind, _r.queue == queue).scalar_subquery()
            for kind in kinds
        ]
        return sa.select(sum(of_kind[1:], start=of_kind[0]))

    def _window(self, send_count: int) -> timedelta:
        return timedelta(seconds=min(self._after_s * 2.0 ** min(send_count - 1, 20), LONGEST_S))
