"""From the times that a clock on the wall shows to moments in UTC, through the changes of the clock.

A *local* datetime is naive: what the clock shows. A *moment* is aware, in UTC.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from itertools import islice
from typing import Protocol

from dexpy.schedules.zones import DAY, SECOND, UTC, change_between, first_change, last_change, offset_at

FIRST_DAY = datetime(2001, 1, 1)
LAST_DAY = datetime(2006, 1, 1)
MOST_TIMES = 7200
"""Times of a day that are compared. A day with more of them has several in one minute, of which the first two hours
have all distances."""


class LocalTimes(Protocol):
    """The local times of a schedule, in whole seconds."""

    @property
    def is_real_time(self) -> bool:
        """Whether every moment with a matching local time is a tick.

        Else each local time is one tick: the first moment after a gap that skips it, the first of two moments in an
        overlap.
        """
        ...

    def after(self, local: datetime) -> Iterator[datetime]:
        """Yield the times after this one, in rising order; end or raise OverflowError where no datetime follows."""
        ...

    def before(self, local: datetime) -> Iterator[datetime]:
        """Yield the times before this one, in falling order; end or raise OverflowError where no datetime precedes."""
        ...


def moments_after(times: LocalTimes, zone: tzinfo, moment: datetime) -> Iterator[datetime]:
    """Yield the ticks after a moment, strictly rising; end where no datetime follows."""
    ticks = _real_after(times, zone, moment) if times.is_real_time else _fixed_after(times, zone, moment)
    return _until_the_last_datetime(ticks)


def moments_before(times: LocalTimes, zone: tzinfo, moment: datetime) -> Iterator[datetime]:
    """Yield the ticks before a moment, strictly falling; end where no datetime precedes."""
    ticks = _real_before(times, zone, moment) if times.is_real_time else _fixed_before(times, zone, moment)
    return _until_the_last_datetime(ticks)


def _until_the_last_datetime(ticks: Iterator[datetime]) -> Iterator[datetime]:
    try:
        yield from ticks
    except OverflowError:
        # A local time or its moment is outside of the years 1 to 9999.
        return


def first_moment(local: datetime, zone: tzinfo) -> datetime:
    """Return the first moment at which the clock shows a local time, or the moment of the change that skips it."""
    moment = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) == local:
        return moment
    # In a gap, fold=0 has the offset from before the change and so is not before it; fold=1 is before it.
    return change_between(zone, local.replace(tzinfo=zone, fold=1).astimezone(UTC), moment)


def _fixed_after(times: LocalTimes, zone: tzinfo, moment: datetime) -> Iterator[datetime]:
    # Every local time up to the one that the clock shows has its tick at or before this moment.
    last = moment
    for local in times.after(moment.astimezone(zone).replace(tzinfo=None, microsecond=0, fold=0)):
        tick = first_moment(local, zone)
        if tick > last:
            yield tick
            last = tick


def _fixed_before(times: LocalTimes, zone: tzinfo, moment: datetime) -> Iterator[datetime]:
    # In the second pass of an overlap, times that are later on the clock have their ticks earlier, in the first pass.
    offset = max(offset_at(zone, moment), offset_at(zone, moment - DAY))
    last = moment
    for local in times.before(_ceiling(moment.replace(tzinfo=None) + offset)):
        tick = first_moment(local, zone)
        if tick < last:
            yield tick
            last = tick


def _real_after(times: LocalTimes, zone: tzinfo, moment: datetime) -> Iterator[datetime]:
    since = moment.replace(microsecond=0)
    offset = offset_at(zone, since)
    start = since.replace(tzinfo=None) + offset
    while True:
        change = None
        for local in times.after(start):
            tick = (local - offset).replace(tzinfo=UTC)
            change = first_change(zone, since, tick)
            if change is not None:
                break
            yield tick
            since = tick
        if change is None:
            return
        # A tick at the change itself has the new offset.
        since = change
        offset = offset_at(zone, change)
        start = change.replace(tzinfo=None) + offset - SECOND


def _real_before(times: LocalTimes, zone: tzinfo, moment: datetime) -> Iterator[datetime]:
    # Exclusive, so its offset is that of the second before it.
    end = _ceiling(moment)
    while True:
        offset = offset_at(zone, end - SECOND)
        change = None
        for local in times.before(end.replace(tzinfo=None) + offset):
            tick = (local - offset).replace(tzinfo=UTC)
            change = last_change(zone, end - SECOND, tick)
            if change is not None:
                break
            yield tick
            end = tick
        if change is None:
            return
        end = change


def _ceiling(moment: datetime) -> datetime:
    return moment.replace(microsecond=0) + SECOND if moment.microsecond else moment


@functools.lru_cache(maxsize=1000)
def smallest_gap(times: LocalTimes) -> timedelta:
    """Return the smallest distance between two local times, as in years without a change of the clock.

    All days of a schedule have the same times of day. So it is a distance within a day, or one from the last time of a
    day to the first time of the next, within five years.
    """
    first = last = next(times.after(FIRST_DAY - SECOND))
    gap = timedelta.max
    for local in islice(times.after(first), MOST_TIMES):
        if local.date() != first.date():
            break
        gap = min(gap, local - last)
        last = local
        if gap == SECOND:
            return gap
    length = last - first
    while gap > DAY - length:
        following = next(times.after(last), None)
        if following is None or (following > LAST_DAY and gap < timedelta.max):
            break
        gap = min(gap, following - last)
        last = following + length
    return gap
