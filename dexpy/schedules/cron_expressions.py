"""Cron expressions: cronsim reads them, behind checks of their own."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from datetime import datetime, timedelta

import attrs

from dexpy.foundation.errors import DeclarationError, did_you_mean, listed

MAX_LENGTH = 120
"""The most characters of an expression: reading one of 200,000 commas takes seconds."""
ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
FIELDS = "minute, hour, day of the month, month, day of the week"
CHARACTERS = re.compile(r"[0-9A-Za-z*/,#\- ]+")
YEARS = 5
"""A schedule must fire in any period of so many years."""
CYCLE = range(2000, 2028)
"""After 28 years each date falls on the same day of the week again."""


def check_expression(expression: object, has_seconds: bool, where: str) -> str:
    """Return an expression with single spaces, names in upper case and aliases in lower case.

    Raises:
        DeclarationError: It is invalid, or rarer than every five years.
    """
    if not isinstance(expression, str):
        raise DeclarationError(
            f"{where}: expected a cron expression, got {type(expression).__name__}. Write Cron('0 3 * * *')."
        )
    if len(expression) > MAX_LENGTH:
        raise DeclarationError(
            f"{where}: expected at most {MAX_LENGTH} characters, got {len(expression)}. Use several schedules."
        )
    text = " ".join(expression.split())
    if text.startswith("@"):
        return _check_alias(text.lower(), has_seconds, where)
    if not CHARACTERS.fullmatch(text):
        raise DeclarationError(
            f"{where}: expected five fields ({FIELDS}) of digits, names, '*', ',', '-', '/' and '#'. "
            "Write, for example, Cron('0 3 * * *')."
        )
    fields = text.split()
    if has_seconds and len(fields) != 6:
        raise DeclarationError(
            f"{where}: expected six fields (second, {FIELDS}), got {len(fields)}. "
            "Write the seconds first, or remove seconds=True."
        )
    if not has_seconds and len(fields) != 5:
        advice = "Pass seconds=True for seconds in the first field." if len(fields) == 6 else "Write '*' for any value."
        raise DeclarationError(f"{where}: expected five fields ({FIELDS}), got {len(fields)}. {advice}")
    text = text.upper()
    _check_meaning(text, where)
    return text


def _check_alias(text: str, has_seconds: bool, where: str) -> str:
    if text not in ALIASES:
        raise DeclarationError(
            f"{where}: unknown alias; expected one of {listed(ALIASES)}.{did_you_mean(text, ALIASES)}"
        )
    if has_seconds:
        raise DeclarationError(f"{where}: expected six fields with seconds=True, got an alias. Remove seconds=True.")
    return text


def _check_meaning(text: str, where: str) -> None:
    from cronsim import CronSimError

    try:
        is_rare = _is_rare(text)
    except CronSimError as error:
        problem = f"invalid {field}" if (field := str(error).removeprefix("Bad ")) != str(error) else "invalid"
        raise DeclarationError(
            f"{where}: {problem}. Use values in the range of the field ({FIELDS}), '*', lists '1,15', ranges '1-5', "
            "steps '*/15', and dates that exist."
        ) from None
    if is_rare:
        raise DeclarationError(
            f"{where}: expected a tick in any period of {YEARS} years, got one without. Choose other dates."
        )


@functools.lru_cache(maxsize=1000)
def _is_rare(text: str) -> bool:
    """Return whether an expression does not fire in some period of five years."""
    times = CronTimes(text)
    year = CYCLE.start
    while year in CYCLE:
        tick = next(times.after(datetime(year, 1, 1) - timedelta(seconds=1)), None)
        if tick is None or tick.year >= year + YEARS:
            return True
        year = tick.year + 1
    return False


@attrs.frozen
class CronTimes:
    """The local times of a checked expression.

    cronsim gets naive datetimes: zones are applied in `wall_clock`, which treats every zone and both kinds of
    expressions alike.
    """

    expression: str

    @property
    def fields(self) -> str:
        """The expression without aliases."""
        return ALIASES.get(self.expression, self.expression)

    @property
    def is_real_time(self) -> bool:
        """Whether every moment counts: a field of the time of day begins with ``*``, as in Debian's cron."""
        return any(field.startswith("*") for field in self.fields.split()[:-3])

    def after(self, local: datetime) -> Iterator[datetime]:
        """Yield the times after this one, in rising order."""
        from cronsim import CronSim

        return CronSim(self.fields, local)

    def before(self, local: datetime) -> Iterator[datetime]:
        """Yield the times before this one, in falling order."""
        from cronsim import CronSim

        return CronSim(self.fields, local, reverse=True)

    def explained(self) -> str:
        """Return a sentence without its full stop."""
        from cronsim import CronSim

        return CronSim(self.fields, datetime(2000, 1, 1)).explain()
