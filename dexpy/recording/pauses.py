"""The pauses of somebody who waits for a run to end, between looks at its record."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeAlias

from dexpy.foundation.errors import OptionsError
from dexpy.foundation.log import line

Interval: TypeAlias = float | Callable[[int], float]
SHORTEST_PAUSE_S = 0.01


class Pauses:
    """The pauses of one wait, up to its deadline."""

    def __init__(self, timeout: float, interval: Interval) -> None:
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
            raise OptionsError(f"wait(timeout={timeout!r}) wants seconds, more than 0.")
        if not callable(interval) and (
            isinstance(interval, bool) or not isinstance(interval, (int, float)) or not interval > 0
        ):
            raise OptionsError(f"wait(interval={interval!r}) wants seconds, more than 0, or a function.")
        if timeout > 10:
            line(logging.DEBUG, "wait.long", timeout_s=float(timeout))
        self._deadline = time.monotonic() + timeout
        self._interval = interval
        self._looks = 0
        self._last = False

    def next_s(self) -> float | None:
        """Seconds until the next look, None after the last one, which comes at the deadline."""
        if self._last:
            return None
        pause_s = self._interval(self._looks) if callable(self._interval) else self._interval
        self._looks += 1
        left_s = self._deadline - time.monotonic()
        if left_s <= pause_s:
            self._last = True
        return max(SHORTEST_PAUSE_S, min(pause_s, left_s))
