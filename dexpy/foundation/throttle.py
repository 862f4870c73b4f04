"""Log lines without end are throttled: each subject is logged now and then, with the number of lines left out."""

from __future__ import annotations

import threading
import time
from typing import Any

from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event

EVERY_S = 60.0
MAX_SUBJECTS = 5000
"""More subjects than this share one, so that neither the log nor the memory grows with what other programs send."""
OTHERS = "others"


class LogThrottle:
    """Writes one line per subject and interval.

    Args:
        every_s: Seconds between two lines about a subject; infinity for one line ever.
    """

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._logged: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def log(self, event: LogEvent, subject: str, /, **facts: Any) -> bool:
        """Write a line unless the subject had one just now.

        Args:
            event: As in `dexpy.foundation.log_events.log_event`.
            subject: Lines with the same subject are the same line.
            facts: What belongs to it.

        Returns:
            Whether it was written.
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
