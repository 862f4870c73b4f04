"""What happens to a due tick: pure computations, without a database."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from dexpy import Cron, Every
from dexpy.maintenance.tick_plan import COUNT_LIMIT, Misses, TaskState, TickPlan, plan_tick

DAY = datetime(2026, 11, 30, tzinfo=timezone.utc)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def hourly(**changes: object) -> TaskState:
    return TaskState(Every("hour"), DAY + HOUR, grace_s=300, **changes)  # type: ignore[arg-type]


def test_a_tick_within_its_grace_runs() -> None:
    for late in (timedelta(0), timedelta(seconds=300)):
        assert plan_tick(hourly(), DAY + HOUR + late) == TickPlan(DAY + HOUR, DAY + 2 * HOUR)


def test_the_next_tick_is_computed_from_the_tick_and_not_from_now() -> None:
    task = TaskState(Every("minute"), DAY, grace_s=300)
    now, ticks = DAY + timedelta(seconds=150), []
    while task.next_at <= now:
        plan = plan_tick(task, now)
        ticks.append(plan.tick)
        assert plan.next_at is not None
        task = TaskState(task.schedule, plan.next_at, task.grace_s)
    assert ticks == [DAY, DAY + MINUTE, DAY + 2 * MINUTE]


def test_a_later_tick_is_missed_and_counted() -> None:
    now = DAY + HOUR + timedelta(seconds=301)
    assert plan_tick(hourly(), now) == TickPlan(None, DAY + 2 * HOUR, Misses(1, DAY + HOUR, DAY + HOUR))


def test_ten_days_of_ticks_are_missed_and_the_one_within_its_grace_runs_next() -> None:
    now = DAY + HOUR + timedelta(days=10, seconds=200)
    plan = plan_tick(hourly(), now)
    last = DAY + timedelta(days=10)
    assert plan == TickPlan(None, last + HOUR, Misses(240, DAY + HOUR, last))
    assert plan.next_at is not None
    assert plan.next_at <= now


def test_the_newest_missed_tick_runs_if_the_task_says_so() -> None:
    now = DAY + HOUR + timedelta(days=10, minutes=30)
    plan = plan_tick(hourly(runs_latest=True), now)
    last = DAY + timedelta(days=10, hours=1)
    assert plan == TickPlan(last, last + HOUR, Misses(240, DAY + HOUR, last - HOUR))

    only_one = plan_tick(hourly(runs_latest=True), DAY + HOUR + 30 * MINUTE)
    assert only_one == TickPlan(DAY + HOUR, DAY + 2 * HOUR)


def test_no_missed_tick_runs_beside_one_within_its_grace() -> None:
    plan = plan_tick(hourly(runs_latest=True), DAY + 3 * HOUR + MINUTE)
    assert plan == TickPlan(None, DAY + 3 * HOUR, Misses(2, DAY + HOUR, DAY + 2 * HOUR))


def test_the_count_of_missed_ticks_is_limited() -> None:
    task = TaskState(Cron("* * * * * *", seconds=True), DAY, grace_s=1)
    plan = plan_tick(task, DAY + timedelta(days=30))
    assert plan.misses is not None
    assert (plan.misses.count, plan.misses.first) == (COUNT_LIMIT, DAY)
    assert plan.misses.last == DAY + timedelta(days=30, seconds=-2)


def test_a_start_that_the_schedule_does_not_have_runs_and_is_missed_like_a_tick() -> None:
    start = DAY + timedelta(minutes=7)
    task = TaskState(Every("hour"), start, grace_s=300)
    assert plan_tick(task, start) == TickPlan(start, DAY + HOUR)
    assert plan_tick(task, start + 10 * MINUTE) == TickPlan(None, DAY + HOUR, Misses(1, start, start))


def test_ticks_of_a_pause_are_neither_run_nor_missed() -> None:
    resumed = DAY + 5 * HOUR + MINUTE
    plan = plan_tick(hourly(resumed_at=resumed), DAY + 5 * HOUR + 2 * MINUTE)
    assert plan == TickPlan(None, DAY + 6 * HOUR)
    assert plan_tick(hourly(resumed_at=DAY), DAY + HOUR) == TickPlan(DAY + HOUR, DAY + 2 * HOUR)


@pytest.mark.parametrize("until", [DAY + HOUR, DAY + HOUR + 59 * MINUTE])
def test_a_task_ends_after_its_last_tick(until: datetime) -> None:
    assert plan_tick(hourly(until=until), DAY + HOUR) == TickPlan(DAY + HOUR, None)
    assert plan_tick(hourly(until=DAY), DAY + HOUR) == TickPlan(None, None)
    missed = plan_tick(hourly(until=until), DAY + timedelta(days=3))
    assert missed == TickPlan(None, None, Misses(1, DAY + HOUR, DAY + HOUR))


def test_a_clock_that_is_stepped_back_repeats_no_tick() -> None:
    task, ticks = TaskState(Every("minute"), DAY, grace_s=60), []
    for now in (DAY, DAY + MINUTE, DAY - 2 * HOUR, DAY - HOUR, DAY + 2 * MINUTE):
        while task.next_at <= now:
            plan = plan_tick(task, now)
            ticks.append(plan.tick)
            assert plan.next_at is not None
            task = TaskState(task.schedule, plan.next_at, task.grace_s)
    assert ticks == [DAY, DAY + MINUTE, DAY + 2 * MINUTE]
