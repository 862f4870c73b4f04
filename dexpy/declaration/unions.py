"""Unions: the member that a value belongs to is found by the value's type, or by the class's name in JSON."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType
from typing import Any, TypeAlias

import attrs

from dexpy.declaration.annotations import label_of, members_of
from dexpy.declaration.misfits import Misfit, changed, misfit
from dexpy.declaration.shapes import JSON_TYPES, Hook, Reader, Shape, Way
from dexpy.foundation.errors import DeclarationError, listed

TAG = "$type"
"""The key that tells the classes of one union apart."""

_Members: TypeAlias = Sequence[tuple[Any, Shape]]

# ------------------------------------------------------------------------------------------- reading


def union_shape(annotation: Any, shape_of: Reader) -> Shape:
    """The shape of a union, of the shapes of its members."""
    label = label_of(annotation)
    # an int belongs to int where there is one; what takes everything comes last
    members = sorted(
        ((member, shape_of(member)) for member in dict.fromkeys(members_of(annotation))),
        key=lambda member: (member[0] is float, not member[1].kinds),
    )
    tags = {member: shape.tag for member, shape in members if shape.tag}
    if len(tags) == 1:  # one class alone is told from the rest without
        tags = {}
    _refuse_clashes(label, members, tags)
    wanted = " or ".join(label_of(member) for member in members_of(annotation))
    or_none = any(member is NoneType for member, _ in members)

    def structure(way: Way) -> Hook:
        by_type: dict[type, Hook] = {}
        others: list[Hook] = []
        for member, shape in members:
            hook = way.hook(member)
            for cls in _types_of(shape, way):
                by_type.setdefault(cls, hook)
            if shape.is_open and way.takes_python:
                others.append(hook)
        if tags and way.takes_json:
            by_type[dict] = _take_tagged({tag: way.hook(member) for member, tag in tags.items()})
        return _take_union(by_type, others, wanted=wanted, or_none=or_none)

    def encode(way: Way) -> Hook:
        by_type: dict[type, Hook] = {}
        others: list[tuple[Hook, Hook]] = []
        for member, shape in members:
            hook = way.encoder(member)
            hook = _encode_tagged(tags[member], hook) if member in tags else hook
            for cls in shape.types:
                by_type.setdefault(cls, hook)
            if shape.is_open:
                others.append((way.checker(member), hook))
        return _encode_union(by_type, others, label=label)

    kinds = frozenset[str]().union(*(shape.kinds for _, shape in members))
    return Shape(kinds, structure, encode, parts=tuple(member for member, _ in members))


def _types_of(shape: Shape, way: Way) -> Iterator[type]:
    """The types by which values of a shape are known, on one way in."""
    if way.takes_json:
        yield from itertools.chain.from_iterable(JSON_TYPES[kind] for kind in shape.kinds)
    if way.takes_python:
        yield from shape.types


def _refuse_clashes(label: str, members: _Members, tags: Mapping[Any, str]) -> None:
    for (one, one_shape), (other, other_shape) in itertools.combinations(members, 2):
        names = f"{label_of(one)} and {label_of(other)}"
        if one in tags and other in tags:
            if tags[one] == tags[other]:
                raise DeclarationError(
                    f"{label} cannot be: the classes {names} have the same name, which tells them apart in JSON. "
                    "Rename one of them."
                )
            continue
        shared = _without_ints(one_shape.kinds) & _without_ints(other_shape.kinds) - {"null"}
        if shared and {one, other} != {int, float}:
            raise DeclarationError(
                f"{label} cannot be: {names} can both be a JSON {min(shared)}, so a stored value could be either. "
                "Use one type, or wrap one of them in a class (attrs or dataclass)."
            )


def _without_ints(kinds: frozenset[str]) -> frozenset[str]:
    return kinds - {"integer"} | {"number"} if "integer" in kinds else kinds


# -------------------------------------------------------------------------------------------- way in


def _take_union(by_type: Mapping[type, Hook], others: Sequence[Hook], *, wanted: str, or_none: bool) -> Hook:
    """A hook that finds the member by the value's type, and else asks the others one by one."""

    def structure(value: object, _: Any = None) -> Any:
        hook = by_type.get(type(value))
        refusal: Misfit | None = None
        if hook is not None:
            try:
                return hook(value, None)
            except Misfit as error:
                refusal = error
        for other in others:
            try:
                return other(value, None)
            except Misfit:
                continue
        if refusal is None:
            raise misfit(wanted, value)
        raise _with_none(refusal) if or_none else refusal

    return structure


def _with_none(refusal: Misfit) -> Misfit:
    """The refusal of the member that was meant, saying that None would have done as well."""
    return Misfit(
        problem if problem.path else attrs.evolve(problem, wanted=f"{problem.wanted} or None")
        for problem in refusal.problems
    )


def _take_tagged(by_tag: Mapping[str, Hook]) -> Hook:
    """A hook for JSON objects that name their class."""
    wanted = f"object whose {TAG!r} is one of {listed(by_tag)}"

    def structure(value: Any, _: Any = None) -> Any:
        tag = value.get(TAG)
        if type(tag) is not str or tag not in by_tag:
            raise misfit(wanted, value)
        return by_tag[tag]({key: item for key, item in value.items() if key != TAG}, None)

    return structure


# ------------------------------------------------------------------------------------------- way out


def _encode_union(by_type: Mapping[type, Hook], others: Sequence[tuple[Hook, Hook]], *, label: str) -> Hook:
    """A hook that encodes by the member that a value belongs to; `others` are pairs of check and encode."""

    def encode(value: object) -> Any:
        hook = by_type.get(type(value))
        if hook is not None:
            return hook(value)
        for check, other in others:
            try:
                check(value)
            except Misfit:
                continue
            return other(value)
        raise changed(value, label)

    return encode


def _encode_tagged(tag: str, inner: Hook) -> Hook:
    """A hook that names the class in its JSON object."""

    def encode(value: Any) -> dict[str, Any]:
        return {TAG: tag, **inner(value)}

    return encode
