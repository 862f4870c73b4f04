"""Details of an error as JSON: a value without a JSON form is replaced by a marker, and nothing raises."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, cast
from uuid import UUID

import attrs

from dexpy.foundation.errors import SENSITIVE
from dexpy.foundation.safe_text import class_name, text_of

MAX_LEVELS = 28
"""The levels of nesting that are stored: MariaDB supports 31, and details may be nested in another value."""
MAX_VALUES = 100_000
"""The number of values that are stored: an iterable may be infinite."""
MAX_DIGITS = 640
"""Longer ints are stored as text, because Python may refuse to decode them as numbers."""

TOO_DEEP = "<nested too deeply>"
HOLDS_ITSELF = "<holds itself>"
TOO_MANY = "<too many values>"


def to_json(value: Any, redactor: Callable[[str], str], encode: Callable[[Any], Any] | None = None) -> Any:
    """Return a value as redacted JSON for people, with the name of the class for a value without a JSON form.

    Never raises, even if methods of the value do.

    Args:
        value: Anything.
        redactor: A function that is applied to each text, including keys.
        encode: A function that encodes a value of another type as JSON, or raises.

    Example:
        >>> from decimal import Decimal
        >>> to_json({"missing": Decimal("1.5"), "by": object()}, str)
        {'missing': '1.5', 'by': '<object>'}
    """
    return _JsonWriter(redactor, encode).value(value, 0)


class _JsonWriter:
    def __init__(self, redactor: Callable[[str], str], encode: Callable[[Any], Any] | None) -> None:
        self._redactor = redactor
        self._encode = encode
        self._left = MAX_VALUES
        self._around: set[int] = set()

    def value(self, value: Any, level: int) -> Any:
        self._left -= 1
        if self._left < 0:
            return TOO_MANY
        try:
            return self._scalar(value, level)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - an application's class may raise anything in any method
            return self._name(value)

    def _scalar(self, value: Any, level: int) -> Any:
        kind = cast("type[object]", type(value))
        if value is None or kind is bool:
            return value
        if issubclass(kind, Enum):
            return self.value(value.value, level)
        if issubclass(kind, str):
            return self._redactor(text_of(value))
        if issubclass(kind, int):
            return self._number(int.__int__(value))
        if issubclass(kind, float):
            return self._number(float.__float__(value))
        for base, write in _TEXT_WRITERS:
            if issubclass(kind, base):
                return self._redactor(write(value))
        return self._container(value, kind, level)

    def _number(self, value: int | float) -> Any:
        text = self._redactor(str(value))
        if text == SENSITIVE:
            return SENSITIVE
        is_plain = value - value == 0 and (isinstance(value, float) or len(text) <= MAX_DIGITS)
        return value if is_plain else text

    def _container(self, value: Any, kind: type[object], level: int) -> Any:
        if id(value) in self._around:
            return HOLDS_ITSELF
        entries = _entries(value, kind)
        items = None if entries is not None else _items(value, kind)
        if entries is None and items is None:
            if self._encode is None:
                return self._name(value)
            # `encode` must return plain types; it is not called for nested values.
            return _JsonWriter(self._redactor, None).value(self._encode(value), level)
        if level >= MAX_LEVELS:
            return TOO_DEEP
        self._around.add(id(value))
        try:
            if entries is not None:
                return self._dict(entries, level)
            return self._list(cast("Iterable[Any]", items), level)
        finally:
            self._around.discard(id(value))

    def _dict(self, entries: Iterable[tuple[Any, Any]], level: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, item in entries:
            if self._left <= 0:
                result[TOO_MANY] = TOO_MANY
                break
            result[self._key(key)] = self.value(item, level + 1)
        return result

    def _list(self, items: Iterable[Any], level: int) -> list[Any]:
        result: list[Any] = []
        for item in items:
            result.append(self.value(item, level + 1))
            if self._left < 0:
                break
        return result

    def _name(self, value: Any) -> str:
        return f"<{self._redactor(class_name(value))}>"

    def _key(self, key: Any) -> str:
        if key is None or type(key) is bool:
            return self._redactor(str(key))
        text = self.value(key, MAX_LEVELS)
        return text if type(text) is str else text_of(text)


def _entries(value: Any, kind: type[object]) -> Iterable[tuple[Any, Any]] | None:
    if issubclass(kind, dict):
        return _dict_items(value)
    if attrs.has(kind):
        return [(field.name, getattr(value, field.name)) for field in attrs.fields(kind)]
    if dataclasses.is_dataclass(kind):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(kind)]
    return cast("Mapping[Any, Any]", value).items() if issubclass(kind, Mapping) else None


def _items(value: Any, kind: type[object]) -> Iterable[Any] | None:
    return next((iterate(value) for base, iterate in _ITERATORS if issubclass(kind, base)), None)


# Iterators of the base classes: a subclass may override its own.
_dict_items: Callable[[Any], Iterable[tuple[Any, Any]]] = cast("Any", dict).items
_ITERATORS: tuple[tuple[type[object], Callable[[Any], Iterable[Any]]], ...] = tuple(
    (known, known.__iter__) for known in cast("tuple[Any, ...]", (list, tuple, set, frozenset))
)
_TEXT_WRITERS: tuple[tuple[type, Callable[[Any], str]], ...] = (
    (Decimal, Decimal.__str__),
    (datetime, datetime.isoformat),
    (date, date.isoformat),
    (time, time.isoformat),
    (timedelta, timedelta.__str__),
    (UUID, UUID.__str__),
    (PurePath, str),
    (bytes, lambda value: base64.b64encode(bytes(memoryview(value))).decode("ascii")),
)
