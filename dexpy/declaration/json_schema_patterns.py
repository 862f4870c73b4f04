"""Python patterns in the common syntax of regular expressions in JSON Schema (ECMA-262).

A pattern is parsed by Python's parser and rewritten without flags and special escapes.
A pattern with a part that has no equivalent is omitted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

_parser: Any = getattr(re, "_parser")  # noqa: B009 - private, but nothing else reads a compiled pattern
_MAXIMUM: Any = getattr(re, "_constants").MAXREPEAT  # noqa: B009
_UNTRANSLATED = re.IGNORECASE | re.LOCALE
_MAX_LENGTH = 5000
_SYNTAX = frozenset("^$\\.*+?()[]{}|/")
_CONTROLS: Mapping[str, str] = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\f": r"\f", "\v": r"\v"}
_ASCII_CLASSES: Mapping[str, str] = {
    "CATEGORY_DIGIT": "0-9",
    "CATEGORY_WORD": "0-9A-Z_a-z",
    "CATEGORY_SPACE": r"\t-\r ",
}
_END = r"(?![\s\S])"


class _Untranslatable(Exception):
    """A part of a pattern that has another meaning in ECMA-262."""


@cache
def translate_pattern(pattern: re.Pattern[str]) -> str | None:
    """Return a pattern for JSON Schema that matches the full matches of `pattern`; None if there is none.

    Example:
        >>> translate_pattern(re.compile(r"[a-z]+(?#letters)\\-\\Z"))
        '^(?:[a-z]+-(?![\\\\s\\\\S]))$'
        >>> translate_pattern(re.compile(r"\\w+")) is None
        True
    """
    try:
        text = _Writer(pattern.flags).sequence(_parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG))
    except (_Untranslatable, RecursionError):
        return None
    return f"^(?:{text})$" if len(text) <= _MAX_LENGTH else None


class _Writer:
    """Writes the parts of a pattern with the given flags."""

    def __init__(self, flags: int) -> None:
        if flags & _UNTRANSLATED:
            raise _Untranslatable
        self._flags = flags

    def sequence(self, nodes: Iterable[Any]) -> str:
        """Return consecutive parts."""
        return "".join(self._part(str(name), argument) for name, argument in nodes)

    def _part(self, name: str, argument: Any) -> str:
        write: Callable[[Any], str] | None = getattr(self, f"_{name.lower()}", None)
        if write is None:
            raise _Untranslatable
        return write(argument)

    def _literal(self, code: int) -> str:
        return _written(code, _SYNTAX)

    def _not_literal(self, code: int) -> str:
        return f"[^{_in_class(code)}]"

    def _any(self, _: Any) -> str:
        return r"[\s\S]" if self._flags & re.DOTALL else r"[^\n]"

    def _in(self, items: list[tuple[Any, Any]]) -> str:
        negated = str(items[0][0]) == "NEGATE"
        members = "".join(self._item(str(name), argument) for name, argument in items[negated:])
        return f"[{'^' if negated else ''}{members}]"

    def _item(self, name: str, argument: Any) -> str:
        if name == "LITERAL":
            return _in_class(argument)
        if name == "RANGE":
            low, high = argument
            return f"{_in_class(low)}-{_in_class(high)}"
        if name == "CATEGORY" and self._flags & re.ASCII and str(argument) in _ASCII_CLASSES:
            return _ASCII_CLASSES[str(argument)]
        raise _Untranslatable

    def _branch(self, argument: Any) -> str:
        return f"(?:{'|'.join(self.sequence(branch) for branch in argument[1])})"

    def _subpattern(self, argument: Any) -> str:
        _, add, remove, nodes = argument
        writer = _Writer((self._flags | add) & ~remove) if add or remove else self
        return f"(?:{writer.sequence(nodes)})"

    def _max_repeat(self, argument: Any) -> str:
        low, high, nodes = argument
        items = list(nodes)
        is_one = len(items) == 1 and str(items[0][0]) in ("LITERAL", "NOT_LITERAL", "IN", "ANY", "SUBPATTERN", "BRANCH")
        text = self.sequence(items) if is_one else f"(?:{self.sequence(items)})"
        return text + _count(low, high)

    _min_repeat = _max_repeat  # for a full match both match the same texts

    def _assert(self, argument: Any) -> str:
        direction, nodes = argument
        return f"(?{'=' if direction > 0 else '<='}{self.sequence(nodes)})"

    def _assert_not(self, argument: Any) -> str:
        direction, nodes = argument
        return f"(?{'!' if direction > 0 else '<!'}{self.sequence(nodes)})"

    def _at(self, position: Any) -> str:
        name = str(position)
        if name == "AT_BEGINNING_STRING" or (name == "AT_BEGINNING" and not self._flags & re.MULTILINE):
            return "^"
        if name == "AT_END_STRING":
            return _END
        if name == "AT_END" and not self._flags & re.MULTILINE:
            return rf"(?=\n?{_END})"
        raise _Untranslatable


def _count(low: int, high: Any) -> str:
    unlimited = high is _MAXIMUM or high == _MAXIMUM
    if unlimited and low in (0, 1):
        return "*" if low == 0 else "+"
    if (low, high) == (0, 1):
        return "?"
    if low == high:
        return f"{{{low}}}"
    return f"{{{low},{'' if unlimited else high}}}"


def _in_class(code: int) -> str:
    return _written(code, _SYNTAX | {"-", "&", "~"})


def _written(code: int, special: frozenset[str]) -> str:
    letter = chr(code)
    if 0xD800 <= code <= 0xDFFF:
        raise _Untranslatable
    if letter in _CONTROLS:
        return _CONTROLS[letter]
    if letter in "&~" and letter in special:
        return f"\\x{code:02x}"
    if letter in special:
        return f"\\{letter}"
    if code < 0x20 or 0x7F <= code < 0xA0:
        return f"\\x{code:02x}"
    return letter if code not in (0x2028, 0x2029, 0xFEFF) else f"\\u{code:04x}"
