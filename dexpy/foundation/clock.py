"""The only module that reads the wall clock.

Tests move the clock with `Clock.advance`.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone


class Clock:
    """The wall clock, with an offset that a test may set."""

    def __init__(self) -> None:
        self._offset = timedelta(0)
        self._database_offset = timedelta(0)
        self.offset_s = 0.0
        self.database_offset_s = 0.0
        """The assumed offset of the clocks of database servers, in seconds."""

    def timestamp(self) -> float:
        """Seconds since 1970."""
        return time.time() + self.offset_s

    def now(self) -> datetime:
        """Return the current time as an aware datetime in UTC, with microseconds."""
        return datetime.fromtimestamp(time.time() + self.offset_s, timezone.utc)

    def advance(self, by: timedelta | float, *, databases: bool = False) -> None:
        """Move the clock of this process, in seconds or by a timedelta; backwards with a negative one.

        Args:
            by: Seconds or a timedelta.
            databases: Whether the clocks of databases move too, in the statements of this process.
        """
        delta = by if isinstance(by, timedelta) else timedelta(seconds=by)
        # A timedelta is exact: moving forwards and back restores the offset.
        self._offset += delta
        self.offset_s = self._offset.total_seconds()
        if databases:
            self._database_offset += delta
            self.database_offset_s = self._database_offset.total_seconds()

    def reset(self) -> None:
        """Restore real time."""
        self.advance(-self._offset)
        self._database_offset = timedelta(0)
        self.database_offset_s = 0.0


clock = Clock()
"""The clock of this process."""
