"""The intervals of heartbeat, recovery and republishing, derived from the setting ``recover_within``."""

from __future__ import annotations

from datetime import timedelta

import attrs

from dexpy.configuration.table import LONGEST_RECOVERY_S, SHORTEST_RECOVERY_S, default_of
from dexpy.foundation.errors import ConfigurationError

SHORTEST_S, LONGEST_S = SHORTEST_RECOVERY_S, LONGEST_RECOVERY_S


@attrs.frozen
class RecoveryIntervals:
    """The intervals of heartbeat and relay.

    Attributes:
        recover_within_s: The longest time, in seconds, from a worker's death or a message's loss until the run is
            published again.
    """

    recover_within_s: float = default_of("recover_within")

    @classmethod
    def of(cls, value: timedelta | float | None) -> RecoveryIntervals:
        """Return the intervals for a setting.

        Raises:
            ConfigurationError: The setting is not a number of seconds, or is less than 5.
        """
        if value is None:
            return cls()
        try:
            seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
        except (TypeError, ValueError):
            seconds = 0.0
        if isinstance(value, bool) or not SHORTEST_S <= seconds <= LONGEST_S:
            raise ConfigurationError(
                f"recover_within: expected seconds or a timedelta, at least {SHORTEST_S:g} s, got {value!r}. "
                "With less, the lease of a busy worker could expire."
            )
        return cls(seconds)

    @property
    def lease_s(self) -> float:
        """The length of a lease: a worker whose last heartbeat is older is dead."""
        return self.recover_within_s / 2

    @property
    def heartbeat_interval_s(self) -> float:
        """The interval of heartbeats: a sixth of the lease, so that some heartbeats may fail."""
        return self.lease_s / 6

    @property
    def recovery_interval_s(self) -> float:
        """The interval between checks for dead workers, lost messages and expired records."""
        return self.recover_within_s / 12

    @property
    def resend_after_s(self) -> float:
        """The age at which an unclaimed message counts as possibly lost."""
        return self.recover_within_s / 2
