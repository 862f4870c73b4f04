"""Schedules as values: ticks, zones, distances, and their forms as text."""

from __future__ import annotations

import copy
import enum
import pickle
import subprocess
import sys
import zoneinfo
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dexpy import Cron, Every
from dexpy.errors import DeclarationError, OptionsError
from dexpy.schedules.text import parse_schedule, schedule_from_json

UTC = timezone.utc
START = datetime(2026, 2, 27, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = (timedelta(**{unit: 1}) for unit in ("seconds", "minutes", "hours", "days"))
SCHEDULES = [
    Every("every 7 minutes"),
    Every("every day at 2:30am and 11pm", zone="Europe/Rome"),
    Every("every month on the 31st and the last day at noon", zone="America/New_York"),
    Cron("*/20 * * * *", zone="Asia/Kathmandu"),
    Cron("0 2 * * MON-FRI", zone="Australia/Lord_Howe"),
    Cron("*/40 59 23 L * *", zone="Africa/Cairo", seconds=True),
]
"""One of each kind."""
MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@settings(deadline=None)
@given(moment=MOMENTS)
def test_the_neighbours_of_a_moment_are_neighbours_of_each_other(schedule: Every | Cron, moment: datetime) -> None:
    after, before = schedule.next_after(moment), schedule.previous_before(moment)
    assert before < moment < after
    assert after.tzinfo is before.tzinfo is UTC
    assert schedule.ticks_between(before, after, limit=9) == [
        *schedule.ticks_between(before, moment, limit=9),
        after,
    ]
    assert schedule.next_after(before) in (moment, after)
    assert schedule.previous_before(after) in (moment, before)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_tick_is_not_after_itself(schedule: Every | Cron) -> None:
    tick = schedule.next_after(START)
    assert schedule.next_after(tick) > tick
    assert schedule.previous_before(tick) < tick
    assert schedule.next_after(tick - timedelta.resolution) == tick
    assert schedule.previous_before(tick + timedelta.resolution) == tick


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_moment_counts_in_any_zone(schedule: Every | Cron) -> None:
    local = START.astimezone(zoneinfo.ZoneInfo("America/Caracas"))
    assert schedule.next_after(local) == schedule.next_after(START)
    assert schedule.previous_before(local) == schedule.previous_before(START)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_upcoming_ticks_are_those_found_one_by_one(schedule: Every | Cron) -> None:
    ticks = schedule.upcoming(START, 30)
    tick = START
    for expected in ticks:
        tick = schedule.next_after(tick)
        assert tick == expected
    assert schedule.ticks_between(START, ticks[-1], limit=1000) == ticks
    assert schedule.ticks_between(START, ticks[-1] - timedelta.resolution, limit=1000) == ticks[:-1]
    assert schedule.ticks_between(START, ticks[-1], limit=4) == ticks[:4]
    assert schedule.count_between(START, ticks[-1], limit=1000) == 30
    assert schedule.count_between(ticks[0], ticks[-1], limit=1000) == 29
    assert schedule.count_between(START, ticks[-1], limit=4) == 4
    assert schedule.count_between(ticks[-1], START, limit=4) == 0
    assert schedule.upcoming(START, 0) == []


def test_the_ticks_of_an_interval_are_counted_at_once() -> None:
    seconds = Every("every second")
    start, end = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
    assert seconds.count_between(start, end, limit=10**12) == (end - start) // SECOND
    assert seconds.count_between(start, end, limit=1000) == 1000
    assert seconds.count_between(end, start, limit=1000) == 0


@pytest.mark.parametrize(
    ("schedule", "interval"),
    [
        (Every("every 7 minutes"), 7 * MINUTE),
        (Every("every 36 hours"), 36 * HOUR),
        (Every("every day"), DAY),
        (Every("every 3 days"), 3 * DAY),
        (Every("every 1830 days"), 1830 * DAY),
        (Every("every 2 weeks"), 14 * DAY),
        (Every("every day at 9:00 and 17:30"), 8 * HOUR + 30 * MINUTE),
        (Every("every day at 0:10 and 23:50"), 20 * MINUTE),
        (Every("every monday at 0:10 and 23:50"), 23 * HOUR + 40 * MINUTE),
        (Every("every monday and thursday at 9:00"), 3 * DAY),
        (Every("every monday and friday at 9:00"), 3 * DAY),
        (Every("every weekday at 9am"), DAY),
        (Every("every weekend at 9am"), DAY),
        (Every("every month on the 1st at 3am"), 28 * DAY),
        (Every("every month on the 1st and the last day at 3am"), DAY),
        (Every("every month on the 31st at 3am"), 31 * DAY),
        (Cron("* * * * *"), MINUTE),
        (Cron("*/7 * * * *"), 4 * MINUTE),
        (Cron("*/15 9-17 * * 1-5"), 15 * MINUTE),
        (Cron("0,59 0,23 * * *"), MINUTE),
        (Cron("0,59 0,23 * * 1"), 59 * MINUTE),
        (Cron("0 0 13 * 5"), DAY),
        (Cron("0 0 1 1 *"), 365 * DAY),
        (Cron("0 0 29 2 *"), 1461 * DAY),
        (Cron("*/7 * * * * *", seconds=True), 4 * SECOND),
        (Cron("0,59 59,0 23,0 * * *", seconds=True), SECOND),
        (Cron("30 0 3 * * 2", seconds=True), 7 * DAY),
    ],
    ids=str,
)
def test_the_interval_is_the_smallest_distance_of_two_ticks(schedule: Every | Cron, interval: timedelta) -> None:
    assert schedule.interval == interval
    assert schedule.with_zone("Europe/Rome").interval == interval


@settings(deadline=None)
@given(st.sampled_from(SCHEDULES), MOMENTS)
def test_no_two_ticks_are_nearer_without_a_change_of_the_clock(schedule: Every | Cron, moment: datetime) -> None:
    ticks = schedule_from_json(schedule.to_json(), zone="UTC").upcoming(moment, 10)
    assert min(later - tick for tick, later in pairwise(ticks)) >= schedule.interval


def test_the_default_zone_applies_to_a_schedule_without_one() -> None:
    bare, zoned = Every("every day at 3am"), Every("every day at 3am", zone="Asia/Tokyo")
    assert bare.with_zone("Europe/Rome") == Every("every day at 3am", zone="Europe/Rome")
    assert zoned.with_zone("Europe/Rome") is zoned
    assert bare.with_zone(None) is bare
    assert bare.next_after(START) == START + 3 * HOUR
    assert bare.with_zone("Europe/Rome").next_after(START) == START + 2 * HOUR
    assert Cron("0 0 3 * * *", seconds=True).with_zone("Asia/Tokyo") == Cron(
        "0 0 3 * * *", zone="Asia/Tokyo", seconds=True
    )
    with pytest.raises(DeclarationError, match="unknown time zone"):
        bare.with_zone("Europe/Rmoe")


NO_ZONES = {
    "Europe/Rmoe": "Did you mean 'Europe/Rome'?",
    "europe/rome": "Did you mean 'Europe/Rome'?",
    "Rome": "Did you mean 'Europe/Rome'?",
    "america/new york": "Did you mean 'America/New_York'?",
    "utc": "Did you mean 'UTC'?",
    "CEST": "such as 'Europe/Rome' or 'UTC'.",
    "Europe": "such as 'Europe/Rome' or 'UTC'.",
    "localtime": "such as 'Europe/Rome' or 'UTC'.",
    "posixrules": "such as 'Europe/Rome' or 'UTC'.",
    "right/Europe/Rome": "Did you mean 'Europe/Rome'?",
    "posix/Europe/Rome": "Did you mean 'Europe/Rome'?",
    "../../etc/passwd": "such as 'Europe/Rome' or 'UTC'.",
    "/etc/passwd": "such as 'Europe/Rome' or 'UTC'.",
    "tzdata.zi": "such as 'Europe/Rome' or 'UTC'.",
    "leapseconds": "such as 'Europe/Rome' or 'UTC'.",
    "+02:00": "such as 'Europe/Rome' or 'UTC'.",
    "Europe/Rome\0": "such as 'Europe/Rome' or 'UTC'.",
    "Europe/Rome\n": "such as 'Europe/Rome' or 'UTC'.",
    "\ud800": "such as 'Europe/Rome' or 'UTC'.",
    "": "such as 'Europe/Rome' or 'UTC'.",
    "x" * 100_000: "such as 'Europe/Rome' or 'UTC'.",
}


@pytest.mark.parametrize(("name", "advice"), NO_ZONES.items(), ids=[ascii(name)[:20] for name in NO_ZONES])
def test_an_unknown_zone_is_refused(name: str, advice: str) -> None:
    for declare in (lambda: Every("day at 3am", zone=name), lambda: Cron("0 3 * * *", zone=name)):
        with pytest.raises(DeclarationError, match="unknown time zone; expected a name of the IANA database") as caught:
            declare()
        message = str(caught.value)
        assert message.startswith(("Every('day at 3am'): zone=", "Cron('0 3 * * *'): zone="))
        assert advice in message
        assert message.isprintable()
        assert len(message) < 400


@pytest.mark.parametrize("zone", [5, b"UTC", UTC, zoneinfo.ZoneInfo("Europe/Rome"), ("UTC",)])
def test_a_zone_of_another_type_is_refused(zone: Any) -> None:
    with pytest.raises(DeclarationError, match="expected the name of a time zone, got .* Write zone='Europe/Rome'"):
        Every("every day", zone=zone)


def test_without_a_zone_database_a_zone_is_refused_with_the_command_that_installs_it(tmp_path: Path) -> None:
    program = f"""
import sys, zoneinfo
sys.modules["tzdata"] = None
zoneinfo.reset_tzpath([{str(tmp_path)!r}])
from dexpy import Cron, Every
from dexpy.errors import ConfigurationError
print(Every("every day at 3am", zone="UTC").describe())
try:
    Cron("0 3 * * *", zone="Europe/Rome")
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == [
        "Every day at 03:00 (UTC).",
        "Cron('0 3 * * *'): zone='Europe/Rome': the time zone database is not installed. Run: pip install tzdata",
    ]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_naive_moment_is_refused(schedule: Every | Cron) -> None:
    naive: Any
    for naive in (datetime(2026, 1, 1), "2026-01-01", None, START.date(), 0):
        for method in (schedule.next_after, schedule.previous_before):
            with pytest.raises(OptionsError, match=rf"{method.__name__}\(\): expected an aware datetime, got "):
                method(naive)
        with pytest.raises(OptionsError, match=r"upcoming\(\): expected an aware datetime"):
            schedule.upcoming(naive, 1)
        with pytest.raises(OptionsError, match=r"_between\(\): expected an aware datetime"):
            schedule.count_between(START, naive, limit=1)
        with pytest.raises(OptionsError, match=r"ticks_between\(\): expected an aware datetime"):
            schedule.ticks_between(naive, START, limit=1)


@pytest.mark.parametrize("count", [-1, 1.0, True, None, "3"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_number_of_ticks_is_checked(schedule: Every | Cron, count: Any) -> None:
    with pytest.raises(OptionsError, match=r"upcoming\(count=.*\): expected an int of 0 or more"):
        schedule.upcoming(START, count)
    with pytest.raises(OptionsError, match=r"ticks_between\(limit=.*\): expected an int of 0 or more"):
        schedule.ticks_between(START, START, limit=count)
    with pytest.raises(OptionsError, match=r"_between\(limit=.*\): expected an int of 0 or more"):
        schedule.count_between(START, START, limit=count)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("zone", ["UTC", "Europe/Rome", "America/Los_Angeles", "Pacific/Kiritimati"])
def test_the_first_and_the_last_year_have_an_end(schedule: Every | Cron, zone: str) -> None:
    local = schedule_from_json(schedule.to_json(), zone=zone)
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    with pytest.raises(
        OptionsError, match=r"no tick after 9999-12-31T23:59:59.999999\+00:00 within the years 1 to 9999"
    ):
        local.next_after(last)
    with pytest.raises(OptionsError, match=r"no tick before 0001-01-01T00:00:00\+00:00 within the years 1 to 9999"):
        local.previous_before(first)
    late = local.upcoming(last - 60 * DAY, 10**6)
    assert late == sorted(set(late))
    assert late[-1] > last - 33 * DAY
    assert local.count_between(last - 60 * DAY, last, limit=10**6) == len(late)
    assert local.next_after(first + 3 * DAY) < first + 70 * DAY
    assert local.previous_before(last - 3 * DAY) > last - 70 * DAY


@pytest.mark.parametrize("schedule", [Cron("0 0 29 2 *"), Cron("0 0 1 1 *"), Every("every 1830 days")], ids=str)
def test_a_rare_schedule_ends_in_the_first_and_in_the_last_year(schedule: Every | Cron) -> None:
    last = schedule.upcoming(datetime(9985, 1, 1, tzinfo=UTC), 100)
    assert 2 <= len(last) <= 15
    with pytest.raises(OptionsError, match="no tick after"):
        schedule.next_after(last[-1])
    first = schedule.next_after(datetime(1, 1, 2, tzinfo=UTC))
    assert schedule.with_zone("Europe/Rome").upcoming(last[0] - DAY, 100)[-1].date() in (
        last[-1].date(),
        last[-1].date() - DAY,
    )
    while first > datetime(1, 1, 1, tzinfo=UTC) + 2 * 1830 * DAY:
        first = schedule.previous_before(first)
    with pytest.raises(OptionsError, match="no tick before"):
        while True:
            first = schedule.previous_before(first)


def test_the_last_and_the_first_day_have_ticks() -> None:
    daily = Every("every day at noon")
    assert daily.upcoming(datetime(9999, 12, 30, 13, tzinfo=UTC), 9) == [datetime(9999, 12, 31, 12, tzinfo=UTC)]
    assert daily.previous_before(datetime(1, 1, 2, tzinfo=UTC)) == datetime(1, 1, 1, 12, tzinfo=UTC)


def test_a_moment_outside_of_the_years_in_utc_is_refused() -> None:
    late = datetime(9999, 12, 31, 23, tzinfo=timezone(-5 * HOUR))
    with pytest.raises(OptionsError, match="within the years 1 to 9999 in UTC"):
        Every("every day").next_after(late)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_schedule_is_a_value(schedule: Every | Cron) -> None:
    same = copy.deepcopy(schedule)
    assert pickle.loads(pickle.dumps(schedule)) == schedule == same  # noqa: S301 - its own pickle
    assert hash(schedule) == hash(same)
    assert eval(repr(schedule), {"Every": Every, "Cron": Cron}) == schedule  # noqa: S307 - its own repr
    assert schedule != schedule_from_json(schedule.to_json(), zone="Asia/Tokyo")
    assert schedule != str(schedule)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        schedule.zone = "UTC"  # type: ignore[misc]


def test_members_of_an_enum_of_texts_become_plain_texts() -> None:
    class Names(enum.StrEnum):
        NIGHTLY = "every day at 3am"
        CRON = "0 3 * * *"
        ROME = "Europe/Rome"

    nightly, cron = Every(Names.NIGHTLY, zone=Names.ROME), Cron(Names.CRON, zone=Names.ROME)
    assert {type(text) for text in (nightly.phrase, nightly.zone, cron.expression, cron.zone)} == {str}
    assert parse_schedule(Names.CRON, zone=Names.ROME) == cron


def test_a_cron_with_seconds_differs_from_one_without() -> None:
    assert len({Cron("0 3 * * *"), Cron("0 3 * * *", zone="UTC"), Every("every day at 3am"), Cron("@daily")}) == 4


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_the_stored_text_is_read_back(schedule: Every | Cron) -> None:
    assert schedule_from_json(schedule.to_json(), zone=schedule.zone) == schedule
    assert parse_schedule(schedule.to_json(), zone=schedule.zone) == schedule


def test_the_stored_text_does_not_change() -> None:
    assert [schedule.to_json() for schedule in SCHEDULES] == [
        "every 7 minutes",
        "every day at 2:30am and 11pm",
        "every month on the 31st and the last day at noon",
        "cron */20 * * * *",
        "cron 0 2 * * MON-FRI",
        "cron-seconds */40 59 23 L * *",
    ]
    assert Cron("@Daily").to_json() == "cron @daily"


TEXTS = {
    "every 15 minutes": Every("every 15 minutes"),
    "15 minutes": Every("every 15 minutes"),
    "Weekday at 9am": Every("every weekday at 9am"),
    "0 3 * * *": Cron("0 3 * * *"),
    " */5 9-17 * * mon-fri ": Cron("*/5 9-17 * * MON-FRI"),
    "@hourly": Cron("@hourly"),
    "cron 0 3 * * *": Cron("0 3 * * *"),
    "CRON\t0 3 * * *\n": Cron("0 3 * * *"),
    "cron @daily": Cron("@daily"),
    "cron-seconds 0 0 3 * * *": Cron("0 0 3 * * *", seconds=True),
}


@pytest.mark.parametrize(("text", "schedule"), TEXTS.items(), ids=map(repr, TEXTS))
def test_a_text_of_a_configuration_file_is_a_phrase_or_an_expression(text: str, schedule: Every | Cron) -> None:
    assert parse_schedule(text) == schedule
    assert parse_schedule(text, zone="Europe/Rome") == schedule.with_zone("Europe/Rome")


@pytest.mark.parametrize(
    ("text", "problem"),
    {
        "0 3 * *": r"Cron\('0 3 \* \*'\): expected five fields",
        "* *": r"Cron\('\* \*'\): expected five fields",
        "0 0 3 * * *": r"Cron\(.*\): expected five fields .*, got 6. Pass seconds=True",
        "5 monday": r"Every\('5 monday'\): expected one of 'day'",
        "daily": r"Every\('daily'\): .*Write, for example, 'every day'",
        "cron": r"Every\('cron'\): ",
        "cron every day": r"Cron\('every day'\): expected five fields",
        "": r"Every\(''\): ",
        7: r"schedule=7: expected a text, got int. Write 'every 15 minutes' or '0 3 \* \* \*'.",
        None: "schedule=None: expected a text, got NoneType",
    }.items(),
)
def test_a_text_that_is_neither_is_refused(text: Any, problem: str) -> None:
    with pytest.raises(DeclarationError, match=problem):
        parse_schedule(text)


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        (Every("every 15 minutes", zone="Europe/Rome"), "Every 15 minutes, counted from 1970-01-01 in UTC."),
        (Every("every day"), "Every day at 00:00 (UTC)."),
        (Every("3 days at 6am"), "Every 3 days at 06:00, counted from 1970-01-01 (UTC)."),
        (Every("every week"), "Every Monday at 00:00 (UTC)."),
        (Every("every 2 weeks"), "Every 2 weeks on Monday at 00:00, counted from 1970-01-05 (UTC)."),
        (
            Every("thursday and monday at 5pm and 9am", zone="Europe/Rome"),
            "Every Monday and Thursday at 09:00 and 17:00 (Europe/Rome).",
        ),
        (
            Every("month on the 31st, the last day and the 30th at noon"),
            "Every month on the 30th, the 31st and the last day at 12:00, in months that have a 30th or 31st (UTC).",
        ),
        (Cron("*/5 * * * *"), "Every fifth minute of every hour (UTC)."),
        (Cron("0 3 * * *", zone="Europe/Rome"), "At 03:00 every day (Europe/Rome)."),
    ],
    ids=str,
)
def test_a_schedule_is_described_in_a_sentence(schedule: Every | Cron, sentence: str) -> None:
    assert schedule.describe() == sentence


def test_phrases_need_no_cronsim_and_declaring_needs_no_zone_database() -> None:
    program = """
import sys
from dexpy import Cron, Every
Every("every day at 3am").describe()
assert not {"cronsim", "zoneinfo"} & sys.modules.keys()
Cron("0 3 * * *")
assert "cronsim" in sys.modules and "zoneinfo" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
