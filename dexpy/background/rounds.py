"""What a worker process does again and again beside its runs, each kind in a thread of its own while it lives."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import dramatiq

from dexpy.foundation.log import line
from dexpy.foundation.redaction import class_path

LONGEST_PAUSE_S = 10.0
"""How long a round waits at most after failures, in seconds."""


class Rounds(dramatiq.Middleware):
    """Makes its round in every worker process; works the same under ``dexpy worker`` and plain ``dramatiq``.

    Args:
        name: Of the thread, and in the log.
        every_s: Seconds between two rounds; twice as many after each that did not go well.
        look: One round; says whether it went well.
    """

    def __init__(self, name: str, every_s: float, look: Callable[[], bool]) -> None:
        self._name = name
        self._every_s = every_s
        self._look = look
        self._threads: dict[int, tuple[threading.Event, threading.Thread]] = {}

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        """Begin."""
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(stop,), name=f"dexpy-{self._name}", daemon=True)
        self._threads[id(worker)] = stop, thread
        thread.start()

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
        """End, after the round that is under way."""
        if (found := self._threads.pop(id(worker), None)) is not None:
            found[0].set()
            found[1].join()

    def _run(self, stop: threading.Event) -> None:
        pause_s = self._every_s
        while not stop.is_set():
            went_well = False
            try:
                went_well = self._look()
            except Exception as error:  # noqa: BLE001 - whatever a round runs into, there has to be a next one
                line(logging.WARNING, f"{self._name}.failed", error=class_path(error), again_in_seconds=pause_s)
            stop.wait(pause_s)
            pause_s = self._every_s if went_well else min(pause_s * 2, LONGEST_PAUSE_S)
