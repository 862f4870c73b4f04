"""The kinds of values of settings: how a file and a text state a value, and how it is displayed.

The module is long because it has one small class for each kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import attrs

from dexpy.foundation.durations import format_duration, parse_duration
from dexpy.foundation.errors import DeclarationError, OptionsError, did_you_mean, listed
from dexpy.foundation.safe_text import shortened
from dexpy.foundation.sizes import format_size, parse_size
from dexpy.foundation.urls import displayed_url
from dexpy.policies.keep import FOREVER
from dexpy.policies.options import QUEUE_NAME
from dexpy.policies.queue_selection import ALL, QueueSelection
from dexpy.schedules.cron import Cron
from dexpy.schedules.every import Every
from dexpy.schedules.text import parse_schedule
from dexpy.schedules.zones import check_zone

REDACTED = "<redacted>"
APPLICATION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*(\.[^\W\d]\w*)*(\(\))?)?")
"""The name of a module, or after a colon of an object in it."""


class InvalidSetting(Exception):
    """A value of another kind.

    Args:
        expected: A noun phrase for valid values.
        got: The value as text; "" if it may be a secret.
        hint: A sentence with the fix.
    """

    def __init__(self, expected: str, got: str = "", hint: str = "") -> None:
        super().__init__(expected, got, hint)
        self.problem = f"expected {expected}" + (f", got {got}." if got else ".") + (f" {hint.strip()}" if hint else "")

    def __str__(self) -> str:
        return self.problem


class Kind:
    """A kind of value."""

    unit: str
    """The unit or form of the values, for the documentation."""

    def from_file(self, value: object) -> Any:
        """Return the setting for a value of a TOML file.

        Raises:
            InvalidSetting: The value is of another kind.
        """
        if isinstance(value, str):
            return self.from_text(value)
        raise InvalidSetting(self.expected, described(value))

    def from_text(self, text: str) -> Any:
        """Return the setting for the text of a variable or a flag.

        Raises:
            InvalidSetting: The text states no value of this kind.
        """
        raise NotImplementedError

    def display(self, value: Any) -> str:
        """Return the value as text, without secrets."""
        return str(value)

    @property
    def expected(self) -> str:
        """A noun phrase for valid values."""
        return self.unit


def quoted(text: str) -> str:
    """Return a text for a message; of a URL, only the parts that certainly contain no password."""
    return repr(displayed_url(text)) if "://" in text else shortened(text)


def described(value: object) -> str:
    """Return a scalar for a message; of an array or table, only its type, because it may contain a password."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return str(value).lower()
    return "an array" if isinstance(value, list) else "a table" if isinstance(value, dict) else str(value)


class Url(Kind):
    """The URL of a database or broker, which may hold a password."""

    unit = "URL"

    @property
    def expected(self) -> str:
        """A noun phrase for valid values."""
        return "a URL as text"

    def from_text(self, text: str) -> str:
        """Return the text; the database or the broker checks it."""
        return text

    def display(self, value: Any) -> str:
        """Return the URL without user, password and options."""
        return displayed_url(value)


class Secret(Kind):
    """A secret, which is never displayed."""

    unit = "text"

    def from_text(self, text: str) -> str:
        """Return the text."""
        return text

    def display(self, value: Any) -> str:
        """Return a placeholder."""
        return REDACTED


class Switch(Kind):
    """True or false."""

    unit = "true or false"

    def from_file(self, value: object) -> bool:
        """Return the boolean."""
        if isinstance(value, bool):
            return value
        raise InvalidSetting(self.unit, described(value))

    def from_text(self, text: str) -> bool:
        """Return whether the text is ``1``, ``true``, ``yes`` or ``on``."""
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise InvalidSetting("1 or 0", quoted(text))

    def display(self, value: Any) -> str:
        """Return the value as TOML has it."""
        return str(value).lower()


@attrs.frozen(eq=False)
class Duration(Kind):
    """A number with a unit; the setting is in seconds.

    Attributes:
        at_least: The shortest one, in seconds.
        at_most: The longest one, in seconds.
    """

    at_least: float
    at_most: float

    unit = "duration"

    @property
    def expected(self) -> str:
        """A noun phrase for valid values."""
        limits = f"from {format_duration(self.at_least)} to {format_duration(self.at_most)}"
        return f'a duration {limits} with its unit, such as "500ms", "30s" or "5m"'

    def from_text(self, text: str) -> float:
        """Return the duration in seconds."""
        seconds = parse_duration(text)
        if seconds is None or not self.at_least <= seconds <= self.at_most:
            raise InvalidSetting(self.expected, quoted(text))
        return seconds

    def display(self, value: Any) -> str:
        """Return the duration with its unit."""
        return format_duration(value)


