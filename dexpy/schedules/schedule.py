"""`Schedule`: what `Every` and `Cron` have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice, takewhile
from typing import TypeVar

from dexpy.foundation.errors import DeclarationError, OptionsError
from dexpy.foundation.safe_text import shortened
from dexpy.schedules.zones import UTC, check_zone

S = TypeVar("S", bound="Schedule")


class Schedule(ABC):
    """A frozen value that computes moments, its *ticks*; it reads no clock.

    Attributes:
        zone: The name of the time zone; None for the default, see `with_zone`.
    """

    __slots__ = ()
    zone: str | None

    @abstractmethod
    def _after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the ticks after a moment in UTC, rising."""

    @abstractmethod
    def _before(self, moment: datetime) -> Iterator[datetime]:
        """Yield the ticks before a moment in UTC, falling."""

    @property
    @abstractmethod
    def interval(self) -> timedelta:
        """The smallest distance between two ticks, in years without a change of the clock."""

    @abstractmethod
    def describe(self) -> str:
        """Return the meaning as a sentence."""

    @abstractmethod
    def to_json(self) -> str:
        """Return the text that `schedule_from_json` reads; it has no zone."""

    @abstractmethod
    def _in_zone(self: S, zone: str) -> S:
        """Return this schedule in a zone."""

    def with_zone(self: S, default: str | None) -> S:
        """Return this schedule with its own zone, else with the default; None means UTC.

        Raises:
            DeclarationError: The default is not a time zone.
            ConfigurationError: The zone database is not installed.
        """
        return self if self.zone is not None or default is None else self._in_zone(default)

    def next_after(self, moment: datetime) -> datetime:
        """Return the first tick after a moment.

        Args:
            moment: An aware datetime; a tick at this moment itself does not count.

        Returns:
            An aware datetime in UTC.

        Raises:
            OptionsError: The moment is naive, or no tick follows within the years of datetime.
        """
        return self._first(self._after(in_utc(moment, "next_after")), "after", moment)

    def previous_before(self, moment: datetime) -> datetime:
        """Return the last tick before a moment.

        Args:
            moment: An aware datetime; a tick at this moment itself does not count.

        Returns:
            An aware datetime in UTC.

        Raises:
            OptionsError: The moment is naive, or no tick precedes within the years of datetime.
        """
        return self._first(self._before(in_utc(moment, "previous_before")), "before", moment)

    def upcoming(self, after: datetime, count: int) -> list[datetime]:
        """Return the next ticks after a moment, in UTC; fewer at the end of the year 9999.

        Raises:
            OptionsError: The moment is naive, or the count negative.
        """
        return list(islice(self._after(in_utc(after, "upcoming")), check_count(count, "upcoming", "count")))

    def ticks_between(self, start: datetime, end: datetime, *, limit: int) -> list[datetime]:
        """Return the ticks after *start*, up to and including *end*, in UTC.

        Args:
            start: An aware datetime.
            end: An aware datetime.
            limit: The maximum length of the result; the first ticks are returned.

        Raises:
            OptionsError: A moment is naive, or the limit negative.
        """
        last = in_utc(end, "ticks_between")
        ticks = takewhile(lambda tick: tick <= last, self._after(in_utc(start, "ticks_between")))
        return list(islice(ticks, check_count(limit, "ticks_between", "limit")))

    def count_between(self, start: datetime, end: datetime, *, limit: int) -> int:
        """Return how many ticks are after *start*, up to and including *end*; at most *limit*.

        Takes constant time for an interval, and time in proportion to the result otherwise.

        Raises:
            OptionsError: A moment is naive, or the limit negative.
        """
        return len(self.ticks_between(start, end, limit=limit))

    def _first(self, ticks: Iterator[datetime], side: str, moment: datetime) -> datetime:
        tick = next(ticks, None)
        if tick is None:
            raise OptionsError(f"{self!r}: no tick {side} {moment.isoformat()} within the years 1 to 9999.")
        return tick


def in_utc(moment: object, where: str) -> datetime:
    """Return an aware datetime in UTC.

    Raises:
        OptionsError: It is naive, or outside of the years 1 to 9999 in UTC.
    """
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        got = f"a naive one, {moment!r}" if isinstance(moment, datetime) else shortened(moment)
        raise OptionsError(
            f"{where}(): expected an aware datetime, got {got}. Pass a time zone: datetime(..., tzinfo=timezone.utc)."
        )
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise OptionsError(f"{where}({moment!r}): expected a datetime within the years 1 to 9999 in UTC.") from None


def check_count(count: object, where: str, name: str) -> int:
    """Return a number of ticks.

    Raises:
        OptionsError: It is negative or not an int.
    """
    if type(count) is not int or count < 0:
        raise OptionsError(f"{where}({name}={shortened(count)}): expected an int of 0 or more.")
    return count


def checked_zone(zone: object, where: str) -> str | None:
    """Return a zone of a schedule, None for the default."""
    return None if zone is None else check_zone(zone, where)


def check_flag(value: object, where: str) -> bool:
    """Return a boolean argument."""
    if not isinstance(value, bool):
        raise DeclarationError(f"{where}: expected True or False, got {shortened(value)}.")
    return value
