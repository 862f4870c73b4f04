"""What a worker process does again and again beside its runs, each kind in a thread of its own while it lives."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import attrs
import dramatiq

from dexpy.foundation.log import line
from dexpy.foundation.redaction import class_path

LONGEST_PAUSE_S = 10.0
"""How long a round waits at most after failures, in seconds, unless it is as long anyway."""


@attrs.frozen
class Round:
    """One kind of work.

    Attributes:
        name: Of the thread, and in the log.
        every_s: Seconds between two looks; twice as many after each that did not go well.
        look: One look; says whether it went well.
    """

    name: str
    every_s: float
    look: Callable[[], bool]

    def repeat(self, stop: threading.Event) -> None:
        """Look until told to stop."""
        pause_s = self.every_s
        while not stop.is_set():
            went_well = False
            try:
                went_well = self.look()
            except Exception as error:  # noqa: BLE001 - whatever a look runs into, there has to be a next one
                line(logging.WARNING, f"{self.name}.failed", error=class_path(error), again_in_seconds=pause_s)
            stop.wait(pause_s)
            pause_s = self.every_s if went_well else max(self.every_s, min(pause_s * 2, LONGEST_PAUSE_S))


class Rounds(dramatiq.Middleware):
    """Makes its rounds in every worker process; works the same under ``dexpy worker`` and plain ``dramatiq``.

    Args:
        rounds: What is done again and again.
    """

    def __init__(self, *rounds: Round) -> None:
        self._rounds = rounds
        self._begun: dict[int, tuple[threading.Event, list[threading.Thread]]] = {}

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        """Begin."""
        stop = threading.Event()
        threads = [
            threading.Thread(target=one.repeat, args=(stop,), name=f"dexpy-{one.name}", daemon=True)
            for one in self._rounds
        ]
        self._begun[id(worker)] = stop, threads
        for thread in threads:
            thread.start()

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
        """End, after the looks that are under way."""
        if (begun := self._begun.pop(id(worker), None)) is not None:
            stop, threads = begun
            stop.set()
            for thread in threads:
                thread.join()
