"""Invalid values: their problems, with paths, and their text in messages."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator
from typing import Any

from dexpy.foundation.errors import NotSerializable, Problem

_GOT_LENGTH = 80


class InvalidValue(Exception):
    """A value that is invalid for its codec; it becomes a `PropsError` or `Undecodable` before users see it.

    Attributes:
        problems: All problems of the value, each with its path from the root of the value.

    Example:
        >>> raise InvalidValue([Problem("[2].sku", "str", "int 7")])
        Traceback (most recent call last):
        ...
        dexpy.codec.problems.InvalidValue: [2].sku: expected str, got int 7
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Store the problems."""
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        """Return all problems in one line."""
        return "; ".join(str(problem) for problem in self.problems)

    def under(self, prefix: str) -> Iterator[Problem]:
        """Yield the problems with a prefix added to their paths."""
        return (problem.under(prefix) for problem in self.problems)


class TooDeep(InvalidValue):
    """A value that is nested too deeply to be checked, or contains itself."""


def invalid_value(expected: str, value: object, *classes: Any) -> InvalidValue:
    """Return the error for a value that is invalid as a whole.

    Args:
        expected: A noun phrase for valid values.
        value: The value.
        classes: The expected classes; one with the same name as the class of the value is described in detail.
    """
    difference = next((text for cls in classes if (text := _difference(cls, value))), "")
    return InvalidValue([Problem("", expected + difference, describe_value(value))])


def changed(value: object, label: str, *classes: Any) -> NotSerializable:
    """Return the error for a value that was changed after its prop was checked."""
    difference = next((text for cls in classes if (text := _difference(cls, value))), "")
    return NotSerializable(f"is of type {type(value).__name__}, but {label}{difference} is declared")


def _difference(cls: Any, value: object) -> str:
    """Return how a class differs from the value's class with the same name; "" for other classes."""
    value_class = type(value)
    if not isinstance(cls, type) or value_class is cls or value_class.__name__ != cls.__name__:
        return ""
    if (expected_scope := _scope_of(cls)) != (value_scope := _scope_of(value_class)):
        return f" of {expected_scope} (the value is of {value_scope})"
    return f" as {expected_scope} declares it now (the value is of an earlier load of the module or cell)"


def _scope_of(cls: type) -> str:
    enclosing = cls.__qualname__.rpartition(".")[0]
    return f"{cls.__module__}.{enclosing}" if enclosing else cls.__module__


_truncating_repr = reprlib.Repr()  # limits the items first, so that a list of a million items is cheap
_truncating_repr.maxstring = _truncating_repr.maxother = _truncating_repr.maxlong = _GOT_LENGTH - 20


def describe_value(value: object) -> str:
    """Return a short text of a value for a message, with its type; never raises.

    Example:
        >>> describe_value("7"), describe_value(None), describe_value([1, 2])
        ("str '7'", 'None', 'list [1, 2]')
    """
    if value is None:
        return "None"
    return shorten(f"{type(value).__name__} {short_repr(value)}")


def path_segment(key: object) -> str:
    """Return the part of a path for a key."""
    return f"[{short_repr(key)}]"


def short_repr(value: object) -> str:
    """Return the shortened repr of a value; never raises."""
    try:
        return shorten(_truncating_repr.repr(value))
    except Exception:  # noqa: BLE001 - the repr of an application's class must not hide the problem itself
        return "<no repr>"


def shorten(text: str, length: int = _GOT_LENGTH) -> str:
    """Return a text, shortened to a length for messages."""
    return text if len(text) <= length else text[: length - 3] + "..."
