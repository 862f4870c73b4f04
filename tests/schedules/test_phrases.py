"""The grammar of `Every`: what it accepts, what it means, and what it says when it refuses."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dexpy import Every
from dexpy.errors import DeclarationError
from dexpy.schedules.phrases import FORMS

START = datetime(2026, 2, 27, tzinfo=timezone.utc)  # a Friday
MEANINGS = {
    "every 30 seconds": "27 00:00:30, 27 00:01:00",
    "every second": "27 00:00:01, 27 00:00:02",
    "every minute": "27 00:01:00, 27 00:02:00",
    "every 1 minutes": "27 00:01:00, 27 00:02:00",
    "every 15 minutes": "27 00:15:00, 27 00:30:00",
    "every 90 minutes": "27 01:30:00, 27 03:00:00",
    "every hour": "27 01:00:00, 27 02:00:00",
    "every 2 hours": "27 02:00:00, 27 04:00:00",
    "every day": "28 00:00:00, 01 00:00:00",
    "every 1 day": "28 00:00:00, 01 00:00:00",
    "every day at midnight": "28 00:00:00, 01 00:00:00",
    "every day at 12am": "28 00:00:00, 01 00:00:00",
    "every day at 0:00": "28 00:00:00, 01 00:00:00",
    "every day at noon": "27 12:00:00, 28 12:00:00",
    "every day at 12pm": "27 12:00:00, 28 12:00:00",
    "every day at 3am": "27 03:00:00, 28 03:00:00",
    "every day at 3:30pm": "27 15:30:00, 28 15:30:00",
    "every day at 15:30": "27 15:30:00, 28 15:30:00",
    "every day at 09:05": "27 09:05:00, 28 09:05:00",
    "every day at 17:00 and 9:00": "27 09:00:00, 27 17:00:00",
    "every day at 9:00, noon and 11pm": "27 09:00:00, 27 12:00:00",
    "every day at 9:00,noon, and 11pm": "27 09:00:00, 27 12:00:00",
    "every 2 days": "28 00:00:00, 02 00:00:00",
    "every 2 days at 6:00": "28 06:00:00, 02 06:00:00",
    "every week": "02 00:00:00, 09 00:00:00",
    "every 2 weeks at 9am": "02 09:00:00, 16 09:00:00",
    "every monday at 9am": "02 09:00:00, 09 09:00:00",
    "every monday and thursday at 9:00": "02 09:00:00, 05 09:00:00",
    "every tuesday, wednesday and sunday at 9:00": "01 09:00:00, 03 09:00:00",
    "every weekday at 9am": "27 09:00:00, 02 09:00:00",
    "every weekend at 10:00": "28 10:00:00, 01 10:00:00",
    "every month on the 1st at 3am": "01 03:00:00, 01 03:00:00",
    "every month on the 1st and 15th at 3am": "01 03:00:00, 15 03:00:00",
    "every month on 2nd, 3rd and the 4th at 3am": "02 03:00:00, 03 03:00:00",
    "every month on the last day at 23:00": "28 23:00:00, 31 23:00:00",
    "every month on the 30th and the last day at 23:00": "28 23:00:00, 30 23:00:00",
    "every month on the 31st at noon": "31 12:00:00, 31 12:00:00",
}
NO_PHRASES = {
    "every month": "expected 'on' after 'month', got the end of the phrase",
    "every monday": "expected 'at' after 'monday', got the end of the phrase",
    "every day 3am": "expected 'at' after 'day', got '3am'",
    "every sunday on 9am": "expected 'at' after 'sunday', got 'on'",
    "every day at": "expected a time such as '9:00', '3am', '3:30pm', 'noon' or 'midnight' after 'at', got the end of",
    "every day at 3": "'noon' or 'midnight' after 'at', got '3'",
    "every day at 24:00": "got '24:00'",
    "every day at 9:60": "got '9:60'",
    "every day at 9:5": "got '9:5'",
    "every day at 13pm": "got '13pm'",
    "every day at 0am": "got '0am'",
    "every day at 3 am": "got '3'",
    "every day at \uff13am": "got '\uff13am'",
    "every day at 9:00 and": "after 'and', got the end of the phrase",
    "every day at 9:00 and 9am": "'9am' is repeated",
    "every monday and monday at 9am": "'monday' is repeated",
    "every monday and weekday at 9am": "after 'and', got 'weekday'",
    "every day at 3am daily": "expected the end of the phrase after '3am', got 'daily'",
    "every hour at 3am": "expected no time of day after 'hour', got 'at'",
    "every 0 minutes": "expected a number of 1 or more, got 0",
    "every -5 minutes": "got '-5'",
    "every 1.5 hours": "got '1.5'",
    "every \u0663 minutes": "got '\u0663'",
    "every 5": "expected one of 'day', 'hour', 'minute', 'second', 'week' after '5', got the end of the phrase",
    "every 2 months": "after '2', got 'months'",
    "every 1831 days": "expected a distance of at most five years, got 1831 days",
    "every 999999999 weeks": "expected a distance of at most five years, got 999999999 weeks",
    "every month on the 0th at 3am": "expected a day from '1st' to '31st' or 'last day' after 'the', got '0th'",
    "every month on the 32nd at 3am": "got '32nd'",
    "every month on the 1th at 3am": "expected '1st' after 'the', got '1th'",
    "every month on the 12nd at 3am": "expected '12th' after 'the', got '12nd'",
    "every month on the last monday at 3am": "expected 'day' after 'last', got 'monday'",
    "every other day": "'weekday', 'weekend' or 'month', got 'other'",
    "every": "got the end of the phrase",
    "": "got the end of the phrase",
    "every every day": "got 'every'",
    "every minute\0": r"got 'minute\\x00'",
    "every \ud800": r"got '\\ud800'",
}


def format_ticks(schedule: Every) -> str:
    return ", ".join(f"{tick:%d %H:%M:%S}" for tick in schedule.upcoming(START, 2))


@pytest.mark.parametrize(("phrase", "ticks"), MEANINGS.items(), ids=MEANINGS)
def test_a_phrase_is_accepted_in_any_case_and_without_every(phrase: str, ticks: str) -> None:
    schedule = Every(phrase)
    assert format_ticks(schedule) == ticks
    for other in (phrase.upper(), phrase.removeprefix("every "), f"  {phrase}\n".replace(" ", "\t  ")):
        assert Every(other) == schedule


@pytest.mark.parametrize("phrase", FORMS)
def test_every_form_in_messages_is_valid(phrase: str) -> None:
    assert str(Every(phrase)) == phrase


@pytest.mark.parametrize(("phrase", "problem"), NO_PHRASES.items(), ids=map(ascii, NO_PHRASES))
def test_another_text_is_refused_with_what_was_expected_and_three_valid_forms(phrase: str, problem: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        Every(phrase)

    message = str(caught.value)
    subject, _, rest = message.partition(": ")
    assert subject == f"Every({phrase!r})"
    assert problem.replace("\\\\", "\\") in rest
    forms = rest.partition(" Write, for example, ")[2].removesuffix(".").replace(" or ", ", ").split("', '")
    assert len(forms) == 3
    for form in forms:
        Every(form.strip("'"))


@pytest.mark.parametrize(
    ("phrase", "corrected"),
    {
        "evry 5 minuts": "every 5 minutes",
        "every monday and thursdey at 9:00": "every monday and thursday at 9:00",
        "evry munth on teh 3rd at 4pm": "every month on the 3rd at 4pm",
        "wekday at 9:00": "every weekday at 9:00",
        "every day att 3am": "every day at 3am",
        "every monday": "every monday at 9am",
        "every weekend": "every weekend at 10:00",
        "every day at 3 pm": "every day at 3:30pm",
        "every 45 min": "every 15 minutes",
        "every month on the last friday at 9am": "every month on the last day at 23:00",
    }.items(),
)
def test_the_forms_in_a_message_are_near_to_the_text(phrase: str, corrected: str) -> None:
    with pytest.raises(DeclarationError, match=f"Write, for example, .*'{corrected}'"):
        Every(phrase)


@pytest.mark.parametrize("text", ["0 3 * * *", "*/5 * * * *", "@daily", "1,2 3-4 * * MON"])
def test_a_cron_expression_is_refused_with_the_other_class(text: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        Every(text)
    assert str(caught.value) == f"Every({text!r}): expected a phrase, got a cron expression. Write Cron({text!r})."


@pytest.mark.parametrize("value", [None, 15, b"every day", timedelta(minutes=15), ["every day"]])
def test_a_value_of_another_type_is_refused(value: object) -> None:
    with pytest.raises(DeclarationError, match=f"expected a phrase, got {type(value).__name__}. Write Every"):
        Every(value)  # type: ignore[arg-type]


def test_a_long_phrase_is_refused_before_it_is_read() -> None:
    with pytest.raises(
        DeclarationError, match="expected at most 200 characters, got 1000000. Use several schedules"
    ) as caught:
        Every("every day at 9:00" + " and 9:00" * 111_109 + "at")
    assert len(str(caught.value)) < 300
    assert Every("every day".ljust(200)) == Every("every day")
    with pytest.raises(DeclarationError, match="expected at most 200 characters, got 201"):
        Every("every day".ljust(201))


TIMES = st.builds(
    lambda hour, minute, form: form(hour, minute),
    st.integers(0, 23),
    st.integers(0, 59),
    st.sampled_from(
        [
            lambda hour, minute: f"{hour}:{minute:02}",
            lambda hour, minute: f"{hour:02}:{minute:02}",
            lambda hour, minute: f"{hour % 12 or 12}:{minute:02}{'pm' if hour > 11 else 'am'}",
        ]
    ),
)
LISTS = st.lists(TIMES, min_size=1, max_size=5)
WEEKDAYS = st.sets(
    st.sampled_from(["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]), min_size=1
)
MONTH_DAYS = st.sets(
    st.sampled_from(["the 1st", "2nd", "the 3rd", "11th", "the 22nd", "the 31st", "the last day"]), min_size=1
)
DAYS = st.one_of(
    st.integers(1, 1830).map(lambda count: f"every {count} days"),
    st.integers(1, 200).map(lambda count: f"every {count} weeks"),
    WEEKDAYS.map(lambda days: f"every {', '.join(sorted(days))}"),
    MONTH_DAYS.map(lambda days: f"every month on {' and '.join(sorted(days))}"),
    st.sampled_from(["every day", "every week", "every weekday", "every weekend"]),
)


def minutes_of(text: str) -> int:
    """A time of day in minutes, read by the standard library."""
    moment = datetime.strptime(text, "%I:%M%p" if text.endswith("m") else "%H:%M")
    return moment.hour * 60 + moment.minute


@settings(deadline=None)
@given(DAYS, LISTS)
def test_a_phrase_has_exactly_its_times_of_day(days: str, times: list[str]) -> None:
    expected = {minutes_of(text) for text in times}
    if len(expected) < len(times):
        with pytest.raises(DeclarationError, match="is repeated"):
            Every(f"{days} at {', '.join(times)}")
        return
    schedule = Every(f"{days} at {', '.join(times)}")

    assert str(Every(str(schedule))) == str(schedule)
    ticks = schedule.upcoming(START.replace(year=2020), 2 * len(times))
    assert {tick.hour * 60 + tick.minute for tick in ticks} == expected
    assert len({tick.date() for tick in ticks}) in (2, 3)
    assert ticks == sorted(set(ticks))


@settings(deadline=None)
@given(st.integers(1, 10**6), st.sampled_from(["second", "minute", "hour"]))
def test_an_interval_has_its_length(count: int, unit: str) -> None:
    length = count * timedelta(**{f"{unit}s": 1})
    if length > timedelta(days=1830):
        with pytest.raises(DeclarationError, match="at most five years"):
            Every(f"every {count} {unit}s")
        return
    schedule = Every(f"every {count} {unit}s")
    first, second = schedule.upcoming(START, 2)
    assert second - first == schedule.interval == length
    assert (first - datetime(1970, 1, 1, tzinfo=timezone.utc)) % length == timedelta(0)


WORDS = st.sampled_from(
    "every 1 15 minutes hours day week month on the 1st last at 3am 9:00 noon and , monday weekday x \0 ß".split(" ")
)


@settings(deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=9).map(" ".join)))
def test_any_text_is_a_schedule_with_ticks_or_refused(text: str) -> None:
    try:
        schedule = Every(text)
    except DeclarationError as error:
        assert str(error).isprintable()
        return
    assert Every(str(schedule)) == schedule
    assert schedule.next_after(START) > START
    assert schedule.interval > timedelta(0)
    assert schedule.describe().endswith(".")
