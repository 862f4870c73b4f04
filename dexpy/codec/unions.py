"""Unions: the type of a value, or the name of its class in JSON, selects the member."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType
from typing import Any, TypeAlias

import attrs

from dexpy.codec.annotations import label_of, members_of, origin_of, without_constraints
from dexpy.codec.base import JSON_TYPES, Conversion, Hook, Reader, Shape
from dexpy.codec.problems import InvalidValue, changed, invalid_value
from dexpy.foundation.errors import DeclarationError, Problem, listed

TAG = "$type"
"""The key that names the class in a union of several classes."""

_Members: TypeAlias = Sequence[tuple[Any, Shape]]

# ------------------------------------------------------------------------------------------- reading


def union_shape(annotation: Any, shape_of: Reader) -> Shape:
    """Return the shape of a union, built from the shapes of its members."""
    label = label_of(annotation)
    # An int is decoded by int rather than float; members that accept any value are last.
    members = sorted(
        ((member, shape_of(member)) for member in dict.fromkeys(members_of(annotation))),
        key=lambda member: (without_constraints(member[0]) is float, not member[1].kinds),
    )
    tags = {member: shape.tag for member, shape in members if shape.tag}
    if len(tags) == 1:  # a single class does not need a tag
        tags = {}
    _refuse_clashes(label, members, tags)
    expected = " or ".join(label_of(member) for member in members_of(annotation))
    classes = [cls for member, shape in members for cls in (*shape.types, origin_of(without_constraints(member)))]
    or_none = any(member is NoneType for member, _ in members)

    def structure(conversion: Conversion) -> Hook:
        by_type: dict[type, Hook] = {}
        open_hooks: list[Hook] = []
        for member, shape in members:
            hook = conversion.hook(member)
            for cls in _types_of(shape, conversion):
                by_type.setdefault(cls, hook)
            if shape.is_open and conversion.takes_python:
                open_hooks.append(hook)
        for member, shape in members:
            for cls in itertools.chain.from_iterable(
                JSON_TYPES[kind] for kind in shape.decodable_kinds if conversion.takes_json
            ):
                by_type.setdefault(cls, conversion.hook(member))
        if tags and conversion.takes_json:
            by_type[dict] = _decode_tagged({tag: conversion.hook(member) for member, tag in tags.items()})
        return _decode_union(by_type, open_hooks, expected=expected, or_none=or_none, classes=classes)

    def encode(conversion: Conversion) -> Hook:
        by_type: dict[type, Hook] = {}
        open_hooks: list[tuple[Hook, Hook]] = []
        for member, shape in members:
            hook = conversion.encoder(member)
            hook = _encode_tagged(tags[member], hook) if member in tags else hook
            for cls in shape.types:
                by_type.setdefault(cls, hook)
            if shape.is_open:
                open_hooks.append((conversion.checker(member), hook))
        return _encode_union(by_type, open_hooks, label=label)

    kinds = frozenset[str]().union(*(shape.kinds for _, shape in members))
    return Shape(kinds, structure, encode, nested_annotations=tuple(member for member, _ in members))


def _types_of(shape: Shape, conversion: Conversion) -> Iterator[type]:
    """Yield the types that identify values of a shape, in one direction."""
    if conversion.takes_json:
        yield from itertools.chain.from_iterable(JSON_TYPES[kind] for kind in shape.kinds)
    if conversion.takes_python:
        yield from shape.types


def _refuse_clashes(label: str, members: _Members, tags: Mapping[Any, str]) -> None:
    for (first, first_shape), (second, second_shape) in itertools.combinations(members, 2):
        names = f"{label_of(first)} and {label_of(second)}"
        if first in tags and second in tags:
            if tags[first] == tags[second]:
                raise DeclarationError(
                    f"{label}: ambiguous union; the classes {names} have the same name, which identifies them in JSON. "
                    "Rename one of them."
                )
            continue
        shared = _with_ints_as_numbers(first_shape.kinds) & _with_ints_as_numbers(second_shape.kinds) - {"null"}
        if shared and {without_constraints(first), without_constraints(second)} != {int, float}:
            raise DeclarationError(
                f"{label}: ambiguous union; {names} are both stored as a JSON {min(shared)}. "
                "Use one type, or wrap one of them in a class (attrs or dataclass)."
            )


def _with_ints_as_numbers(kinds: frozenset[str]) -> frozenset[str]:
    return kinds - {"integer"} | {"number"} if "integer" in kinds else kinds


# -------------------------------------------------------------------------------------------- decoding


def _decode_union(
    by_type: Mapping[type, Hook], open_hooks: Sequence[Hook], *, expected: str, or_none: bool, classes: Sequence[type]
) -> Hook:
    """Return a hook that selects the member by the type of the value, or else tries the open members in turn."""

    def structure(value: object, _: Any = None) -> Any:
        hook = by_type.get(type(value))
        refusal: InvalidValue | None = None
        if hook is not None:
            try:
                return hook(value, None)
            except InvalidValue as error:
                refusal = error
        for open_hook in open_hooks:
            try:
                return open_hook(value, None)
            except InvalidValue:
                continue
        if refusal is None:
            raise invalid_value(expected, value, *classes)
        raise _with_none(refusal) if or_none else refusal

    return structure


def _with_none(refusal: InvalidValue) -> InvalidValue:
    """Return the error of the matching member, with None as an alternative."""

    def with_none(problem: Problem) -> Problem:
        is_whole = not problem.path and problem.expected
        return attrs.evolve(problem, expected=f"{problem.expected} or None") if is_whole else problem

    return InvalidValue(map(with_none, refusal.problems))


def _decode_tagged(by_tag: Mapping[str, Hook]) -> Hook:
    """Return a hook for JSON objects with the name of their class."""
    expected = f"object whose {TAG!r} is one of {listed(by_tag)}"

    def structure(value: Any, _: Any = None) -> Any:
        tag = value.get(TAG)
        if type(tag) is not str or tag not in by_tag:
            raise invalid_value(expected, value)
        return by_tag[tag]({key: item for key, item in value.items() if key != TAG}, None)

    return structure


# ------------------------------------------------------------------------------------------- encoding


def _encode_union(by_type: Mapping[type, Hook], open_hooks: Sequence[tuple[Hook, Hook]], *, label: str) -> Hook:
    """Return a hook that encodes a value by its member; `open_hooks` are pairs of check and encode."""

    def encode(value: object) -> Any:
        hook = by_type.get(type(value))
        if hook is not None:
            return hook(value)
        for check, encode_open in open_hooks:
            try:
                check(value)
            except InvalidValue:
                continue
            return encode_open(value)
        raise changed(value, label)

    return encode


def _encode_tagged(tag: str, encode_object: Hook) -> Hook:
    """Return a hook that adds the name of the class to its JSON object."""

    def encode(value: Any) -> dict[str, Any]:
        return {TAG: tag, **encode_object(value)}

    return encode
