"""How long to pause between tries: longer after each one, up to a longest pause."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import attrs


@attrs.frozen
class Backoff:
    """The pauses between tries, in seconds.

    Attributes:
        first_s: The first pause.
        longest_s: No pause is longer.
        factor: Each pause is so many times the one before.
        jitter: Up to this share of each pause is left out at random, so that two processes do not retry together again.

    Example:
        >>> list(itertools.islice(Backoff(0.5, 3.0), 5))
        [0.5, 1.0, 2.0, 3.0, 3.0]
    """

    first_s: float
    longest_s: float
    factor: float = 2.0
    jitter: float = 0.0

    def pause_s(self, count: int) -> float:
        """Return the pause after so many earlier ones."""
        # The exponent is limited, for a float is; the longest pause has long been reached.
        pause_s = min(self.first_s * self.factor ** min(count, 60), self.longest_s)
        return pause_s if self.jitter == 0 else pause_s * random.uniform(1 - self.jitter, 1)  # noqa: S311 - no secret

    def __iter__(self) -> Iterator[float]:
        """Return the pauses, without an end."""
        return map(self.pause_s, itertools.count())
