"""How soon what a dead worker held, or a lost message, is taken up again: a promise, and the intervals that keep it."""

from __future__ import annotations

from datetime import timedelta

import attrs

from dexpy.foundation.errors import ConfigurationError

SHORTEST_S = 5.0
"""The shortest promise, in seconds: below it a busy machine would be taken for a dead one."""


@attrs.frozen
class Pace:
    """The intervals of heartbeat and relay.

    Attributes:
        rescue_within_s: The promise: seconds from a worker's death, or a message's loss, until its operation is
            offered to the workers again.
    """

    rescue_within_s: float = 60.0

    @classmethod
    def of(cls, given: timedelta | float | str | None) -> Pace:
        """The pace for a setting.

        Raises:
            ConfigurationError: It is no number of seconds, or less than 5.
        """
        if given is None:
            return cls()
        try:
            seconds = given.total_seconds() if isinstance(given, timedelta) else float(given)
        except (TypeError, ValueError):
            seconds = 0.0
        if isinstance(given, bool) or not SHORTEST_S <= seconds < 10**7:
            raise ConfigurationError(
                f"rescue_within={given!r} wants seconds or a timedelta, at least {SHORTEST_S:g} s: a shorter pause of "
                "a busy machine would be taken for a death."
            )
        return cls(seconds)

    @property
    def lease_s(self) -> float:
        """A worker whose last beat is longer ago is dead."""
        return self.rescue_within_s / 2

    @property
    def beat_every_s(self) -> float:
        """Six in a lease, so that a few may be late."""
        return self.lease_s / 6

    @property
    def look_every_s(self) -> float:
        """Between two looks for dead workers, lost messages and what has expired."""
        return self.rescue_within_s / 12

    @property
    def resend_after_s(self) -> float:
        """A message that nobody has claimed for so long may be lost."""
        return self.rescue_within_s / 2
