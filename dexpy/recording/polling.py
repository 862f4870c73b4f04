"""The intervals at which `Ticket.wait` polls a record."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

from dexpy.foundation.errors import OptionsError
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event

Interval: TypeAlias = float | Callable[[int], float]
SHORTEST_PAUSE_S = 0.01


class PollIntervals:
    """The poll intervals of one wait, up to its deadline."""

    def __init__(self, timeout: float, interval: Interval) -> None:
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
            raise OptionsError(f"wait(timeout=): expected seconds, more than 0, got {timeout!r}.")
        if not callable(interval) and (
            isinstance(interval, bool) or not isinstance(interval, (int, float)) or not interval > 0
        ):
            raise OptionsError(f"wait(interval=): expected seconds, more than 0, or a function, got {interval!r}.")
        if timeout > 10:
            log_event(LogEvent.WAIT_EXTENDED, timeout_s=float(timeout))
        self._deadline = time.monotonic() + timeout
        self._interval = interval
        self._num_polls = 0
        self._is_last = False

    def next_s(self) -> float | None:
        """Return the seconds until the next poll; None after the last poll, which is at the deadline."""
        if self._is_last:
            return None
        pause_s = self._interval(self._num_polls) if callable(self._interval) else self._interval
        self._num_polls += 1
        remaining_s = self._deadline - time.monotonic()
        if remaining_s <= pause_s:
            self._is_last = True
        return max(SHORTEST_PAUSE_S, min(pause_s, remaining_s))
