"""The relay: sends what is due and was not sent.

A broker of its own cannot be part of the transaction that stores a record. So a row says whether its message has been
handed over, and the relay hands over the rest: what is due only now, what is to be run again, what the broker
did not take. It runs in every worker; any number of them at once share the work row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from dexpy.background.dispatch import Dispatcher
from dexpy.recording.metadata import after, as_of
from dexpy.recording.store import Store
from dexpy.recording.tables import records
from dexpy.recording.transitions import apply

EVERY_S = 0.5
"""How often a relay looks, in seconds."""
BATCH = 100

_OWED = (
    sa.select(records.c.id)
    .where(records.c.status == "pending", records.c.enqueued_at.is_(None), records.c.scheduled_at <= as_of(0))
    .order_by(records.c.scheduled_at)
    .limit(BATCH)
    .with_for_update(skip_locked=True)
)
_THESE = records.c.id.in_(sa.bindparam("p_ids", expanding=True))
_SENT = sa.update(records).where(_THESE).values(enqueued_at=after(0), send_count=records.c.send_count + 1)
_ROWS = sa.select(records).where(_THESE).order_by(records.c.priority.desc(), records.c.scheduled_at)


class Relay:
    """One relay.

    Args:
        dispatcher: Whose messages it sends.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def run_once(self) -> bool:
        """Send everything that is owed now.

        Returns:
            Whether the broker took all of it.
        """
        store = self._dispatcher.store
        while store is not None and (batch := self._claim(store)):
            if not self._deliver(store, batch):
                return False
        return self._deliver_waiting()

    def _claim(self, store: Store) -> Sequence[Row[Any]]:
        with store.begin() as connection:
            ids = connection.execute(_OWED).scalars().all()
            if not ids:
                return ()
            connection.execute(_SENT, {"p_ids": ids})
            return connection.execute(_ROWS, {"p_ids": ids}).all()

    def _deliver(self, store: Store, rows: Sequence[Row[Any]]) -> bool:
        for index, row in enumerate(rows):
            if not self._dispatcher.deliver_row(row):
                with store.begin() as connection:
                    for left in rows[index:]:
                        apply(connection, "owe", left.id)
                return False
        return True

    def _deliver_waiting(self) -> bool:
        """Direct messages that waited in the database."""
        mailbox = self._dispatcher.carrier.mailbox
        while mailbox is not None and (message := mailbox.take()) is not None:
            if not self._dispatcher.carrier.deliver(message.content):
                message.give_back()
                return False
            message.ack()
        return True
