"""Queues that are named only at run time: a worker begins to serve them soon after the first message for them.

An operation may go to a queue that no class names, with ``async_(queue="urgent")`` or by a queue function.
The consumers of a Dramatiq worker are made for the queues that its broker knows, so somebody has to look.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import dramatiq

from dexpy.background.brokers.sql import DATABASE_ERRORS
from dexpy.background.carriers import Carrier

LOOK_EVERY_S = 1.0
"""How often a worker looks for new queues, in seconds."""


def declare_new_queues(carrier: Carrier) -> None:
    """Declare the queues that something was sent to; a worker that runs here begins to consume them."""
    for name in set(carrier.known_queues()) - carrier.broker.get_declared_queues():
        carrier.broker.declare_queue(name)


class QueueDiscovery(dramatiq.Middleware):
    """Looks for new queues while a worker runs; works the same under ``dexpy worker`` and plain ``dramatiq``."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self._stops: dict[int, tuple[threading.Event, threading.Thread]] = {}

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        """Begin to look."""
        stop = threading.Event()
        thread = threading.Thread(target=self._look, args=(stop,), name="dexpy-queues", daemon=True)
        self._stops[id(worker)] = stop, thread
        thread.start()

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
        """Look no more."""
        if (found := self._stops.pop(id(worker), None)) is not None:
            found[0].set()
            found[1].join()

    def _look(self, stop: threading.Event) -> None:
        while not stop.is_set():
            # The consumers say so; here the next look is soon enough.
            with contextlib.suppress(*DATABASE_ERRORS):
                declare_new_queues(self._carrier)
            stop.wait(LOOK_EVERY_S)
