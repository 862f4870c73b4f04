"""The relay: sends what is due and was not sent.

A broker of its own cannot be part of the transaction that stores a record. So a row says whether its message has been
handed over, and the relay hands over the rest: what is due only now, what is to be run again, what the broker
did not take. It runs in every worker; any number of them at once share the work row by row.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import dramatiq
import sqlalchemy as sa
from sqlalchemy.engine import Row

from dexpy.background.dispatch import Dispatcher
from dexpy.foundation.log import line
from dexpy.foundation.redaction import class_path
from dexpy.recording.metadata import after, as_of
from dexpy.recording.store import Store
from dexpy.recording.tables import records
from dexpy.recording.transitions import apply

EVERY_S = 0.5
"""How often a relay looks, in seconds."""
LONGEST_PAUSE_S = 10.0
"""How long it waits at most after failures, in seconds."""
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

    Attributes:
        held_up: Whether the broker did not take a message in the last pass.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.held_up = False

    def run_once(self) -> int:
        """Send everything that is owed now.

        Returns:
            How many messages were sent.
        """
        dispatcher = self._dispatcher
        self.held_up = False
        sent = 0
        if dispatcher.store is not None:
            while batch := self._claim(dispatcher.store):
                delivered = self._deliver(dispatcher.store, batch)
                sent += delivered
                if delivered < len(batch):
                    return sent
        return sent + self._deliver_waiting()

    def _claim(self, store: Store) -> Sequence[Row[Any]]:
        with store.begin() as connection:
            ids = connection.execute(_OWED).scalars().all()
            if not ids:
                return ()
            connection.execute(_SENT, {"p_ids": ids})
            return connection.execute(_ROWS, {"p_ids": ids}).all()

    def _deliver(self, store: Store, rows: Sequence[Row[Any]]) -> int:
        for index, row in enumerate(rows):
            if not self._dispatcher.deliver_row(row):
                self.held_up = True
                with store.begin() as connection:
                    for left in rows[index:]:
                        apply(connection, "owe", left.id)
                return index
        return len(rows)

    def _deliver_waiting(self) -> int:
        """Direct messages that waited in the database."""
        mailbox = self._dispatcher.carrier.mailbox
        sent = 0
        while mailbox is not None and (message := mailbox.take()) is not None:
            if not self._dispatcher.carrier.deliver(message.content):
                message.give_back()
                self.held_up = True
                break
            message.ack()
            sent += 1
        return sent


class RelayThread(dramatiq.Middleware):
    """Runs a relay in each worker process."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._relay = Relay(dispatcher)
        self._stops: dict[int, tuple[threading.Event, threading.Thread]] = {}

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        """Begin."""
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(stop,), name="dexpy-relay", daemon=True)
        self._stops[id(worker)] = stop, thread
        thread.start()

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
        """End, after the pass that is under way."""
        if (found := self._stops.pop(id(worker), None)) is not None:
            found[0].set()
            found[1].join()

    def _run(self, stop: threading.Event) -> None:
        pause_s = EVERY_S
        while not stop.wait(pause_s):
            try:
                self._relay.run_once()
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S) if self._relay.held_up else EVERY_S
            except Exception as error:  # noqa: BLE001 - whatever a pass runs into, there has to be a next one
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                line(logging.WARNING, "relay.failed", error=class_path(error), again_in_seconds=pause_s)
