"""Dates, times and durations: ISO text in JSON, except a timedelta, which is an int of microseconds."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from typing import Any

from dexpy.codec.problems import invalid_value
from dexpy.codec.simple_values import encoded_type
from dexpy.codec.strings import from_text, matching
from dexpy.foundation.errors import NotSerializable

_DATE = r"\d{4}-\d{2}-\d{2}"
_OFFSET = (
    r"(?:Z|(?P<sign>[+-])(?P<hours>\d{2}):(?P<minutes>\d{2})"
    r"(?::(?P<seconds>\d{2})(?:\.(?P<fraction>\d{1,6}))?)?)?"
)
_TIME = r"\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?" + _OFFSET
_DURATION = re.compile(
    r"(?P<sign>[+-])?P(?=[\dT])(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)(?:\.(?P<fraction>\d{1,6}))?S)?)?",
    re.ASCII,
)
_MICROSECOND = timedelta(microseconds=1)
_MICROSECONDS = "timedelta, as an int of microseconds"


def _write_iso(value: datetime | time) -> str:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise NotSerializable("has a time zone without an offset, which JSON does not preserve: use a fixed offset")
    return value.isoformat(timespec="microseconds")


def _moment_key(value: datetime) -> Any:
    """Return an aware datetime in UTC, and a naive one unchanged."""
    offset = value.utcoffset()
    if offset is None:
        return _write_iso(value)
    try:
        return _write_iso((value.replace(tzinfo=None) - offset).replace(tzinfo=timezone.utc))
    except OverflowError:  # its year in UTC is before 1 or after 9999
        return f"{(value.replace(tzinfo=None) - datetime.min - offset) // _MICROSECOND} us"


def _time_key(value: time) -> Any:
    """Return an aware time as microseconds from midnight in UTC, perhaps of another day; a naive one unchanged."""
    offset = value.utcoffset()
    if offset is None:
        return _write_iso(value)
    since = timedelta(hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond)
    return f"{(since - offset) // _MICROSECOND} us"


def _iso_reader(cls: type[datetime] | type[time], pattern: str) -> Callable[[str], Any]:
    matches = re.compile(pattern, re.ASCII).fullmatch

    def read(text: str) -> Any:
        match = matches(text)
        if match is None:
            raise ValueError
        if match["fraction"] is None:
            return cls.fromisoformat(text)
        # `fromisoformat` reads an offset of less than a second as UTC
        local = cls.fromisoformat(text[: match.start("sign")])
        return local.replace(tzinfo=timezone(_amount(match, "hours", "minutes", "seconds")))

    return read


def _read_duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError
    return _amount(match, "weeks", "days", "hours", "minutes", "seconds")


def _amount(match: re.Match[str], *units: str) -> timedelta:
    """Return the signed sum of the matched units and the fraction of a second."""
    values = {unit: int(match[unit] or 0) for unit in units}
    amount = timedelta(**values, microseconds=int((match["fraction"] or "").ljust(6, "0")))
    return -amount if match["sign"] == "-" else amount


def _write_timedelta(value: timedelta) -> int:
    return value // _MICROSECOND


def _decode_timedelta(value: Any, _: Any = None) -> timedelta:
    if type(value) is int:
        try:
            return timedelta(microseconds=value)
        except OverflowError:
            pass
    raise invalid_value(_MICROSECONDS, value)


def _parse_timedelta(value: Any) -> Any:
    return _duration_text(value) if type(value) is str else _decode_timedelta(value)


_duration_text = from_text(_read_duration, f"{_MICROSECONDS} or ISO text such as 'PT1H30M'")

TIMES = {
    date: encoded_type(
        date,
        ["string"],
        encode_value=date.isoformat,
        decode=from_text(matching(_DATE, date.fromisoformat), "ISO date text"),
    ),
    datetime: encoded_type(
        datetime,
        ["string"],
        encode_value=_write_iso,
        decode=from_text(_iso_reader(datetime, f"{_DATE}T{_TIME}"), "ISO datetime text"),
        encode_for_key=_moment_key,
    ),
    time: encoded_type(
        time,
        ["string"],
        encode_value=_write_iso,
        decode=from_text(_iso_reader(time, _TIME), "ISO time text"),
        encode_for_key=_time_key,
    ),
    timedelta: encoded_type(
        timedelta,
        ["integer"],
        encode_value=_write_timedelta,
        decode=_decode_timedelta,
        parse_json=_parse_timedelta,
    ),
}
