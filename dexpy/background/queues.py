"""Queues that are named only at run time: a worker begins to serve them when a message for them is there.

An operation may go to a queue that no class names, with ``async_(queue="urgent")`` or by a queue function.
The consumers of a Dramatiq worker are made for the queues that its broker knows, so somebody has to look.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import dramatiq
import sqlalchemy as sa

from dexpy.background.brokers.sql import DATABASE_ERRORS, SqlBroker
from dexpy.recording.messages import messages

LOOK_EVERY_S = 1.0
"""How often a worker looks for new queues, in seconds."""


def queues_with_messages(broker: SqlBroker) -> Iterator[str]:
    """The names of all queues that hold something: one probe of the index for each."""
    next_name = sa.select(sa.func.min(messages.c.queue))
    with broker.database.connect() as connection:
        name = connection.execute(next_name).scalar()
        while name is not None:
            yield name
            name = connection.execute(next_name.where(messages.c.queue > name)).scalar()


def declare_new_queues(broker: SqlBroker) -> None:
    """Declare the queues that have messages; a worker that runs here begins to consume them."""
    for name in set(queues_with_messages(broker)) - broker.queues:
        broker.declare_queue(name)


class QueueDiscovery(dramatiq.Middleware):
    """Looks for new queues while a worker runs; works the same under ``dexpy worker`` and plain ``dramatiq``."""

    def __init__(self) -> None:
        self._stops: dict[int, threading.Event] = {}

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        """Begin to look."""
        stop = self._stops[id(worker)] = threading.Event()
        threading.Thread(target=self._look, args=(broker, stop), name="dexpy-queues", daemon=True).start()

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:  # noqa: ARG002 - Dramatiq's signature
        """Look no more."""
        if (stop := self._stops.pop(id(worker), None)) is not None:
            stop.set()

    def _look(self, broker: SqlBroker, stop: threading.Event) -> None:
        while True:
            try:
                declare_new_queues(broker)
            except DATABASE_ERRORS:
                # The consumers say so; here the next look is soon enough.
                pass
            if stop.wait(LOOK_EVERY_S):
                return
