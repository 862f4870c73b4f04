"""Cron expressions: what `Cron` accepts and refuses, and that it reads them as other programs do."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dexpy import Cron
from dexpy.errors import DeclarationError

START = datetime(2026, 2, 27, tzinfo=timezone.utc)  # a Friday
FIELDS = "(minute, hour, day of the month, month, day of the week)"
MEANINGS = {
    "0 3 * * *": "27 03:00, 28 03:00",
    "*/15 * * * *": "27 00:15, 27 00:30",
    "5/20 * * * *": "27 00:05, 27 00:25",
    "1-5/2,50 4 * * *": "27 04:01, 27 04:03",
    "0 9 * * 1-5": "27 09:00, 02 09:00",
    "0 9 * * mon-fri": "27 09:00, 02 09:00",
    "0 9 * * 0": "01 09:00, 08 09:00",
    "0 9 * * 7": "01 09:00, 08 09:00",
    "0 9 1 mar *": "01 09:00, 01 09:00",
    "0 0 13 * 5": "06 00:00, 13 00:00",  # the 13th, and each Friday
    "0 0 */2 * 5": "13 00:00, 27 00:00",  # a Friday with an odd day: a field begins with a star
    "0 0 L * *": "28 00:00, 31 00:00",
    "0 0 LW * *": "31 00:00, 30 00:00",
    "0 0 * * 5L": "27 00:00, 24 00:00",  # of March and April
    "0 0 * * MON#1": "02 00:00, 06 00:00",
    "0 0 29 2 *": "29 00:00, 29 00:00",
}
REFUSED = {
    "0 3 * *": f"expected five fields {FIELDS}, got 4. Write '*' for any value.",
    "0 0 3 * * *": f"expected five fields {FIELDS}, got 6. Pass seconds=True for seconds in the first field.",
    "0 0 0 3 * * *": f"expected five fields {FIELDS}, got 7. Write '*' for any value.",
    "61 * * * *": "invalid minute. Use values in the range of the field",
    "* 24 * * *": "invalid hour.",
    "* * 0 * *": "invalid day-of-month.",
    "* * 32 * *": "invalid day-of-month.",
    "* * * 13 *": "invalid month.",
    "* * * * 8": "invalid day-of-week.",
    "* * * * MOON": "invalid day-of-week.",
    "*/0 * * * *": "invalid minute.",
    "5-1 * * * *": "invalid minute.",
    "1,,2 * * * *": "invalid minute.",
    "* * * * 1#6": "invalid day-of-week.",
    "0 0 1--100000000 * *": "invalid day-of-month.",
    "0 0 30 2 *": "invalid day-of-month. Use values in the range of the field",
    "0 0 31 2,4,6,9,11 *": "invalid day-of-month.",
    "0 0 29 2 */7": "expected a tick in any period of 5 years, got one without. Choose other dates.",
    "0 0 * 2 MON#5": "expected a tick in any period of 5 years, got one without.",
    "* * */20 * 1L": "expected a tick in any period of 5 years, got one without.",
    "0 3 ? * *": f"expected five fields {FIELDS} of digits, names, '*', ',', '-', '/' and '#'. Write, for example,",
    "0 \u0663 * * *": "of digits, names",
    "0 3 * * ß": "of digits, names",
    "0 3 * * \0": "of digits, names",
    "TZ=UTC 0 3 * * *": "of digits, names",
    "": f"expected five fields {FIELDS} of digits",
    "every day": f"expected five fields {FIELDS}, got 2.",
    "@reboot": "unknown alias; expected one of '@annually', '@daily', '@hourly', '@midnight', '@monthly', '@weekly', ",
    "@dialy": "Did you mean '@daily'?",
    "@daily @daily": "unknown alias",
}


@pytest.mark.parametrize(("expression", "ticks"), MEANINGS.items(), ids=MEANINGS)
def test_an_expression_means_what_it_means_in_cron(expression: str, ticks: str) -> None:
    upcoming = Cron(expression).upcoming(START, 2)
    assert ", ".join(f"{tick:%d %H:%M}" for tick in upcoming) == ticks


@pytest.mark.parametrize(("expression", "problem"), REFUSED.items(), ids=map(ascii, REFUSED))
def test_another_expression_is_refused(expression: str, problem: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        Cron(expression)
    assert str(caught.value).startswith(f"Cron({expression!r}): ")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("alias", "expression"),
    {
        "@hourly": "0 * * * *",
        "@daily": "0 0 * * *",
        "@midnight": "0 0 * * *",
        "@weekly": "0 0 * * 0",
        "@monthly": "0 0 1 * *",
        "@yearly": "0 0 1 1 *",
        "@annually": "0 0 1 1 *",
    }.items(),
)
def test_an_alias_is_short_for_an_expression(alias: str, expression: str) -> None:
    schedule = Cron(alias.upper())
    assert str(schedule) == alias
    assert schedule.upcoming(START, 3) == Cron(expression).upcoming(START, 3)
    assert schedule.interval == Cron(expression).interval
    assert schedule.describe() == Cron(expression).describe()


def test_seconds_are_the_first_of_six_fields() -> None:
    schedule = Cron("*/20 30 3 * * *", seconds=True)
    assert [f"{tick:%d %H:%M:%S}" for tick in schedule.upcoming(START, 4)] == [
        "27 03:30:00",
        "27 03:30:20",
        "27 03:30:40",
        "28 03:30:00",
    ]


@pytest.mark.parametrize(
    ("expression", "seconds", "problem"),
    [
        ("0 3 * * *", True, r"expected six fields \(second, minute, .*\), got 5. Write the seconds first, or remove"),
        ("@daily", True, "expected six fields with seconds=True, got an alias. Remove seconds=True."),
        ("60 0 3 * * *", True, "invalid second."),
        ("0 3 * * *", 1, "seconds: expected True or False, got 1."),
        ("0 3 * * *", None, "seconds: expected True or False, got None."),
    ],
)
def test_seconds_are_checked(expression: str, seconds: bool, problem: str) -> None:
    with pytest.raises(DeclarationError, match=problem):
        Cron(expression, seconds=seconds)


@pytest.mark.parametrize("value", [None, 5, b"0 3 * * *", ("0", "3", "*", "*", "*")])
def test_a_value_of_another_type_is_refused(value: object) -> None:
    with pytest.raises(DeclarationError, match=f"expected a cron expression, got {type(value).__name__}. Write Cron"):
        Cron(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("expression", [f"{',' * 200_000} * * * *", "1," * 60 + "1 * * * *", f"0 3 * * {'1' * 10**6}"])
def test_a_long_expression_is_refused_before_it_is_read(expression: str) -> None:
    began = time.process_time()
    with pytest.raises(DeclarationError, match=r"expected at most 120 characters, got \d+. Use several") as caught:
        Cron(expression)
    assert time.process_time() - began < 0.5
    assert len(str(caught.value)) < 300


def test_120_characters_are_accepted() -> None:
    assert Cron("0 3 * * *".ljust(120)) == Cron("0 3 * * *")
    with pytest.raises(DeclarationError, match="expected at most 120 characters, got 121"):
        Cron("0 3 * * *".ljust(121))


def test_the_dearest_expressions_of_120_characters_are_read_in_time() -> None:
    began = time.process_time()
    for expression in ("*," * 55 + "* * * * *", "0 0 29 2 " + "*," * 55 + "*", "0 0 * * " + "1#5," * 27 + "1#5"):
        assert len(expression) <= 120
        try:
            Cron(expression).next_after(START)
        except DeclarationError:
            continue
    assert time.process_time() - began < 2


NUMBERS = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 7)}


def field(low: int, high: int) -> st.SearchStrategy[tuple[str, frozenset[int]]]:
    """A field of an expression and the values that it means."""
    everything = frozenset(range(low, high + 1))
    number = st.integers(low, high)
    span = st.tuples(number, number).map(sorted)
    return st.one_of(
        st.just(("*", everything)),
        st.sets(number, min_size=1, max_size=4).map(lambda few: (",".join(map(str, few)), frozenset(few))),
        span.map(lambda ends: (f"{ends[0]}-{ends[1]}", frozenset(range(ends[0], ends[1] + 1)))),
        st.integers(1, high).map(lambda step: (f"*/{step}", frozenset(range(low, high + 1, step)))),
        st.tuples(number, st.integers(1, high)).map(
            lambda pair: (f"{pair[0]}/{pair[1]}", frozenset(range(pair[0], high + 1, pair[1])))
        ),
    )


@settings(deadline=None)
@given(*(field(low, high) for low, high in NUMBERS.values()), st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)))
def test_the_next_and_the_previous_tick_are_those_of_a_search_by_days(
    minutes: tuple[str, frozenset[int]],
    hours: tuple[str, frozenset[int]],
    days: tuple[str, frozenset[int]],
    months: tuple[str, frozenset[int]],
    weekdays: tuple[str, frozenset[int]],
    moment: datetime,
) -> None:
    try:
        schedule = Cron(" ".join(text for text, _ in (minutes, hours, days, months, weekdays)))
    except DeclarationError:
        return
    times = [timedelta(hours=hour, minutes=minute) for hour in hours[1] for minute in minutes[1]]
    both = days[0].startswith("*") or weekdays[0].startswith("*")

    def has_day(day: datetime) -> bool:
        in_month, in_week = day.day in days[1], bool({day.isoweekday(), day.isoweekday() % 7} & weekdays[1])
        return day.month in months[1] and (in_month and in_week if both else in_month or in_week)

    def search(step: int) -> datetime:
        midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        while True:
            candidates = [midnight + time_of_day for time_of_day in times] if has_day(midnight) else []
            candidates = [tick for tick in candidates if (tick > moment if step > 0 else tick < moment)]
            if candidates:
                return min(candidates) if step > 0 else max(candidates)
            midnight += timedelta(days=step)

    aware = moment.replace(tzinfo=timezone.utc)
    assert schedule.next_after(aware).replace(tzinfo=None) == search(1)
    assert schedule.previous_before(aware).replace(tzinfo=None) == search(-1)


@settings(deadline=None)
@given(st.text(alphabet="0123456789*/,-#LWMON @\0é", max_size=30), st.booleans())
def test_any_text_is_a_schedule_with_ticks_or_refused(text: str, seconds: bool) -> None:
    try:
        schedule = Cron(text, seconds=seconds)
    except DeclarationError as error:
        assert str(error).isprintable()
        return
    assert Cron(str(schedule), seconds=seconds) == schedule
    assert schedule.next_after(START) > START
    assert schedule.interval > timedelta(0)
    assert schedule.describe().endswith(" (UTC).")
