"""Equal distances from 1970 on: every process computes the same ticks without stored state."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import attrs

from dexpy.schedules.zones import UTC

ANCHOR = datetime(1970, 1, 1, tzinfo=UTC)


@attrs.frozen
class Interval:
    """Ticks at the multiples of a length since 1970-01-01 UTC.

    Attributes:
        length: The distance between two ticks.
    """

    length: timedelta

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the ticks after a moment, in rising order; end where no datetime follows."""
        number = (moment - ANCHOR) // self.length + 1
        while (tick := self._tick(number)) is not None:
            yield tick
            number += 1

    def before(self, moment: datetime) -> Iterator[datetime]:
        """Yield the ticks before a moment, in falling order; end where no datetime precedes."""
        number = -((ANCHOR - moment) // self.length) - 1
        while (tick := self._tick(number)) is not None:
            yield tick
            number -= 1

    def count(self, start: datetime, end: datetime) -> int:
        """Return the number of ticks after *start*, up to and including *end*."""
        return max((end - ANCHOR) // self.length - (start - ANCHOR) // self.length, 0)

    def _tick(self, number: int) -> datetime | None:
        try:
            return ANCHOR + number * self.length
        except OverflowError:
            return None