@attrs.frozen(eq=False)
class KeepDuration(Kind):
    """A duration, or ``forever``, which is None as a setting.

    Attributes:
        duration: The durations.
    """

    duration: Duration

    unit = "duration or `forever`"

    @property
    def expected(self) -> str:
        """A noun phrase for valid values."""
        return f'{self.duration.expected}, or "{FOREVER}"'

    def from_text(self, text: str) -> float | None:
        """Return the duration in seconds, or None."""
        if text == FOREVER:
            return None
        try:
            return self.duration.from_text(text)
        except InvalidSetting:
            raise InvalidSetting(self.expected, quoted(text)) from None

    def display(self, value: Any) -> str:
        """Return the duration with its unit, or the word."""
        return FOREVER if value is None else self.duration.display(value)


@attrs.frozen(eq=False)
class Number(Kind):
    """A whole number.

    Attributes:
        at_least: The smallest one.
        at_most: The largest one.
        unit: What it counts.
        unlimited: A word for "no limit", which is None as a setting; "" if there must be a number.
    """

    at_least: int
    at_most: int
    unit: str = "number"
    unlimited: str = ""

    @property
    def expected(self) -> str:
        """A noun phrase for valid values."""
        is_range = self.at_most > self.at_least
        limits = f"a whole number from {self.at_least} to {self.at_most}" if is_range else str(self.at_least)
        return f"{limits} or {self.unlimited!r}" if self.unlimited else limits

    def from_file(self, value: object) -> int | None:
        """Return the number, or None for "no limit"."""
        if type(value) is int and self.at_least <= value <= self.at_most:
            return value
        if self.unlimited and value == self.unlimited:
            return None
        raise InvalidSetting(self.expected, described(value))

    def from_text(self, text: str) -> int | None:
        """Return the number, or None for "no limit"."""
        return self.from_file(int(text) if re.fullmatch(r"[+-]?[0-9]{1,10}", text) else text)

    def display(self, value: Any) -> str:
        """Return the number or the word."""
        return self.unlimited if value is None else str(value)


@attrs.frozen(eq=False)
class Size(Kind):
    """A size of memory with its unit; the setting is in bytes.

    Attributes:
        at_least: The smallest one, in bytes.
        at_most: The largest one, in bytes.
        unlimited: A word for "no limit", which is None as a setting.
        unit: The form of the values, for the documentation.
    """

    at_least: int
    at_most: int
    unlimited: str
    unit: str = "size"

    @property
    def expected(self) -> str:
        """A noun phrase for valid values."""
        limits = f"from {format_size(self.at_least)} to {format_size(self.at_most)}"
        return f'a size {limits} with its unit, such as "512MB" or "2GiB", or {self.unlimited!r}'

    def from_text(self, text: str) -> int | None:
        """Return the size in bytes, or None for "no limit"."""
        if text == self.unlimited:
            return None
        size = parse_size(text)
        if size is None or not self.at_least <= size <= self.at_most:
            raise InvalidSetting(self.expected, quoted(text))
        return size

    def display(self, value: Any) -> str:
        """Return the size with its unit, or the word."""
        return self.unlimited if value is None else format_size(value)


class Queues(Kind):
    """Patterns of queues, the most urgent first; None for all."""

    unit = "names and patterns"

    @property
    def expected(self) -> str:
        """A noun phrase for valid values."""
        return f'an array of queue names and patterns, or ["{ALL}"] for all'

    def from_file(self, value: object) -> QueueSelection | None:
        """Return the selection."""
        if not isinstance(value, list):
            raise InvalidSetting(self.expected, described(value))
        return self._check(list(cast("list[object]", value)))

    def from_text(self, text: str) -> QueueSelection | None:
        """Return the selection of the patterns, which commas separate."""
        return self._check([pattern.strip() for pattern in text.split(",")])

    def _check(self, patterns: list[object]) -> QueueSelection | None:
        if patterns == [ALL]:
            return None
        if not patterns:
            raise InvalidSetting(self.expected, "none")
        for pattern in patterns:
            if pattern != ALL:
                check_queue_name(pattern.removesuffix(ALL) if isinstance(pattern, str) else pattern)
        try:
            return QueueSelection.of(patterns)
        except OptionsError as error:
            raise InvalidSetting("patterns that have an effect", "", str(error).partition(": ")[2]) from None

    def display(self, value: Any) -> str:
        """Return the names with commas, as a flag has them."""
        return ALL if value is None else str(value)


