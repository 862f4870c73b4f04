"""Times of day on days of a calendar: what a phrase such as ``every weekday at 9am`` means."""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from typing import Protocol

import attrs

EPOCH = date(1970, 1, 1).toordinal()
FIRST_MONDAY = date(1970, 1, 5).toordinal()
DAY_NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class Days(Protocol):
    """Which days a schedule has."""

    def has(self, day: date) -> bool:
        """Return whether a day is one of them."""
        ...

    def described(self) -> str:
        """Return them as part of a sentence: ``every 2 days``."""
        ...


@attrs.frozen
class EveryDays:
    """Every so many days, counted from 1970-01-01."""

    count: int = 1

    def has(self, day: date) -> bool:
        """Return whether a day is one of them."""
        return (day.toordinal() - EPOCH) % self.count == 0

    def described(self) -> str:
        """Return them as part of a sentence."""
        return "every day" if self.count == 1 else f"every {self.count} days, counted from 1970-01-01"


@attrs.frozen
class EveryWeeks:
    """Monday of every so many weeks, counted from Monday, 1970-01-05."""

    count: int = 1

    def has(self, day: date) -> bool:
        """Return whether a day is one of them."""
        return (day.toordinal() - FIRST_MONDAY) % (7 * self.count) == 0

    def described(self) -> str:
        """Return them as part of a sentence."""
        return "every Monday" if self.count == 1 else f"on Monday of every {self.count} weeks, counted from 1970-01-05"


@attrs.frozen
class Weekdays:
    """Days of the week, from 0 for Monday."""

    days: frozenset[int]

    def has(self, day: date) -> bool:
        """Return whether a day is one of them."""
        return day.weekday() in self.days

    def described(self) -> str:
        """Return them as part of a sentence."""
        return f"every {joined([DAY_NAMES[day] for day in sorted(self.days)])}"


@attrs.frozen
class MonthDays:
    """Days of each month; a day that a month does not have is left out."""

    days: frozenset[int]
    has_last: bool = False

    def has(self, day: date) -> bool:
        """Return whether a day is one of them."""
        is_last = self.has_last and day.day >= 28 and day.day == calendar.monthrange(day.year, day.month)[1]
        return is_last or day.day in self.days

    def described(self) -> str:
        """Return them as part of a sentence."""
        days = [f"the {ordinal(day)}" for day in sorted(self.days)] + ["the last day"] * self.has_last
        late = [ordinal(day) for day in sorted(self.days) if day > 28]
        rest = f", in months that have a {joined(late, 'or')}" if late else ""
        return f"on {joined(days)} of each month{rest}"


@attrs.frozen
class Calendar:
    """Times of day on days.

    Attributes:
        days: The days.
        times: The times of each of them, rising.
    """

    days: Days
    times: tuple[time, ...]

    @property
    def is_real_time(self) -> bool:
        """Always False: each local time is one tick."""
        return False

    def after(self, local: datetime) -> Iterator[datetime]:
        """Yield the times after this one, in rising order; end where no datetime follows."""
        day = local.date()
        while True:
            if self.days.has(day):
                found = (datetime.combine(day, at) for at in self.times)
                yield from (at for at in found if at > local)
            if day == date.max:
                return
            day += timedelta(days=1)

    def before(self, local: datetime) -> Iterator[datetime]:
        """Yield the times before this one, in falling order; end where no datetime precedes."""
        day = local.date()
        while True:
            if self.days.has(day):
                found = (datetime.combine(day, at) for at in reversed(self.times))
                yield from (at for at in found if at < local)
            if day == date.min:
                return
            day -= timedelta(days=1)

    def described(self) -> str:
        """Return a sentence without its full stop and zone."""
        days = self.days.described()
        return f"{days[0].upper()}{days[1:]} at {joined([f'{at:%H:%M}' for at in self.times])}"


def joined(words: list[str], conjunction: str = "and") -> str:
    """Return words as a list in a sentence: ``a, b and c``."""
    return f" {conjunction} ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def ordinal(day: int) -> str:
    """Return the ordinal of a day of the month: ``1st``."""
    ending = "th" if 11 <= day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"
