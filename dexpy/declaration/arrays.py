"""Lists, sets and tuples, which are arrays in JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from operator import length_hint
from typing import Any, get_args, get_origin

from dexpy.declaration.annotations import label_of, origin_of, special_name
from dexpy.declaration.misfits import Misfit, changed, misfit
from dexpy.declaration.shapes import TUPLE, Hook, Shape, Way
from dexpy.foundation.errors import NotSerializable, Problem

# ------------------------------------------------------------------------------------------- reading


def is_array(annotation: Any) -> bool:
    """True for an annotation of items of one type: list, set, frozenset, ``tuple[int, ...]``."""
    kind = origin_of(annotation)
    if kind is tuple:
        arguments = get_args(annotation)
        is_bare = annotation is tuple or special_name(annotation) == "Tuple"
        return is_bare or (len(arguments) == 2 and arguments[1] is Ellipsis)
    return kind in (list, set, frozenset)


def array_shape(annotation: Any) -> Shape:
    """The shape of items of one type."""
    kind, label = origin_of(annotation), label_of(annotation)
    item = (get_args(annotation) or (Any,))[0]
    build = None if kind is list else tuple if kind is tuple else _hashed(kind, label)
    return Shape(
        frozenset({"array"}),
        lambda way: take_array(way.hook(item), taken=_taken(kind, way), build=build, wanted=label),
        lambda way: encode_array(way.encoder(item), taken=kind, label=label),
        types=frozenset({kind}),
        mutable=kind in (list, set),
        parts=(item,),
    )


def is_tuple(annotation: Any) -> bool:
    """True for a tuple with a type for each place; ``tuple[int, *tuple[str, ...]]`` is none."""
    return origin_of(annotation) is tuple and not any(
        getattr(place, "__unpacked__", False) or special_name(get_origin(place)) == "Unpack"
        for place in get_args(annotation)
    )


def tuple_shape(annotation: Any) -> Shape:
    """The shape of a tuple with a type for each place."""
    places, label = get_args(annotation), label_of(annotation)
    return Shape(
        frozenset({"array"}),
        lambda way: take_tuple(map(way.hook, places), taken=_taken(tuple, way), wanted=label),
        lambda way: encode_tuple(map(way.encoder, places), label=label),
        types=frozenset({tuple}),
        parts=places,
    )


def _taken(kind: type, way: Way) -> tuple[type, ...]:
    """The containers that one way takes for one kind of array."""
    python = (kind,) if way.takes_python else ()
    return (*python, list) if way.takes_json else python


# -------------------------------------------------------------------------------------------- way in


def take_array(inner: Hook, *, taken: tuple[type, ...], build: Callable[[list[Any]], Any] | None, wanted: str) -> Hook:
    """A hook for items of one form; `build` makes the container of a list, None leaves the list."""

    def structure(value: Any, _: Any = None) -> Any:
        if type(value) not in taken:
            raise misfit(wanted, value)
        items = iter(value)
        try:
            made = [inner(item, None) for item in items]
        except Misfit as first:
            raise Misfit(_item_problems(first, value, items, inner)) from None
        return made if build is None else build(made)

    return structure


def _item_problems(first: Misfit, value: Any, rest: Iterator[Any], inner: Hook) -> Iterator[Problem]:
    """The problems of the item that failed and of those after it.

    The iterator stands behind the item that failed, so no item is looked at twice: in nested
    values a second look at each level would double the work of the level below.
    """
    position = last_position(value, rest)
    yield from first.under(_item_step(value, position))
    for later, item in enumerate(rest, position + 1):
        try:
            inner(item, None)
        except Misfit as another:
            yield from another.under(_item_step(value, later))


def last_position(value: Sized, rest: Iterator[Any]) -> int:
    """The index of the item that an iterator gave last."""
    return len(value) - length_hint(rest) - 1


def _item_step(value: Any, position: int) -> str:
    return "[*]" if isinstance(value, set | frozenset) else f"[{position}]"


def _hashed(kind: Callable[[list[Any]], Any], wanted: str) -> Callable[[list[Any]], Any]:
    """Makes a set, or a problem of what cannot be in one."""

    def build(items: list[Any]) -> Any:
        try:
            return kind(items)
        except TypeError:
            raise misfit(f"{wanted} of hashable elements", items) from None

    return build


def take_tuple(places: Iterable[Hook], *, taken: tuple[type, ...], wanted: str) -> Hook:
    """A hook for a tuple with a form for each place."""
    inners: Sequence[Hook] = tuple(places)

    def structure(value: Any, _: Any = None) -> Any:
        if type(value) not in taken:
            raise misfit(wanted, value)
        if len(value) != len(inners):
            raise misfit(f"{wanted}, so {len(inners)} in number", value)
        made: list[Any] = []
        problems: list[Problem] = []
        for position, inner in enumerate(inners):
            try:
                made.append(inner(value[position], None))
            except Misfit as error:
                problems += error.under(f"[{position}]")
        if problems:
            raise Misfit(problems)
        return tuple(made)

    return structure


# ------------------------------------------------------------------------------------------- way out

_canonical_text = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def encode_array(inner: Hook, *, taken: type[Any], label: str) -> Hook:
    """A hook that makes a JSON array; of a set, a sorted one."""
    is_set = issubclass(taken, set | frozenset)

    def encode(value: Any) -> list[Any]:
        if type(value) is not taken:
            raise changed(value, label)
        items = iter(value)
        try:
            made = [inner(item) for item in items]
        except NotSerializable as error:
            raise error.under(_item_step(value, last_position(value, items))) from error.__cause__
        return sorted(made, key=_canonical_text) if is_set else made

    return encode


def encode_tuple(places: Iterable[Hook], *, label: str) -> Hook:
    """A hook that makes a JSON array of a tuple with a form for each place."""
    inners: Sequence[Hook] = tuple(places)

    def encode(value: Any) -> list[Any]:
        if type(value) is not TUPLE or len(value) != len(inners):
            raise changed(value, label)
        made: list[Any] = []
        for inner, item in zip(inners, value, strict=True):
            try:
                made.append(inner(item))
            except NotSerializable as error:
                raise error.under(f"[{len(made)}]") from error.__cause__
        return made

    return encode
