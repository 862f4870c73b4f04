"""`Every`: a schedule as a phrase."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import attrs

from dexpy.foundation.safe_text import shortened
from dexpy.schedules.intervals import Interval
from dexpy.schedules.phrases import check_phrase, rule_of
from dexpy.schedules.schedule import Schedule, check_count, checked_zone, in_utc
from dexpy.schedules.wall_clock import moments_after, moments_before, smallest_gap
from dexpy.schedules.zones import zone_of


@attrs.frozen(init=False, repr=False)
class Every(Schedule):
    """A schedule as an English phrase: ``every 15 minutes``, ``every weekday at 9am``.

    Seconds, minutes and hours are intervals: equal distances, counted from 1970-01-01 in UTC in every zone.
    So ``every 2 hours`` has a tick every two hours of real time, also when the clock changes.

    Days, weeks and months are those of the calendar in the zone, and their ticks are times that the clock there shows.
    ``every day`` is midnight in the zone, not a distance of 24 hours, whose ticks would be at 1:00 or 2:00 in Rome.
    ``every 2 days`` counts the days from 1970-01-01, and ``every 2 weeks`` the Mondays from 1970-01-05.
    A time that the clock skips has its tick at the moment of the change; a time that it shows twice, at the first one.

    Args:
        phrase: The phrase, in any case; ``every`` may be left out.
        zone: The name of a time zone, ``"Europe/Rome"``; None for the default zone.

    Raises:
        DeclarationError: The phrase or the zone is invalid.
        ConfigurationError: The zone database is not installed.

    Example:
        >>> from datetime import datetime, timezone
        >>> nightly = Every("every day at 3am", zone="Europe/Rome")
        >>> nightly.next_after(datetime(2026, 7, 1, 12, tzinfo=timezone.utc)).isoformat()
        '2026-07-02T01:00:00+00:00'
    """

    phrase: str
    zone: str | None

    def __init__(self, phrase: str, *, zone: str | None = None) -> None:
        where = f"Every({shortened(phrase)})"
        instance: Any = self
        instance.__attrs_init__(check_phrase(phrase, where), checked_zone(zone, where))

    def __str__(self) -> str:
        return self.phrase

    def __repr__(self) -> str:
        zone = "" if self.zone is None else f", zone={self.zone!r}"
        return f"Every({self.phrase!r}{zone})"

    @property
    def interval(self) -> timedelta:
        """The smallest distance between two ticks, in years without a change of the clock."""
        rule = rule_of(self.phrase)
        return rule.length if isinstance(rule, Interval) else smallest_gap(rule)

    def describe(self) -> str:
        """Return the meaning as a sentence."""
        rule = rule_of(self.phrase)
        if isinstance(rule, Interval):
            return f"{self.phrase.capitalize()}, counted from 1970-01-01 in UTC."
        return f"{rule.described()} ({self.zone or 'UTC'})."

    def to_json(self) -> str:
        """Return the text that `schedule_from_json` reads: the phrase."""
        return self.phrase

    def count_between(self, start: datetime, end: datetime, *, limit: int) -> int:
        """Return how many ticks are after *start*, up to and including *end*; at most *limit*.

        Raises:
            OptionsError: A moment is naive, or the limit negative.
        """
        rule = rule_of(self.phrase)
        if isinstance(rule, Interval):
            count = rule.count(in_utc(start, "count_between"), in_utc(end, "count_between"))
            return min(count, check_count(limit, "count_between", "limit"))
        return Schedule.count_between(self, start, end, limit=limit)

    def _after(self, moment: datetime) -> Iterator[datetime]:
        rule = rule_of(self.phrase)
        return rule.after(moment) if isinstance(rule, Interval) else moments_after(rule, zone_of(self.zone), moment)

    def _before(self, moment: datetime) -> Iterator[datetime]:
        rule = rule_of(self.phrase)
        return rule.before(moment) if isinstance(rule, Interval) else moments_before(rule, zone_of(self.zone), moment)

    def _in_zone(self, zone: str) -> Every:
        return Every(self.phrase, zone=zone)