def check_queue_name(name: object) -> str:
    """Return a valid name of a queue.

    Raises:
        InvalidSetting: A broker would refuse it.
    """
    if isinstance(name, str) and QUEUE_NAME.fullmatch(name) and not name.endswith((".DQ", ".XQ")):
        return name
    hint = f"{ALL} matches any rest of a name: write it at the end." if isinstance(name, str) and ALL in name else ""
    form = "a queue name of 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or '_'"
    got = described(name)
    if isinstance(name, str) and name.endswith((".DQ", ".XQ")):
        form += ", and not ending with .DQ or .XQ"
    raise InvalidSetting(form, got, hint)


class QueueName(Kind):
    """The name of one queue."""

    unit = "name"

    def from_text(self, text: str) -> str:
        """Return the name."""
        return check_queue_name(text)


class Applications(Kind):
    """Modules, and applications in modules."""

    unit = "names"

    @property
    def expected(self) -> str:
        """A noun phrase for valid values."""
        return 'a module such as "shop.operations", an application such as "shop:create_app", or an array of them'

    def from_file(self, value: object) -> tuple[str, ...]:
        """Return the names."""
        names = cast("list[object]", value) if isinstance(value, list) else [value]
        if invalid := [name for name in names if not isinstance(name, str) or not APPLICATION.fullmatch(name)]:
            raise InvalidSetting(self.expected, described(invalid[0]))
        return tuple(map(str, names))

    def from_text(self, text: str) -> tuple[str, ...]:
        """Return the names, which commas separate."""
        return self.from_file([name.strip() for name in text.split(",")])

    def display(self, value: Any) -> str:
        """Return the names with commas, as a flag has them."""
        return ",".join(value)


@attrs.frozen(eq=False)
class Text(Kind):
    """A text.

    Attributes:
        form: A noun phrase for valid values.
        pattern: A regular expression that matches all of it.
    """

    form: str
    pattern: str = r"(?s).+"

    unit = "text"

    @property
    def expected(self) -> str:
        """A noun phrase for valid values."""
        return self.form

    def from_text(self, text: str) -> str:
        """Return the text."""
        if re.fullmatch(self.pattern, text) is None:
            raise InvalidSetting(self.form, quoted(text))
        return text


@attrs.frozen(eq=False)
class Choice(Kind):
    """One of several words.

    Attributes:
        words: The words.
        unit: The words for the documentation.
    """

    words: tuple[str, ...]
    unit: str

    @property
    def expected(self) -> str:
        """A noun phrase for valid values."""
        return f"one of {listed(self.words)}"

    def from_text(self, text: str) -> str:
        """Return the word."""
        if text not in self.words:
            raise InvalidSetting(self.expected, quoted(text), did_you_mean(text, self.words))
        return text


class Zone(Kind):
    """The name of a time zone."""

    unit = "time zone"

    @property
    def expected(self) -> str:
        """A noun phrase for valid values."""
        return 'the name of a time zone such as "Europe/Rome"'

    def from_text(self, text: str) -> str:
        """Return the name."""
        try:
            return check_zone(text, "zone")
        except DeclarationError as error:
            suggestion = re.search(r"Did you mean .*", str(error))
            raise InvalidSetting(self.expected, quoted(text), suggestion[0] if suggestion else "") from None


class ScheduleText(Kind):
    """A schedule as text; the setting is an `Every` or a `Cron` without a zone."""

    unit = "schedule"

    @property
    def expected(self) -> str:
        """A noun phrase for valid values."""
        return 'a schedule such as "every 15 minutes" or "0 3 * * *"'

    def from_text(self, text: str) -> Every | Cron:
        """Return the schedule."""
        try:
            return parse_schedule(text)
        except DeclarationError as error:
            raise InvalidSetting(self.expected, quoted(text), str(error)) from None

    def display(self, value: Any) -> str:
        """Return the text of the schedule."""
        return str(value)


class Arguments(Kind):
    """A table of props, whose values are never displayed."""

    unit = "table of props"

    def from_file(self, value: object) -> Mapping[str, Any]:
        """Return the table."""
        if isinstance(value, dict):
            return cast("dict[str, Any]", value)
        raise InvalidSetting("a table of props such as { customer = 42, month = 2026-01-01 }", described(value))

    def display(self, value: Any) -> str:
        """Return the names of the props."""
        return f"{{{', '.join(f'{name} = ...' for name in value)}}}"
