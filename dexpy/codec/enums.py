"""Choices: enums and literals, whose values are fixed."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum, EnumMeta, Flag
from typing import Any, Literal, get_args, get_origin

import attrs

from dexpy.codec.annotations import alternatives, label_of
from dexpy.codec.base import JSON_TYPES, Shape
from dexpy.codec.plain_json import walk_plain
from dexpy.codec.problems import changed, invalid_value
from dexpy.codec.simple_values import encoded_type, leaf
from dexpy.foundation.errors import DeclarationError, NotSerializable


def is_enum(annotation: Any) -> bool:
    """Return True for an enum with members; a base class without members has no values."""
    return isinstance(annotation, type) and issubclass(annotation, Enum) and bool(annotation.__members__)


def has_rule(annotation: Any) -> bool:
    """Return whether an enum, or one in a literal, accepts more than its values, by ``_missing_`` or aliases."""
    if is_literal(annotation):
        return any(has_rule(type(value)) for value in get_args(annotation) if isinstance(value, Enum))
    if not is_enum(annotation):
        return False
    missing_method = getattr(annotation._missing_, "__func__", None)
    by_value: Mapping[Any, Enum] = annotation._value2member_map_
    return (
        getattr(missing_method, "__module__", "enum") != "enum"
        or type(annotation).__call__ is not EnumMeta.__call__
        or len(by_value) > len({member.value for member in by_value.values()})
    )


def enum_shape(annotation: Any) -> Shape:
    """Return the shape of an enum: its JSON is the value if all values are str or int, else the name.

    The rule of the enum, if any, decodes values without a member.
    """
    members: Mapping[str, Enum] = annotation.__members__
    by_value = all(type(member.value) in (str, int) for member in members.values())
    json_of: Callable[[Any], Any] = operator.attrgetter("value" if by_value else "name")
    # An alias is another name of a member.
    member_by_json = {member.value if by_value else name: member for name, member in members.items()}
    is_flag = by_value and issubclass(annotation, Flag)
    member_of: Callable[[Any], Any] = _flags_reader(annotation) if is_flag else member_by_json.get
    by_rule = _rule_of(annotation) if has_rule(annotation) else None
    expected = f"a combination of {alternatives(member_by_json)}" if is_flag else _one_of(member_by_json)

    def decode(value: Any, _: Any = None) -> Any:
        if type(value) not in (str, int):
            raise invalid_value(expected, value)
        member = member_of(value)
        if member is None and by_rule is not None:
            member = by_rule(value)
        if member is None:
            raise invalid_value(expected, value)
        return member

    def write(member: Any) -> Any:
        return walk_plain(json_of(member))

    shape = encoded_type(annotation, _kinds_of(member_by_json), encode_value=write, decode=decode)
    return shape if by_rule is None else attrs.evolve(shape, decodable_kinds=frozenset({"string", "integer"}))


def _rule_of(cls: Any) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        try:
            member = cls(value)
        except Exception:  # noqa: BLE001 - an exception of the application's rule means that the value does not fit
            return None
        return member if type(member) is cls else None

    return read


def _flags_reader(cls: Any) -> Callable[[Any], Any]:
    """Return a function that decodes flags and combinations of flags; others are None."""

    def read(value: Any) -> Any:
        try:
            flags = cls(value)
        except Exception:  # noqa: BLE001 - a rule of the application may raise anything
            return None
        return flags if type(flags) is cls and flags.value == value else None

    return read


def is_literal(annotation: Any) -> bool:
    """Return True for ``Literal[...]``."""
    return get_origin(annotation) is Literal


def literal_shape(annotation: Any, encode_one: Callable[[Any], Any]) -> Shape:
    """Return the shape of fixed values, each encoded like other values of its type, by `encode_one`."""
    label, values = label_of(annotation), get_args(annotation)

    def as_json(value: Any) -> Any:
        try:
            return encode_one(value)
        except NotSerializable as error:
            raise DeclarationError(f"{label}: invalid literal; a value {error.reason}.") from None

    # The keys contain the types, because 1, True and 1.0 are equal.
    json_of: dict[tuple[Any, Any], Any] = {(type(value), value): as_json(value) for value in values}
    value_of: dict[tuple[Any, Any], Any] = {(type(json), json): value for (_, value), json in json_of.items()}
    if len(value_of) < len(json_of):
        raise DeclarationError(f"{label}: two values have the same JSON. Remove one of them.")
    # Types are checked first, because a value of another type may not be hashable.
    python_types: frozenset[type] = frozenset(cls for cls, _ in json_of)
    json_types: frozenset[type] = frozenset(cls for cls, _ in value_of)

    expected, expected_json = _one_of(values), _one_of(json_of.values())
    by_rules = [_rule_of(cls) for cls in dict.fromkeys(map(type, values)) if has_rule(cls)]

    def is_known(value: Any) -> bool:
        return type(value) in python_types and (type(value), value) in json_of

    def check(value: Any, _: Any = None) -> Any:
        if is_known(value):
            return value
        raise invalid_value(expected, value, *python_types)

    def decode(value: Any, _: Any = None) -> Any:
        if type(value) in json_types and (type(value), value) in value_of:
            return value_of[type(value), value]
        if type(value) in (str, int):
            for read in by_rules:
                if is_known(member := read(value)):
                    return member
        raise invalid_value(expected_json, value)

    def parse(value: Any, _: Any = None) -> Any:
        return value if is_known(value) else decode(value)

    def encode(value: Any) -> Any:
        if is_known(value):
            return json_of[type(value), value]
        raise changed(value, label, *python_types)

    kinds = _kinds_of(json_of.values())
    shape = leaf(kinds, check=check, decode=decode, parse=parse, encode=encode, types=python_types)
    return attrs.evolve(shape, decodable_kinds=frozenset({"string", "integer"})) if by_rules else shape


def _kinds_of(json_values: Iterable[Any]) -> set[str]:
    return {
        next(kind for kind, (json_type, *_) in JSON_TYPES.items() if type(value) is json_type) for value in json_values
    }


def _one_of(values: Collection[Any]) -> str:
    text = alternatives(values)
    return f"one of {text}" if len(values) > 1 else text
