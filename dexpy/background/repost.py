"""Records whose message is gone from the records' own database are given another one.

No crash takes a message away there, for it is one transaction with its row; people do: somebody empties a queue,
or names the database in the place of a broker that still has messages. Here it can be seen which ones are missing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from dexpy.background.brokers.sql import SqlBroker
from dexpy.background.dispatch import Dispatcher
from dexpy.background.resend import BATCH, SENT, queues_of_waiting, waiting_for, window
from dexpy.foundation.pace import Pace
from dexpy.recording.metadata import as_of
from dexpy.recording.store import Store
from dexpy.recording.tables import records

_r = records.c


class Repost:
    """One look for rows without a message.

    Args:
        dispatcher: Sends.
        broker: Over the database of the records.
        store: Where records are.
        pace: After how long a message may be missing.
    """

    def __init__(self, dispatcher: Dispatcher, broker: SqlBroker, store: Store, pace: Pace) -> None:
        self._dispatcher = dispatcher
        self._broker = broker
        self._store = store
        self._after_s = pace.resend_after_s

    def run_once(self) -> int:
        """Give another message to what waits without one.

        Returns:
            How many records were sent again.
        """
        sent = 0
        for queue in queues_of_waiting(self._store, self._after_s):
            if self._is_short(queue):
                sent += sum(map(self._send, self._without_message(queue)))
        if sent:
            self._dispatcher.ring()
        return sent

    def _is_short(self, queue: str) -> bool:
        """Whether a queue has fewer messages than there should be: for each row that waits, and each that runs."""
        wanted = sa.or_(_r.status == "running", sa.and_(*waiting_for(0)))
        count = sa.select(sa.func.count()).select_from(records).where(_r.queue == queue, wanted)
        expected: int = self._store.rows(count)[0][0]
        found = self._broker.pending([queue])
        return found.due + found.leased < expected

    def _without_message(self, queue: str) -> Iterator[Collection[str]]:
        """The ids of the rows that wait for a message that is not there, in batches."""
        columns: list[Any] = [_r.id, _r.enqueued_at, _r.send_count, as_of(0).label("now")]
        waiting: Any = sa.select(*columns).where(*waiting_for(self._after_s), _r.queue == queue)
        # The rows first: one that is begun after this, and whose message is gone then, does not wait any more.
        stale = self._store.rows(waiting.order_by(_r.enqueued_at))
        named = {message.kwargs.get("record_id") for message in self._broker.standing(queue)}
        # One whose message is refused time and again is offered less and less often.
        missing = [row.id for row in stale if row.id not in named and self._is_its_turn(row)]
        for start in range(0, len(missing), BATCH):
            yield missing[start : start + BATCH]

    def _is_its_turn(self, row: Row[Any]) -> bool:
        return bool(row.now - row.enqueued_at >= window(self._after_s, row.send_count))

    def _send(self, ids: Collection[str]) -> int:
        stale = sa.select(records).where(_r.id.in_(ids), *waiting_for(self._after_s))
        with self._store.begin() as connection:
            rows = connection.execute(stale.with_for_update(skip_locked=True)).all()
            if rows:
                connection.execute(sa.update(records).where(_r.id.in_([row.id for row in rows])).values(SENT))
            for row in rows:
                self._dispatcher.send(connection, row)
        return len(rows)
