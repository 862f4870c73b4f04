"""What ticks should be, found by walking through the minutes of UTC and reading the clock of the zone at each.

It shares no code with `dexpy.schedules`: a schedule is here a predicate of local times, written by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo, available_timezones

import attrs

from dexpy.schedules.cron import Cron
from dexpy.schedules.every import Every

UTC = timezone.utc
MINUTE = timedelta(minutes=1)
YEARS = range(2026, 2031)
MARGIN = timedelta(hours=26)
"""Before and after a change: more than a day of the calendar on both sides."""

# Links to a file of the machine; each name in them is also in the database.
ZONES = sorted(available_timezones() - {"localtime", "Factory"})


@attrs.frozen
class Case:
    """A schedule and what it means.

    Attributes:
        schedule: The schedule, without a zone.
        has: Whether a local time, in whole minutes, is one of the schedule.
        is_real_time: Whether each moment with such a local time is a tick.
    """

    schedule: Every | Cron
    has: Callable[[datetime], bool]
    is_real_time: bool = False


def at(*times: tuple[int, int]) -> Callable[[datetime], bool]:
    """Local times of every day."""
    return lambda local: (local.hour, local.minute) in times


CASES = [
    Case(Every("every day at 2:30am"), at((2, 30))),
    Case(Every("every day"), at((0, 0))),
    Case(Every("every day at 0:15, 1:30, 3am and 11:45pm"), at((0, 15), (1, 30), (3, 0), (23, 45))),
    Case(Every("weekend at 2am and noon"), lambda local: local.weekday() >= 5 and at((2, 0), (12, 0))(local)),
    Case(
        Every("every saturday, sunday and monday at midnight"),
        lambda local: local.weekday() in (5, 6, 0) and at((0, 0))(local),
    ),
    Case(
        Every("every month on the 25th, 29th, and the last day at 1:10"),
        lambda local: (local.day in (25, 29) or (local + timedelta(days=1)).day == 1) and at((1, 10))(local),
    ),
    Case(Cron("0,30 2,3 * * *"), at((2, 0), (2, 30), (3, 0), (3, 30))),
    Case(Cron("0 30 1 * * SUN", seconds=True), lambda local: local.isoweekday() == 7 and at((1, 30))(local)),
    Case(Cron("*/30 * * * *"), lambda local: local.minute in (0, 30), is_real_time=True),
    Case(Cron("10 */2 * * *"), lambda local: local.minute == 10 and local.hour % 2 == 0, is_real_time=True),
    Case(Cron("*/20 0 * * *"), lambda local: local.hour == 0 and local.minute % 20 == 0, is_real_time=True),
    Case(
        Cron("*/6 1-3 * * 0,6"),
        lambda local: local.weekday() > 4 and local.hour in (1, 2, 3) and local.minute % 6 == 0,
        is_real_time=True,
    ),
]
INTERVALS = [Every("every 7 minutes"), Every("every 36 hours")]


@attrs.frozen
class Window:
    """Some hours of a zone, minute by minute.

    Attributes:
        start: The first minute, in UTC.
        end: After the last one.
        minutes: Each minute in UTC, what the clock shows, and the latest that it has shown before.
    """

    start: datetime
    end: datetime
    minutes: list[tuple[datetime, datetime, datetime]]

    @classmethod
    def of(cls, zone: ZoneInfo, start: datetime, end: datetime) -> Window:
        """Walk through the minutes from *start* to *end*."""
        latest = (start - MINUTE).astimezone(zone).replace(tzinfo=None)
        minutes: list[tuple[datetime, datetime, datetime]] = []
        moment = start
        while moment < end:
            local = moment.astimezone(zone).replace(tzinfo=None)
            minutes.append((moment, local, latest))
            latest = max(latest, local)
            moment += MINUTE
        return cls(start, end, minutes)

    def ticks(self, case: Case) -> list[datetime]:
        """The ticks of a schedule."""
        if case.is_real_time:
            return [moment for moment, local, _ in self.minutes if case.has(local)]
        return [moment for moment, local, latest in self.minutes if any(map(case.has, new_times(latest, local)))]

    def multiples(self, length: timedelta) -> list[datetime]:
        """The ticks of an interval."""
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        return [moment for moment, _, _ in self.minutes if not (moment - epoch) % length]


def kind_of(zone: ZoneInfo, change: datetime) -> tuple[str, str]:
    """The times that the clock would have shown and shows at a change."""
    before = (change - MINUTE).astimezone(zone).replace(tzinfo=None) + MINUTE
    return f"{before:%H:%M}", f"{change.astimezone(zone):%H:%M}"


def new_times(latest: datetime, local: datetime) -> list[datetime]:
    """The local times that the clock shows or skips for the first time when it goes to *local*."""
    return [latest + MINUTE * number for number in range(1, (local - latest) // MINUTE + 1)]


def changes_of(zone: ZoneInfo, years: range) -> list[datetime]:
    """The minutes of UTC at which the clock of a zone changes, found by steps of six hours and then by minutes."""
    step = timedelta(hours=6)
    moment, end = datetime(years.start, 1, 1, tzinfo=UTC), datetime(years.stop, 1, 1, tzinfo=UTC)
    offset = moment.astimezone(zone).utcoffset()
    changes: list[datetime] = []
    while moment < end:
        if (moment + step).astimezone(zone).utcoffset() != offset:
            minutes = (moment + MINUTE * number for number in range(1, 361))
            changes.append(next(minute for minute in minutes if minute.astimezone(zone).utcoffset() != offset))
            offset = (moment + step).astimezone(zone).utcoffset()
        moment += step
    return changes


def wrong_ticks(name: str, years: range) -> list[str]:
    """The differences between schedules and the model in a zone, around each change of the clock in some years.

    A zone without changes has one window.
    """
    zone = ZoneInfo(name)
    problems: list[str] = []
    for change in changes_of(zone, years) or [datetime(years.start, 6, 15, tzinfo=UTC)]:
        window = Window.of(zone, change - MARGIN, change + MARGIN)
        expected = [(case.schedule, window.ticks(case)) for case in CASES]
        expected += [(interval, window.multiples(interval.interval)) for interval in INTERVALS]
        for schedule, ticks in expected:
            local = schedule.with_zone(name)
            if forwards(local, window) != ticks or backwards(local, window) != ticks[::-1]:
                problems.append(f"{local!r} around {change.isoformat()}")
    return problems


def forwards(schedule: Every | Cron, window: Window) -> list[datetime]:
    """The ticks of a schedule in a window, found one after another."""
    ticks: list[datetime] = []
    tick = schedule.next_after(window.start - MINUTE / 7)
    while tick < window.end:
        ticks.append(tick)
        tick = schedule.next_after(tick)
    return ticks


def backwards(schedule: Every | Cron, window: Window) -> list[datetime]:
    """The ticks of a schedule in a window, from the last one on."""
    ticks: list[datetime] = []
    tick = schedule.previous_before(window.end)
    while tick >= window.start:
        ticks.append(tick)
        tick = schedule.previous_before(tick)
    return ticks
