"""What happens to a due tick: it runs, it is missed, or its task has ended. Pure computations."""

from __future__ import annotations

from datetime import datetime, timedelta

import attrs

from dexpy.foundation.errors import OptionsError
from dexpy.schedules.schedule import Schedule

COUNT_LIMIT = 20_000
"""The maximum number of missed ticks that one catch-up counts, so that it takes less than a second."""
_SMALLEST = timedelta(microseconds=1)


@attrs.frozen
class Misses:
    """Missed ticks of one catch-up.

    Attributes:
        count: How many, at most `COUNT_LIMIT`.
        first: The first one.
        last: The last one.
    """

    count: int
    first: datetime
    last: datetime


@attrs.frozen
class TickPlan:
    """What happens next to a task whose `next_at` has passed.

    Attributes:
        tick: The tick to enqueue; None for none.
        next_at: The next tick afterwards, which may have passed too; None if the task has ended.
        misses: The ticks that are missed; None for none.
    """

    tick: datetime | None
    next_at: datetime | None
    misses: Misses | None = None


@attrs.frozen
class TaskState:
    """The state of a task on which a plan depends.

    Attributes:
        schedule: Its schedule.
        next_at: Its next tick, which has passed.
        grace_s: How late a tick may be enqueued, in seconds.
        runs_latest: Whether the newest missed tick is enqueued.
        until: The time after which it has no ticks.
        resumed_at: The end of its pause, if that has passed.
    """

    schedule: Schedule
    next_at: datetime
    grace_s: float
    runs_latest: bool = False
    until: datetime | None = None
    resumed_at: datetime | None = None


def plan_tick(task: TaskState, now: datetime) -> TickPlan:
    """Return what happens to the next tick of a task.

    Args:
        task: The task.
        now: The time of the database's clock.
    """
    tick = task.next_at
    if task.resumed_at is not None and tick <= task.resumed_at:
        # Ticks of a pause are neither run nor missed.
        return TickPlan(None, next_tick(task.schedule, task.resumed_at, task.until))
    if is_after(tick, task.until):
        return TickPlan(None, None)
    if now - tick <= timedelta(seconds=task.grace_s):
        return TickPlan(tick, next_tick(task.schedule, tick, task.until))
    in_time = next_tick(task.schedule, now - timedelta(seconds=task.grace_s) - _SMALLEST, task.until)
    last = _last_missed(task, tick, in_time, now)
    if task.runs_latest and (in_time is None or in_time > now):
        earlier = _misses(task.schedule, tick, _before(task.schedule, last, tick))
        return TickPlan(last, in_time, earlier)
    return TickPlan(None, in_time, _misses(task.schedule, tick, last))


def next_tick(schedule: Schedule, after: datetime, until: datetime | None = None) -> datetime | None:
    """Return the first tick after a moment; None if there is none, or if it is after the end of the task."""
    try:
        tick = schedule.next_after(after)
    except OptionsError:
        return None
    return None if is_after(tick, until) else tick


def is_after(tick: datetime, until: datetime | None) -> bool:
    """Return whether a tick is after the end of a task."""
    return until is not None and tick > until


def _last_missed(task: TaskState, tick: datetime, in_time: datetime | None, now: datetime) -> datetime:
    """Return the newest missed tick, which may be *tick* itself, also if the schedule does not have it."""
    end = in_time if in_time is not None else min(now, task.until or now) + _SMALLEST
    return _before(task.schedule, end, tick) or tick


def _before(schedule: Schedule, moment: datetime, first: datetime) -> datetime | None:
    """Return the last tick before a moment; *first* if that would be earlier; None if *moment* is *first*."""
    if moment <= first:
        return None
    try:
        return max(schedule.previous_before(moment), first)
    except OptionsError:
        return first


def _misses(schedule: Schedule, first: datetime, last: datetime | None) -> Misses | None:
    if last is None:
        return None
    return Misses(1 + schedule.count_between(first, last, limit=COUNT_LIMIT - 1), first, last)
