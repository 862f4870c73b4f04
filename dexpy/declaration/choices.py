"""Choices: enums and literals, whose values are known beforehand."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable
from enum import Enum, Flag
from typing import Any, Literal, get_args, get_origin

from dexpy.declaration.annotations import alternatives, label_of
from dexpy.declaration.misfits import changed, misfit
from dexpy.declaration.plain import walk_plain
from dexpy.declaration.shapes import JSON_TYPES, Shape, leaf, written
from dexpy.foundation.errors import DeclarationError, NotSerializable


def is_enum(annotation: Any) -> bool:
    """True for an enum with members; a base without any has no values."""
    return isinstance(annotation, type) and issubclass(annotation, Enum) and bool(annotation.__members__)


def enum_shape(annotation: Any) -> Shape:
    """The shape of an enum: it travels by value where all values are str or int, else by name."""
    members: list[Enum] = list(annotation.__members__.values())
    by_value = all(type(member.value) in (str, int) for member in members)
    json_of: Callable[[Any], Any] = operator.attrgetter("value" if by_value else "name")
    known = {json_of(member): member for member in members}
    is_flag = by_value and issubclass(annotation, Flag)
    member_of: Callable[[Any], Any] = _flags_reader(annotation) if is_flag else known.get
    wanted = f"sum of some of {alternatives(known)}" if is_flag else _one_of(known)

    def decode(value: Any, _: Any = None) -> Any:
        member = member_of(value) if type(value) in (str, int) else None
        if member is None:
            raise misfit(wanted, value)
        return member

    def write(member: Any) -> Any:
        return walk_plain(json_of(member))

    return written(annotation, _kinds_of(known), write=write, decode=decode)


def _flags_reader(cls: Any) -> Callable[[Any], Any]:
    """Reads combinations too, and none that comes out otherwise than it went in."""

    def read(value: Any) -> Any:
        try:
            flags = cls(value)
        except (ValueError, TypeError):
            return None
        return flags if type(flags) is cls and flags.value == value else None

    return read


def is_literal(annotation: Any) -> bool:
    """True for ``Literal[...]``."""
    return get_origin(annotation) is Literal


def literal_shape(annotation: Any, encode_one: Callable[[Any], Any]) -> Shape:
    """The shape of fixed values; a value travels as others of its type do, by `encode_one`."""
    label, values = label_of(annotation), get_args(annotation)

    def as_json(value: Any) -> Any:
        try:
            return encode_one(value)
        except NotSerializable as error:
            raise DeclarationError(f"{label} cannot be: a value of it {error.reason}.") from None

    # by their types too, because 1, True and 1.0 are equal
    json_of: dict[tuple[Any, Any], Any] = {(type(value), value): as_json(value) for value in values}
    value_of: dict[tuple[Any, Any], Any] = {(type(json), json): value for (_, value), json in json_of.items()}
    if len(value_of) < len(json_of):
        raise DeclarationError(f"{label} has two values that are the same in JSON. Leave one of them out.")
    # asked first, because a value of another type may not be hashable
    python_types: frozenset[type] = frozenset(cls for cls, _ in json_of)
    json_types: frozenset[type] = frozenset(cls for cls, _ in value_of)

    def is_known(value: Any) -> bool:
        return type(value) in python_types and (type(value), value) in json_of

    def check(value: Any, _: Any = None) -> Any:
        if is_known(value):
            return value
        raise misfit(_one_of(values), value)

    def decode(value: Any, _: Any = None) -> Any:
        if type(value) in json_types and (type(value), value) in value_of:
            return value_of[type(value), value]
        raise misfit(_one_of(json_of.values()), value)

    def parse(value: Any, _: Any = None) -> Any:
        return value if is_known(value) else decode(value)

    def encode(value: Any) -> Any:
        if is_known(value):
            return json_of[type(value), value]
        raise changed(value, label)

    return leaf(_kinds_of(json_of.values()), check=check, decode=decode, parse=parse, encode=encode, types=python_types)


def _kinds_of(json_values: Iterable[Any]) -> set[str]:
    return {next(kind for kind, (own, *_) in JSON_TYPES.items() if type(value) is own) for value in json_values}


def _one_of(values: Collection[Any]) -> str:
    text = alternatives(values)
    return f"one of {text}" if len(values) > 1 else text
