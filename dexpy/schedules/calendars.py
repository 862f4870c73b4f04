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

    @property
    def name(self) -> str:
        """The beginning of a sentence: ``Every 2 days``."""
        ...

    @property
    def note(self) -> str:
        """The end of a sentence: ``, counted from 1970-01-01``."""
        ...


@attrs.frozen
class EveryDays:
    """Every so many days, counted from 1970-01-01."""

    count: int = 1

    def has(self, day: date) -> bool:
        """Return whether a day is one of them."""
        return (day.toordinal() - EPOCH) % self.count == 0

    @property
    def name(self) -> str:
        """The beginning of a sentence."""
        return "Every day" if self.count == 1 else f"Every {self.count} days"

    @property
    def note(self) -> str:
        """The end of a sentence."""
        return "" if self.count == 1 else ", counted from 1970-01-01"


@attrs.frozen
class EveryWeeks:
    """Monday of every so many weeks, counted from Monday, 1970-01-05."""

    count: int = 1

    def has(self, day: date) -> bool:
        """Return whether a day is one of them."""
        return (day.toordinal() - FIRST_MONDAY) % (7 * self.count) == 0

    @property
    def name(self) -> str:
        """The beginning of a sentence."""
        return "Every Monday" if self.count == 1 else f"Every {self.count} weeks on Monday"

    @property
    def note(self) -> str:
        """The end of a sentence."""
        return "" if self.count == 1 else ", counted from 1970-01-05"


@attrs.frozen
class Weekdays:
    """Days of the week, from 0 for Monday."""

    days: frozenset[int]

    def has(self, day: date) -> bool:
        """Return whether a day is one of them."""
        return day.weekday() in self.days

    @property
    def name(self) -> str:
        """The beginning of a sentence."""
        return f"Every {joined([DAY_NAMES[day] for day in sorted(self.days)])}"

    @property
    def note(self) -> str:
        """The end of a sentence."""
        return ""


@attrs.frozen
class MonthDays:
    """Days of each month; a day that a month does not have is left out."""

    days: frozenset[int]
    has_last: bool = False

    def has(self, day: date) -> bool:
        """Return whether a day is one of them."""
        is_last = self.has_last and day.day == calendar.monthrange(day.year, day.month)[1]
        return is_last or day.day in self.days

    @property
    def name(self) -> str:
        """The beginning of a sentence."""
        days = [f"the {ordinal(day)}" for day in sorted(self.days)] + ["the last day"] * self.has_last
        return f"Every month on {joined(days)}"

    @property
    def note(self) -> str:
        """The end of a sentence."""
        late = [ordinal(day) for day in sorted(self.days) if day > 28]
        return f", in months that have a {joined(late, 'or')}" if late else ""


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
                times = (datetime.combine(day, at) for at in self.times)
                yield from (at for at in times if at > local)
            if day == date.max:
                return
            day += timedelta(days=1)

    def before(self, local: datetime) -> Iterator[datetime]:
        """Yield the times before this one, in falling order; end where no datetime precedes."""
        day = local.date()
        while True:
            if self.days.has(day):
                times = (datetime.combine(day, at) for at in reversed(self.times))
                yield from (at for at in times if at < local)
            if day == date.min:
                return
            day -= timedelta(days=1)

    def described(self) -> str:
        """Return a sentence without its full stop and zone."""
        return f"{self.days.name} at {joined([f'{at:%H:%M}' for at in self.times])}{self.days.note}"


def joined(words: list[str], conjunction: str = "and") -> str:
    """Return words as a list in a sentence: ``a, b and c``."""
    return f" {conjunction} ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def ordinal(day: int) -> str:
    """Return the ordinal of a day of the month: ``1st``."""
    ending = "th" if 11 <= day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"
