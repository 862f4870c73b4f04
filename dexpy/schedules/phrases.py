"""The grammar of `Every`.

::

    phrase   = ["every"] (interval | days ["at" times] | weekdays "at" times | "month" "on" monthdays "at" times)
    interval = [number] ("second" | "minute" | "hour")
    days     = [number] ("day" | "week")
    weekdays = "weekday" | "weekend" | list of ("monday" | ... | "sunday")
    monthdays = list of ["the"] ("1st" | ... | "31st" | "last" "day")
    times    = list of ("3am" | "3:30pm" | "15:30" | "noon" | "midnight")
    list     = item {("," | "and") item}

Units may have a plural s. Case does not matter.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable
from datetime import time, timedelta
from typing import TypeVar

import attrs

from dexpy.foundation.errors import DeclarationError, listed
from dexpy.foundation.safe_text import shortened
from dexpy.schedules.calendars import Calendar, Days, EveryDays, EveryWeeks, MonthDays, Weekdays, ordinal
from dexpy.schedules.intervals import Interval

T = TypeVar("T")
MAX_LENGTH = 200
"""The most characters of a phrase."""
MAX_DISTANCE = timedelta(days=5 * 366)
"""The longest distance between two ticks."""
SHORT_UNITS = {"second": timedelta(seconds=1), "minute": timedelta(minutes=1), "hour": timedelta(hours=1)}
LONG_UNITS = {"day": timedelta(days=1), "week": timedelta(weeks=1)}
UNITS = {**SHORT_UNITS, **LONG_UNITS}
WEEKDAYS = {
    name: number
    for number, name in enumerate(("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"))
}
DAY_SETS = {"weekday": frozenset(range(5)), "weekend": frozenset((5, 6))}
NAMED_TIMES = {"noon": time(12), "midnight": time(0)}
CLOCK = re.compile(r"(\d{1,2})(?::(\d{2}))?(am|pm)?", re.ASCII)
NUMBER = re.compile(r"\d{1,9}", re.ASCII)
CRON = re.compile(r"every (@|[0-9*/,-]+ [0-9*/,-]+( |$))", re.ASCII)
ORDINAL = re.compile(r"(\d{1,2})(st|nd|rd|th)", re.ASCII)
VOCABULARY = (
    *("every", "at", "and", "on", "the", "last", "month"),
    *(word for unit in UNITS for word in (unit, f"{unit}s")),
    *(*WEEKDAYS, *DAY_SETS, *NAMED_TIMES),
)
FORMS = (
    "every 30 seconds",
    "every minute",
    "every 15 minutes",
    "every hour",
    "every 2 hours",
    "every day",
    "every day at 3am",
    "every day at 3:30pm",
    "every day at 15:30",
    "every day at noon",
    "every day at 9:00 and 17:00",
    "every 2 days at 6:00",
    "every week",
    "every monday at 9am",
    "every monday and thursday at 9:00",
    "every weekday at 9am",
    "every weekend at 10:00",
    "every month on the 1st at 3am",
    "every month on the 1st and 15th at 3am",
    "every month on the last day at 23:00",
)
"""An example of each form, for messages and for the reference page."""


class _PhraseProblem(Exception):
    """What is wrong with a phrase, as the middle of a message."""


def normalized(phrase: str) -> str:
    """Return a phrase in lower case, with single spaces and its ``every``."""
    words = phrase.lower().replace(",", " , ").split()
    text = " ".join(words if words[:1] == ["every"] else ["every", *words])
    return text.replace(" ,", ",")


def check_phrase(phrase: object, where: str) -> str:
    """Return the normalized form of a phrase.

    Raises:
        DeclarationError: It is not one of the grammar.
    """
    if not isinstance(phrase, str):
        raise DeclarationError(
            f"{where}: expected a phrase, got {type(phrase).__name__}. Write Every('every 15 minutes')."
        )
    if len(phrase) > MAX_LENGTH:
        raise DeclarationError(
            f"{where}: expected at most {MAX_LENGTH} characters, got {len(phrase)}. Use several schedules."
        )
    text = normalized(phrase)
    if CRON.match(text):
        raise DeclarationError(f"{where}: expected a phrase, got a cron expression. Write Cron({shortened(phrase)}).")
    try:
        rule_of(text)
    except _PhraseProblem as problem:
        raise DeclarationError(f"{where}: {problem}. Write, for example, {_nearest_forms(text)}.") from None
    return text


@functools.lru_cache(maxsize=1000)
def rule_of(phrase: str) -> Interval | Calendar:
    """Return what a normalized phrase means."""
    return _Parser(phrase.replace(",", " ,").split()[1:]).parse()


@attrs.define
class _Parser:
    """Reads the words of a phrase from the left."""

    words: list[str]
    position: int = 0

    @property
    def word(self) -> str:
        """The next word; "" at the end."""
        return self.words[self.position] if self.position < len(self.words) else ""

    def skip(self, word: str) -> bool:
        """Skip the next word if it is this one; return whether it was."""
        is_next = self.word == word
        self.position += is_next
        return is_next

    def require(self, word: str) -> None:
        """Skip the next word, which must be this one."""
        if not self.skip(word):
            raise _PhraseProblem(f"expected {word!r}{self.after()}, got {self.shown()}")

    def after(self) -> str:
        """Where the next word is."""
        return f" after {self.words[self.position - 1]!r}" if self.position else ""

    def shown(self) -> str:
        """The next word for a message."""
        return shortened(self.word) if self.word else "the end of the phrase"

    def parse(self) -> Interval | Calendar:
        """Read the whole phrase."""
        rule = self.schedule()
        if self.word:
            raise _PhraseProblem(f"expected the end of the phrase{self.after()}, got {self.shown()}")
        return rule

    def schedule(self) -> Interval | Calendar:
        """Read what follows "every"."""
        if NUMBER.fullmatch(self.word):
            number = int(self.word)
            self.position += 1
            return self.units(number)
        if self.unit() in UNITS:
            return self.units(1)
        if self.skip("month"):
            self.require("on")
            return Calendar(self.month_days(), self.times())
        if self.word in DAY_SETS:
            days = Weekdays(DAY_SETS[self.word])
            self.position += 1
            return Calendar(days, self.times())
        return Calendar(Weekdays(frozenset(self.items(self.weekday))), self.times())

    def unit(self) -> str:
        """The next word without a plural s."""
        return self.word.removesuffix("s")

    def units(self, number: int) -> Interval | Calendar:
        """Read a unit after its number."""
        unit = self.unit()
        if unit not in UNITS:
            raise _PhraseProblem(f"expected one of {listed(UNITS)}{self.after()}, got {self.shown()}")
        if number < 1:
            raise _PhraseProblem(f"expected a number of 1 or more, got {number}")
        if number > MAX_DISTANCE // UNITS[unit]:
            raise _PhraseProblem(f"expected a distance of at most five years, got {number} {unit}s")
        self.position += 1
        if unit in SHORT_UNITS:
            if self.word == "at":
                raise _PhraseProblem(f"expected no time of day after {self.words[self.position - 1]!r}, got 'at'")
            return Interval(number * SHORT_UNITS[unit])
        days: Days = EveryDays(number) if unit == "day" else EveryWeeks(number)
        return Calendar(days, self.times() if self.word else (time(0),))

    def items(self, item: Callable[[], T]) -> list[T]:
        """Read a list with commas and "and"."""
        items = [item()]
        while self.word in (",", "and"):
            if self.skip(","):
                self.skip("and")
            else:
                self.position += 1
            one = item()
            if one in items:
                raise _PhraseProblem(f"{self.words[self.position - 1]!r} is repeated")
            items.append(one)
        return items

    def weekday(self) -> int:
        """Read a day of the week."""
        if self.word not in WEEKDAYS:
            expected = "a number, a unit, a day of the week, 'weekday', 'weekend' or 'month'"
            raise _PhraseProblem(f"expected {expected}{self.after()}, got {self.shown()}")
        self.position += 1
        return WEEKDAYS[self.words[self.position - 1]]

    def month_days(self) -> MonthDays:
        """Read days of the month; 0 is the last one."""
        days = self.items(self.month_day)
        return MonthDays(frozenset(days) - {0}, 0 in days)

    def month_day(self) -> int:
        """Read a day of the month; 0 is the last one."""
        self.skip("the")
        if self.skip("last"):
            self.require("day")
            return 0
        match = ORDINAL.fullmatch(self.word)
        if match is None or not 1 <= int(match[1]) <= 31:
            raise _PhraseProblem(f"expected a day from '1st' to '31st' or 'last day'{self.after()}, got {self.shown()}")
        day = int(match[1])
        if ordinal(day) != self.word.lstrip("0"):
            raise _PhraseProblem(f"expected {ordinal(day)!r}{self.after()}, got {self.shown()}")
        self.position += 1
        return day

    def times(self) -> tuple[time, ...]:
        """Read times of day."""
        self.require("at")
        return tuple(sorted(self.items(self.time)))

    def time(self) -> time:
        """Read a time of day."""
        time_of_day = NAMED_TIMES.get(self.word) or _clock_time(self.word)
        if time_of_day is None:
            raise _PhraseProblem(
                f"expected a time such as '9:00', '3am', '3:30pm', 'noon' or 'midnight'{self.after()}, "
                f"got {self.shown()}"
            )
        self.position += 1
        return time_of_day


def _clock_time(word: str) -> time | None:
    match = CLOCK.fullmatch(word)
    if match is None or not (match[2] or match[3]):
        return None
    hour, minute, half = int(match[1]), int(match[2] or 0), match[3]
    if minute > 59 or hour > 23 or (half and not 1 <= hour <= 12):
        return None
    return time(hour % 12 + 12 * (half == "pm"), minute) if half else time(hour, minute)


def _nearest_forms(phrase: str) -> str:
    """Return the three valid phrases that are most similar, the first of them with misspelled words corrected."""
    words = phrase.replace(",", " ,").split()
    close = [difflib.get_close_matches(word, VOCABULARY, n=1) if word.isalpha() else [] for word in words]
    words = [match[0] if match else word for word, match in zip(words, close, strict=True)]
    corrected = normalized(" ".join(words[words[1:2] == ["every"] :]))
    known = sorted(FORMS, key=lambda form: -difflib.SequenceMatcher(None, form, corrected).ratio())
    forms = [*([corrected] if _is_valid(corrected) else []), *known]
    first, second, third = list(dict.fromkeys(forms))[:3]
    return f"{first!r}, {second!r} or {third!r}"


def _is_valid(phrase: str) -> bool:
    try:
        rule_of(phrase)
    except _PhraseProblem:
        return False
    return True
