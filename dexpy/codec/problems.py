"""Values that do not fit: what is wrong with them, where, and how a message shows them."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator
from typing import Any

from dexpy.foundation.errors import NotSerializable, Problem

_GOT_LENGTH = 80


class InvalidValue(Exception):
    """A value that does not fit its codec; it becomes a `PropsError` or `Undecodable` before users see it.

    Attributes:
        problems: All that is wrong with the value, each with its path from the value's root.

    Example:
        >>> raise InvalidValue([Problem("[2].sku", "str", "int 7")])
        Traceback (most recent call last):
        ...
        dexpy.codec.problems.InvalidValue: [2].sku: wants str, got int 7
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Gathers the problems."""
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        """Return all problems in one line."""
        return "; ".join(str(problem) for problem in self.problems)

    def under(self, prefix: str) -> Iterator[Problem]:
        """Yield the problems, seen from one level further out."""
        return (problem.under(prefix) for problem in self.problems)


class TooDeep(InvalidValue):
    """A value that is nested too deeply, or contains itself, and so cannot be checked."""


def invalid_value(expected: str, value: object, *classes: Any) -> InvalidValue:
    """Return the one problem of a value that is wrong as a whole.

    Args:
        expected: What would have been right.
        value: What was there.
        classes: The expected classes; a class of the same name as the value's own is described further.
    """
    difference = next((text for cls in classes if (text := _difference(cls, value))), "")
    return InvalidValue([Problem("", expected + difference, shown(value))])


def changed(value: object, label: str, *classes: Any) -> NotSerializable:
    """Return the refusal of a value that was put there after its prop was checked."""
    difference = next((text for cls in classes if (text := _difference(cls, value))), "")
    return NotSerializable(f"is of type {type(value).__name__}, and {label}{difference} is declared")


def _difference(cls: Any, value: object) -> str:
    """Return how a class differs from the value's class of the same name; else ""."""
    value_class = type(value)
    if not isinstance(cls, type) or value_class is cls or value_class.__name__ != cls.__name__:
        return ""
    if (expected_scope := _scope_of(cls)) != (value_scope := _scope_of(value_class)):
        return f" of {expected_scope} (the value is of {value_scope})"
    return f" as {expected_scope} declares it now (the value is of an earlier load of the module or cell)"


def _scope_of(cls: type) -> str:
    enclosing = cls.__qualname__.rpartition(".")[0]
    return f"{cls.__module__}.{enclosing}" if enclosing else cls.__module__


_short_repr = reprlib.Repr()  # cuts before it writes, so that a list of a million items costs nothing
_short_repr.maxstring = _short_repr.maxother = _short_repr.maxlong = _GOT_LENGTH - 20


def shown(value: object) -> str:
    """Return a short text of a value for a message, with its type; never raises.

    Example:
        >>> shown("7"), shown(None), shown([1, 2])
        ("str '7'", 'None', 'list [1, 2]')
    """
    if value is None:
        return "None"
    return cut(f"{type(value).__name__} {short(value)}")


def step(key: object) -> str:
    """Return the piece of a path that leads to a key."""
    return f"[{short(key)}]"


def short(value: object) -> str:
    """Return the repr of a value, cut; never raises."""
    try:
        return cut(_short_repr.repr(value))
    except Exception:  # noqa: BLE001 - the repr of an application's class must not hide the problem itself
        return "<no repr>"


def cut(text: str, length: int = _GOT_LENGTH) -> str:
    """Return a text that is no longer than a message can bear."""
    return text if len(text) <= length else text[: length - 3] + "..."
