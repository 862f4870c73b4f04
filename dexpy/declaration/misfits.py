"""Values that do not fit: what is wrong with them, where, and how a message shows them."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator

from dexpy.foundation.errors import NotSerializable, Problem

_GOT_LENGTH = 80


class Misfit(Exception):
    """A value that does not fit its form; it becomes a `PropsError` or `Undecodable` before users see it.

    Attributes:
        problems: All that is wrong with the value, each with its path from the value's root.

    Example:
        >>> raise Misfit([Problem("[2].sku", "str", "int 7")])
        Traceback (most recent call last):
        ...
        dexpy.declaration.misfits.Misfit: [2].sku: wants str, got int 7
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Gathers the problems."""
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        """All problems in one line."""
        return "; ".join(str(problem) for problem in self.problems)

    def under(self, prefix: str) -> Iterator[Problem]:
        """The problems, seen from one level further out."""
        return (problem.under(prefix) for problem in self.problems)


def misfit(wanted: str, value: object) -> Misfit:
    """The one problem of a value that is wrong as a whole."""
    return Misfit([Problem("", wanted, shown(value))])


def changed(value: object, label: str) -> NotSerializable:
    """The refusal of a value that was put there after its prop was checked."""
    return NotSerializable(f"is of type {type(value).__name__}, and {label} is declared")


_short_repr = reprlib.Repr()  # cuts before it writes, so that a list of a million items costs nothing
_short_repr.maxstring = _short_repr.maxother = _short_repr.maxlong = _GOT_LENGTH - 20


def shown(value: object) -> str:
    """A short text of a value for a message, with its type; never raises.

    Example:
        >>> shown("7"), shown(None), shown([1, 2])
        ("str '7'", 'None', 'list [1, 2]')
    """
    if value is None:
        return "None"
    return cut(f"{type(value).__name__} {short(value)}")


def step(key: object) -> str:
    """The piece of a path that leads to a key."""
    return f"[{short(key)}]"


def short(value: object) -> str:
    """The repr of a value, cut; never raises."""
    try:
        return cut(_short_repr.repr(value))
    except Exception:  # noqa: BLE001 - the repr of somebody's class must not hide the problem itself
        return "<no repr>"


def cut(text: str, length: int = _GOT_LENGTH) -> str:
    """A text that is no longer than a message can bear."""
    return text if len(text) <= length else text[: length - 3] + "..."
