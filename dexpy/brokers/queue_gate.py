"""The gate of the consumers of one process: which queues are paused, and in which order queues are served."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

from dexpy.policies.queue_selection import QueueSelection

PASSED_OVER_FOR_S = 1.0
"""How long a queue delays no other one after a message that this process cannot run, in seconds."""


class QueueGate:
    """What consumers check before they take a message.

    Args:
        declared_queues: Returns the names of the declared queues.

    Attributes:
        paused: The names of the paused queues.
        selection: The queues that the worker serves, the most urgent first; None for all, in turns.
    """

    def __init__(self, declared_queues: Callable[[], Collection[str]] = tuple) -> None:
        self._declared_queues = declared_queues
        self.paused: frozenset[str] = frozenset()
        self.selection: QueueSelection | None = None
        self._passed_over: dict[str, float] = {}
        self._lock = threading.Lock()

    @property
    def is_ordered(self) -> bool:
        """Whether some queues come before others."""
        return self.selection is not None and self.selection.is_ordered

    def rank(self, queue: str) -> int:
        """Return the place of a queue, 0 for the most urgent."""
        return 0 if self.selection is None else self.selection.rank(queue)

    def pass_over(self, queue: str) -> None:
        """Let other queues be served before this one for a moment: its next message may be for another process."""
        with self._lock:
            self._passed_over[queue] = time.monotonic() + PASSED_OVER_FOR_S

    def earlier_queues(self, queue: str) -> list[str]:
        """Return the declared queues whose messages come before those of a queue now."""
        if not self.is_ordered:
            return []
        rank, now = self.rank(queue), time.monotonic()
        return [
            name
            for name in tuple(self._declared_queues())
            if self.rank(name) < rank and name not in self.paused and self._passed_over.get(name, 0.0) <= now
        ]
