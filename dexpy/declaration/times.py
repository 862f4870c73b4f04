"""Dates, times and durations: ISO text in JSON, but for a timedelta, which is an int of microseconds."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from typing import Any

from dexpy.declaration.misfits import misfit
from dexpy.declaration.shapes import written
from dexpy.declaration.texts import from_text, matching
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
        raise NotSerializable("has a time zone without an offset, which would not come back: use a fixed offset")
    return value.isoformat(timespec="microseconds")


def _iso_reader(cls: type[datetime] | type[time], pattern: str) -> Callable[[str], Any]:
    matches = re.compile(pattern, re.ASCII).fullmatch

    def read(text: str) -> Any:
        match = matches(text)
        if match is None:
            raise ValueError
        if match["fraction"] is None:
            return cls.fromisoformat(text)
        # `fromisoformat` takes an offset of less than a second for UTC
        local = cls.fromisoformat(text[: match.start("sign")])
        return local.replace(tzinfo=timezone(_amount(match, "hours", "minutes", "seconds")))

    return read


def _read_duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError
    return _amount(match, "weeks", "days", "hours", "minutes", "seconds")


def _amount(match: re.Match[str], *units: str) -> timedelta:
    """The signed sum of the units that were matched, and of the fraction of a second."""
    whole = {unit: int(match[unit] or 0) for unit in units}
    amount = timedelta(**whole, microseconds=int((match["fraction"] or "").ljust(6, "0")))
    return -amount if match["sign"] == "-" else amount


def _write_timedelta(value: timedelta) -> int:
    return value // _MICROSECOND


def _decode_timedelta(value: Any, _: Any = None) -> timedelta:
    if type(value) is int:
        try:
            return timedelta(microseconds=value)
        except OverflowError:
            pass
    raise misfit(_MICROSECONDS, value)


def _parse_timedelta(value: Any) -> Any:
    return _duration_text(value) if type(value) is str else _decode_timedelta(value)


_duration_text = from_text(_read_duration, f"{_MICROSECONDS} or ISO text such as 'PT1H30M'")

TIMES = {
    date: written(
        date,
        ["string"],
        write=date.isoformat,
        decode=from_text(matching(_DATE, date.fromisoformat), "ISO date text"),
    ),
    datetime: written(
        datetime,
        ["string"],
        write=_write_iso,
        decode=from_text(_iso_reader(datetime, f"{_DATE}T{_TIME}"), "ISO datetime text"),
    ),
    time: written(
        time,
        ["string"],
        write=_write_iso,
        decode=from_text(_iso_reader(time, _TIME), "ISO time text"),
    ),
    timedelta: written(
        timedelta,
        ["integer"],
        write=_write_timedelta,
        decode=_decode_timedelta,
        parse_json=_parse_timedelta,
    ),
}
