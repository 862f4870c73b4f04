"""Time zones by name, and the moments at which their offset changes."""

from __future__ import annotations

import difflib
import functools
import re
from datetime import datetime, timedelta, timezone, tzinfo

from dexpy.foundation.errors import ConfigurationError, DeclarationError
from dexpy.foundation.safe_text import shortened

UTC = timezone.utc
ZONE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*")
MAX_NAME_LENGTH = 64
MACHINE_ZONES = ("localtime", "posixrules", "Factory", "posix", "right")
"""Files of a zone database that differ between machines, and its folders of copies; those in ``right`` count leap
seconds."""
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


def check_zone(name: object, where: str) -> str:
    """Return the name of a time zone.

    Args:
        name: A name of the IANA database, ``"Europe/Rome"``, or ``"UTC"``.
        where: The subject of the message.

    Raises:
        DeclarationError: It is no such name.
        ConfigurationError: The zone database is not installed.
    """
    if not isinstance(name, str):
        raise DeclarationError(
            f"{where}: zone={shortened(name)}: expected the name of a time zone, got {type(name).__name__}. "
            "Write zone='Europe/Rome'."
        )
    if not _is_known(name):
        if name != "UTC" and not _names():
            raise ConfigurationError(
                f"{where}: zone={shortened(name)}: the time zone database is not installed. Run: pip install tzdata"
            )
        raise DeclarationError(
            f"{where}: zone={shortened(name)}: unknown time zone; expected a name of the IANA database, such as "
            f"'Europe/Rome' or 'UTC'.{_suggestion(name)}"
        )
    return str.__str__(name)


def zone_of(name: str | None) -> tzinfo:
    """Return the zone with this name, which `check_zone` has accepted; UTC for None."""
    if name is None or name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo

    return ZoneInfo(name)


def _is_known(name: str) -> bool:
    if len(name) > MAX_NAME_LENGTH or not ZONE_NAME.fullmatch(name) or name.partition("/")[0] in MACHINE_ZONES:
        return False
    try:
        zone_of(name)
    except (KeyError, ValueError, OSError):
        # Not in the database; not a zone file; a folder.
        return False
    return True


@functools.lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    from zoneinfo import available_timezones

    return frozenset(name for name in available_timezones() if name.partition("/")[0] not in MACHINE_ZONES)


def _suggestion(name: str) -> str:
    if len(name) > MAX_NAME_LENGTH:
        return ""
    folded = re.sub("^(posix|right)/", "", name.casefold().replace(" ", "_"))
    # The city alone is enough; of several names for it, the first one.
    known = {zone.casefold().rpartition("/")[2]: zone for zone in sorted(_names(), reverse=True)}
    known |= {zone.casefold(): zone for zone in _names()}
    close = [folded] if folded in known else difflib.get_close_matches(folded, filter(_is_long, known), n=1, cutoff=0.8)
    return f" Did you mean {known[close[0]]!r}?" if close else ""


def _is_long(name: str) -> bool:
    """Return whether a name says more than an abbreviation, of which many are close to each other."""
    return len(name) > len("cest6")


def first_change(zone: tzinfo, after: datetime, until: datetime) -> datetime | None:
    """Return the first moment after *after*, up to and including *until*, with another offset than a second before.

    Args:
        zone: A time zone.
        after: An aware datetime in UTC, in whole seconds.
        until: An aware datetime in UTC.
    """
    for year in range(after.year, until.year + 1):
        for change in changes_in_year(zone, year):
            if change > until:
                return None
            if change > after:
                return change
    return None


def last_change(zone: tzinfo, until: datetime, after: datetime) -> datetime | None:
    """Return the last moment up to and including *until*, after *after*, with another offset than a second before."""
    for year in range(until.year, after.year - 1, -1):
        for change in reversed(changes_in_year(zone, year)):
            if change <= after:
                return None
            if change <= until:
                return change
    return None


@functools.lru_cache(maxsize=2000)
def changes_in_year(zone: tzinfo, year: int) -> tuple[datetime, ...]:
    """Return the moments of a year in UTC at which the offset of a zone changes.

    Compares the offsets of successive days: in the database no two changes are less than four days apart.
    """
    if zone is UTC:
        return ()
    start = datetime(year, 1, 1, tzinfo=UTC) - SECOND if year > 1 else datetime(1, 1, 2, 12, tzinfo=UTC)
    end = datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC) if year < 9999 else datetime(9999, 12, 30, 12, tzinfo=UTC)
    changes: list[datetime] = []
    while start < end:
        next_day = min(start + DAY, end)
        if offset_at(zone, start) != offset_at(zone, next_day):
            changes.append(change_between(zone, start, next_day))
        start = next_day
    return tuple(changes)


def change_between(zone: tzinfo, low: datetime, high: datetime) -> datetime:
    """Return the first second after *low* with the offset of *high*: the moment of the only change between them."""
    before = offset_at(zone, low)
    while high - low > SECOND:
        middle = low + timedelta(seconds=(high - low) // SECOND // 2)
        low, high = (middle, high) if offset_at(zone, middle) == before else (low, middle)
    return high


def offset_at(zone: tzinfo, moment: datetime) -> timedelta:
    """Return the offset of a zone from UTC at a moment."""
    offset = moment.astimezone(zone).utcoffset()
    return offset if offset is not None else timedelta(0)
