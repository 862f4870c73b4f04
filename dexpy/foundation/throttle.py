"""Throttling of repeated log lines: one line for each subject and interval, with the number of omitted lines."""

from __future__ import annotations

import threading
import time
from typing import Any

from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event

EVERY_S = 60.0
MAX_SUBJECTS = 5000
"""More subjects share one entry, so that messages of other programs do not fill the log or the memory."""
OTHERS = "others"


class LogThrottle:
    """Logs one line for each subject and interval.

    Args:
        every_s: Seconds between two lines about a subject; infinity for a single line.
    """

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._logged: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def log(self, event: LogEvent, subject: str, /, **facts: Any) -> bool:
        """Log a line, unless the subject has had one within the interval.

        Args:
            event: The event, as in `dexpy.foundation.log_events.log_event`.
            subject: The subject; lines with the same subject are repetitions.
            facts: The fields of the line.

        Returns:
            Whether the line was logged.
        """
        now = time.monotonic()
        with self._lock:
            if subject not in self._logged and len(self._logged) >= MAX_SUBJECTS:
                subject = OTHERS
            every_s = EVERY_S if subject == OTHERS else self._every_s
            logged_at, left_out = self._logged.get(subject, (now, 0))
            if subject in self._logged and now - logged_at < every_s:
                self._logged[subject] = logged_at, left_out + 1
                return False
            self._logged[subject] = now, 0
        log_event(event, **facts, left_out=left_out or None)
        return True
