"""What schedules do when the clock changes, in plain examples."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from dexpy.schedules.cron import Cron
from dexpy.schedules.every import Every
from dexpy.schedules.zones import changes_in_year

UTC = timezone.utc


def local_ticks(schedule: Every | Cron, day: str, hours: int = 24) -> list[str]:
    """The ticks in some hours from the midnight that begins a day, as the clock of the zone shows them."""
    assert schedule.zone is not None
    zone = ZoneInfo(schedule.zone)
    start = datetime.fromisoformat(day).replace(tzinfo=zone).astimezone(UTC)
    ticks = schedule.ticks_between(start - timedelta(seconds=1), start + timedelta(hours=hours - 1), limit=500)
    return [f"{tick.astimezone(zone):%d %H:%M%z}" for tick in ticks]


SPRING, AUTUMN = "2026-03-29", "2026-10-25"
"""In Rome the clock goes from 2:00 to 3:00 on the first day, and from 3:00 to 2:00 on the second."""
AT_2_30 = [Every("day at 2:30am", zone="Europe/Rome"), Cron("30 2 * * *", zone="Europe/Rome")]


@pytest.mark.parametrize(
    "at_2_30", [Every("day at 2:30am", zone="Europe/Rome"), Cron("30 2 * * *", zone="Europe/Rome")]
)
def test_a_time_that_the_clock_skips_has_its_tick_at_the_change(at_2_30: Every | Cron) -> None:
    assert local_ticks(at_2_30, SPRING) == ["29 03:00+0200"]


@pytest.mark.parametrize(
    "at_2_30", [Every("day at 2:30am", zone="Europe/Rome"), Cron("30 2 * * *", zone="Europe/Rome")]
)
def test_a_time_that_the_clock_shows_twice_has_one_tick(at_2_30: Every | Cron) -> None:
    assert local_ticks(at_2_30, AUTUMN) == ["25 02:30+0200"]


def test_skipped_times_and_the_time_after_them_share_one_tick() -> None:
    assert local_ticks(Every("day at 2am, 2:30am, 3am and 4am", zone="Europe/Rome"), SPRING) == [
        "29 03:00+0200",
        "29 04:00+0200",
    ]


def test_a_wildcard_follows_real_time() -> None:
    half_hours = Cron("*/30 * * * *", zone="Europe/Rome")
    assert local_ticks(half_hours, SPRING, 5)[2:6] == [
        "29 01:00+0100",
        "29 01:30+0100",
        "29 03:00+0200",
        "29 03:30+0200",
    ]
    assert local_ticks(half_hours, AUTUMN, 5)[4:8] == [
        "25 02:00+0200",
        "25 02:30+0200",
        "25 02:00+0100",
        "25 02:30+0100",
    ]


def test_every_second_hour_of_the_clock_leaves_out_a_skipped_hour_and_repeats_one() -> None:
    even = Cron("0 */2 * * *", zone="Europe/Rome")
    assert local_ticks(even, SPRING, 5) == ["29 00:00+0100", "29 04:00+0200"]
    assert local_ticks(even, AUTUMN, 5) == ["25 00:00+0200", "25 02:00+0200", "25 02:00+0100"]


def test_an_interval_has_equal_distances() -> None:
    ticks = Every("every 2 hours", zone="Europe/Rome").upcoming(datetime(2026, 3, 28, 20, tzinfo=UTC), 12)
    assert {later - tick for tick, later in pairwise(ticks)} == {timedelta(hours=2)}


def test_a_gap_of_half_an_hour() -> None:
    at_2_15 = Every("day at 2:15", zone="Australia/Lord_Howe")
    assert local_ticks(at_2_15, "2026-10-04") == ["04 02:30+1100"]
    # From 2:00 to 1:30: the clock shows 1:45 twice.
    assert local_ticks(Every("day at 1:45", zone="Australia/Lord_Howe"), "2026-04-05") == ["05 01:45+1100"]
    assert local_ticks(Cron("*/15 1 * * *", zone="Australia/Lord_Howe"), "2026-04-05")[3:] == [
        "05 01:45+1100",
        "05 01:30+1030",
        "05 01:45+1030",
    ]


def test_a_day_without_midnight() -> None:
    midnight = Every("every day", zone="Africa/Cairo")
    assert midnight.ticks_between(
        datetime(2026, 4, 22, 23, tzinfo=UTC), datetime(2026, 4, 25, tzinfo=UTC), limit=9
    ) == [
        datetime(2026, 4, 23, 22, tzinfo=UTC),  # at 1:00, an hour after the day would have begun
        datetime(2026, 4, 24, 21, tzinfo=UTC),
    ]
    assert local_ticks(Cron("*/20 0 * * *", zone="Africa/Cairo"), "2026-04-23", 60)[:4] == [
        "23 00:00+0200",
        "23 00:20+0200",
        "23 00:40+0200",
        "25 00:00+0300",
    ]


def test_a_day_with_two_midnights() -> None:
    # In Havana the clock goes from 1:00 to 0:00.
    assert local_ticks(Every("every day", zone="America/Havana"), "2026-11-01", 20) == ["01 00:00-0400"]
    assert local_ticks(Cron("0 * * * *", zone="America/Havana"), "2026-11-01", 4) == [
        "01 00:00-0400",
        "01 00:00-0500",
        "01 01:00-0500",
        "01 02:00-0500",
    ]


def test_a_day_that_the_calendar_skips() -> None:
    # Samoa left out 30 December 2011: its time is that of the moment at which the 31st began.
    daily = Every("every day at 9am", zone="Pacific/Apia")
    assert local_ticks(daily, "2011-12-29", 47) == ["29 09:00-1000", "31 00:00+1400", "31 09:00+1400"]
    assert local_ticks(Every("every month on the 30th at 9am", zone="Pacific/Apia"), "2011-12-29", 60) == [
        "31 00:00+1400"
    ]
    hourly = local_ticks(Cron("0 * * * *", zone="Pacific/Apia"), "2011-12-29", 30)
    assert hourly[23:26] == ["29 23:00-1000", "31 00:00+1400", "31 01:00+1400"]


def test_winter_time_as_the_exception() -> None:
    # The database has Dublin's summer time as its standard time.
    at_1_30 = Every("day at 1:30", zone="Europe/Dublin")
    assert local_ticks(at_1_30, SPRING) == ["29 02:00+0100"]
    assert local_ticks(at_1_30, AUTUMN) == ["25 01:30+0100"]


def test_another_standard_time() -> None:
    # Kazakhstan went from UTC+6 to UTC+5 at midnight, for good.
    at_23_30 = Every("day at 23:30", zone="Asia/Almaty")
    assert local_ticks(at_23_30, "2024-02-29", 50) == ["29 23:30+0600", "01 23:30+0500"]
    # North Korea went from UTC+8:30 to UTC+9 at 23:30.
    assert local_ticks(Every("day at 23:45", zone="Asia/Pyongyang"), "2018-05-04", 30) == ["05 00:00+0900"]


def test_a_moment_within_an_overlap_counts_as_it_is() -> None:
    daily = Every("day at 2:30 and 2:45", zone="Europe/Rome")
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    second = first + timedelta(hours=1)

    assert daily.next_after(first) == first + timedelta(minutes=15)
    assert daily.next_after(second) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)
    assert daily.previous_before(second) == first + timedelta(minutes=15)
    assert daily.previous_before(first) == datetime(2026, 10, 24, 0, 45, tzinfo=UTC)


@pytest.mark.parametrize("late", [timedelta.resolution, timedelta(seconds=0.5), timedelta(seconds=1)], ids=str)
def test_shortly_after_a_change_the_earlier_ticks_are_those_of_the_earlier_offset(late: timedelta) -> None:
    change = datetime(2026, 3, 29, 1, tzinfo=UTC)
    in_the_gap = Cron("*/30 2 * * *", zone="Europe/Rome")
    before_it = Cron("*/30 1 * * *", zone="Europe/Rome")

    assert in_the_gap.previous_before(change + late) == datetime(2026, 3, 28, 1, 30, tzinfo=UTC)
    assert before_it.previous_before(change + late) == datetime(2026, 3, 29, 0, 30, tzinfo=UTC)
    assert in_the_gap.next_after(change - late) == datetime(2026, 3, 30, 0, 0, tzinfo=UTC)
    assert Cron("* 3 * * *", zone="Europe/Rome").next_after(change - late) == change


def test_offsets_of_seconds_are_kept() -> None:
    # Before time zones: the local time of Amsterdam was 19 min 32 s ahead of UTC.
    daily = Every("day at noon", zone="Europe/Amsterdam")
    tick = daily.next_after(datetime(1850, 1, 1, tzinfo=UTC))
    assert tick.astimezone(ZoneInfo("Europe/Amsterdam")).replace(tzinfo=None) == datetime(1850, 1, 1, 12)


def test_the_changes_of_a_year_are_found_at_its_ends_too() -> None:
    assert changes_in_year(ZoneInfo("Europe/Madrid"), 1901) == (datetime(1901, 1, 1, tzinfo=UTC),)
    assert changes_in_year(ZoneInfo("Europe/Madrid"), 1900) == ()
    assert len(changes_in_year(ZoneInfo("Europe/Madrid"), 9999)) == 2
    assert changes_in_year(ZoneInfo("Europe/Madrid"), 1) == ()
