"""Unknown classes: this process does not claim their messages for a while, so that workers with the class do."""

from __future__ import annotations

import threading
import time

SKIP_FOR_S = 2.0
"""How long a process skips the messages of an unknown class, in seconds."""
MAX_SKIPPED_CLASSES = 50
"""The maximum number of skipped classes: each adds a condition to every statement that claims messages."""


class SkippedClasses:
    """Names of classes, each with the time until which it is skipped."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, class_name: str) -> bool:
        """Skip the messages of a class from now on; return False if too many classes are already skipped."""
        now = time.monotonic()
        with self._lock:
            self._until = {name: until for name, until in self._until.items() if until > now}
            if len(self._until) >= MAX_SKIPPED_CLASSES and class_name not in self._until:
                return False
            self._until[class_name] = now + SKIP_FOR_S
            return True

    def names(self) -> frozenset[str]:
        """Return the classes that are skipped now."""
        if not self._until:
            return frozenset()
        now = time.monotonic()
        with self._lock:
            return frozenset(name for name, until in self._until.items() if until > now)
