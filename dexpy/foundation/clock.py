"""The one place that says what time it is in this process.

Tests move it with `Clock.advance`; nothing else in dexpy reads the wall clock.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone


class Clock:
    """The wall clock, with an offset that a test may set."""

    def __init__(self) -> None:
        self._offset_s = 0.0

    def timestamp(self) -> float:
        """Seconds since 1970."""
        return time.time() + self._offset_s

    def now(self) -> datetime:
        """The moment, aware, in UTC, with microseconds."""
        return datetime.fromtimestamp(self.timestamp(), timezone.utc)

    def advance(self, by: timedelta | float) -> None:
        """Move the clock, in seconds or by a timedelta; backwards with a negative one."""
        self._offset_s += by.total_seconds() if isinstance(by, timedelta) else by

    def reset(self) -> None:
        """Show real time again."""
        self._offset_s = 0.0


clock = Clock()
"""The clock of this process."""
