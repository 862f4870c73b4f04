"""`QueueLimit`: how many runs may wait in a queue."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, get_args

import attrs

from dexpy.foundation.errors import ConfigurationError, did_you_mean, listed
from dexpy.foundation.safe_text import shortened

OnFull = Literal["reject", "block"]
ON_FULL: tuple[str, ...] = get_args(OnFull)
BLOCK_TIMEOUT_S = 5.0
LONGEST_BLOCK_S = 3600.0
MOST_PENDING = 10_000_000


def _seconds(timeout: float | timedelta) -> float:
    return timeout.total_seconds() if isinstance(timeout, timedelta) else timeout


@attrs.frozen
class QueueLimit:
    """The number of runs that may be pending in a queue.

    Attributes:
        max_pending: The number of pending runs at which the queue is full.
        on_full: What an enqueue does then: ``"reject"`` raises `dexpy.errors.QueueFull`, ``"block"`` waits for room.
        block_timeout: How long it waits at most before it raises: seconds or a timedelta.

    Raises:
        ConfigurationError: An argument is invalid.

    Example:
        >>> from dexpy import QueueLimit
        >>> QueueLimit(10_000, on_full="block", block_timeout=2).max_pending
        10000
    """

    max_pending: int
    on_full: OnFull = "reject"
    block_timeout: float = attrs.field(default=BLOCK_TIMEOUT_S, converter=_seconds)

    def __attrs_post_init__(self) -> None:
        number: object = self.max_pending
        if type(number) is not int or not 1 <= number <= MOST_PENDING:
            raise ConfigurationError(
                f"QueueLimit(max_pending=): expected an int from 1 to {MOST_PENDING}, got {shortened(number)}."
            )
        if self.on_full not in ON_FULL:
            hint = did_you_mean(self.on_full, ON_FULL)
            raise ConfigurationError(
                f"QueueLimit(on_full=): expected one of {listed(ON_FULL)}, got {shortened(self.on_full)}.{hint}"
            )
        seconds: object = self.block_timeout
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= LONGEST_BLOCK_S:
            raise ConfigurationError(
                f"QueueLimit(block_timeout=): expected seconds from 0 to {LONGEST_BLOCK_S:g} or a timedelta, got "
                f"{shortened(seconds)}."
            )

    @property
    def block_timeout_s(self) -> float:
        """The longest wait, in seconds; 0 if it does not wait."""
        return float(self.block_timeout) if self.on_full == "block" else 0.0
