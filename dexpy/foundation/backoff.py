"""Backoff: pauses between attempts, each longer than the one before, up to a maximum."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import attrs


@attrs.frozen
class Backoff:
    """The pauses between attempts, in seconds.

    Attributes:
        first_s: The first pause.
        longest_s: The maximum pause.
        factor: The ratio of each pause to the one before.
        jitter: The share of each pause that may be subtracted at random, so that processes do not retry together.

    Example:
        >>> list(itertools.islice(Backoff(0.5, 3.0), 5))
        [0.5, 1.0, 2.0, 3.0, 3.0]
    """

    first_s: float
    longest_s: float
    factor: float = 2.0
    jitter: float = 0.0

    def pause_s(self, count: int) -> float:
        """Return the pause after a number of earlier pauses."""
        # The exponent is limited to the range of floats; the maximum is reached much earlier.
        pause_s = min(self.first_s * self.factor ** min(count, 60), self.longest_s)
        return pause_s if self.jitter == 0 else pause_s * random.uniform(1 - self.jitter, 1)  # noqa: S311 - no secret

    def __iter__(self) -> Iterator[float]:
        """Yield the pauses without an end."""
        return map(self.pause_s, itertools.count())
