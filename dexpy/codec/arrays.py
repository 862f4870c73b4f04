"""Lists, sets and tuples, which are arrays in JSON."""

from __future__ import annotations

import collections.abc
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from operator import length_hint
from typing import Any, cast, get_args, get_origin

from dexpy.codec.annotations import label_of, origin_of, special_name
from dexpy.codec.base import TUPLE, Conversion, Hook, Shape
from dexpy.codec.problems import InvalidValue, changed, invalid_value
from dexpy.foundation.errors import DeclarationError, NotSerializable, Problem

# ------------------------------------------------------------------------------------------- reading


_KINDS: Mapping[Any, type] = {
    list: list,
    set: set,
    frozenset: frozenset,
    collections.abc.MutableSequence: list,
    collections.abc.MutableSet: set,
    collections.abc.Sequence: tuple,
    collections.abc.Collection: tuple,
    collections.abc.Iterable: tuple,
    collections.abc.Set: frozenset,
}
"""The container for each annotation of items of one type; an immutable one for an abstract annotation."""
_ALTERNATIVES: Mapping[type, type] = {tuple: list, frozenset: set}
"""The containers that an abstract annotation accepts as well."""


def array_kind(annotation: Any) -> type | None:
    """Return the container of an annotation of items of one type; None for another annotation."""
    kind = origin_of(annotation)
    if kind is tuple:
        arguments = get_args(annotation)
        is_bare = annotation is tuple or special_name(annotation) == "Tuple"
        return tuple if is_bare or (len(arguments) == 2 and arguments[1] is Ellipsis) else None
    return _KINDS.get(kind) if isinstance(kind, type) else None


def is_array(annotation: Any) -> bool:
    """Return True for an annotation of items of one type: list, set, ``tuple[int, ...]``, Sequence."""
    return array_kind(annotation) is not None


def array_shape(annotation: Any) -> Shape:
    """Return the shape of items of one type."""
    kind, label = cast("type", array_kind(annotation)), label_of(annotation)
    if kind is not tuple and len(get_args(annotation)) > 1:
        raise DeclarationError(
            f"{label}: expected one type argument, as in list[int], got {len(get_args(annotation))}."
        )
    item = (get_args(annotation) or (Any,))[0]
    is_abstract = origin_of(annotation) is not kind
    build = None if kind is list else tuple if kind is tuple else _set_builder(kind, label)
    alternatives = (_ALTERNATIVES[kind],) if is_abstract and kind in _ALTERNATIVES else ()
    return Shape(
        frozenset({"array"}),
        lambda conversion: decode_array(
            conversion.hook(item),
            accepted=(*_accepted_types(kind, conversion), *_accepted_alternatives(alternatives, conversion)),
            build=build,
            expected=label,
        ),
        lambda conversion: encode_array(conversion.encoder(item), kind=kind, label=label),
        types=frozenset({kind, *alternatives}),
        mutable=kind in (list, set),
        nested_annotations=(item,),
    )


def _accepted_alternatives(alternatives: tuple[type, ...], conversion: Conversion) -> tuple[type, ...]:
    return alternatives if conversion.takes_python else ()


def is_tuple(annotation: Any) -> bool:
    """Return True for a tuple with a type for each position, unlike ``tuple[int, *tuple[str, ...]]``."""
    return origin_of(annotation) is tuple and not any(
        getattr(argument, "__unpacked__", False) or special_name(get_origin(argument)) == "Unpack"
        for argument in get_args(annotation)
    )


def tuple_shape(annotation: Any) -> Shape:
    """Return the shape of a tuple with a type for each position."""
    arguments, label = get_args(annotation), label_of(annotation)
    return Shape(
        frozenset({"array"}),
        lambda conversion: decode_tuple(
            map(conversion.hook, arguments), accepted=_accepted_types(tuple, conversion), expected=label
        ),
        lambda conversion: encode_tuple(map(conversion.encoder, arguments), label=label),
        types=frozenset({tuple}),
        nested_annotations=arguments,
    )


def _accepted_types(kind: type, conversion: Conversion) -> tuple[type, ...]:
    """Return the containers that one direction accepts for one kind of array."""
    python = (kind,) if conversion.takes_python else ()
    return (*python, list) if conversion.takes_json else python


# -------------------------------------------------------------------------------------------- decoding


def decode_array(
    item_hook: Hook, *, accepted: tuple[type, ...], build: Callable[[list[Any]], Any] | None, expected: str
) -> Hook:
    """Return a hook for items of one type; `build` makes the container from a list, None keeps the list."""

    def structure(value: Any, _: Any = None) -> Any:
        if type(value) not in accepted:
            raise invalid_value(expected, value)
        items = iter(value)
        try:
            result = [item_hook(item, None) for item in items]
        except InvalidValue as first:
            raise InvalidValue(_item_problems(first, value, items, item_hook)) from None
        return result if build is None else build(result)

    return structure


def _item_problems(first: InvalidValue, value: Any, remaining: Iterator[Any], item_hook: Hook) -> Iterator[Problem]:
    """Yield the problems of the item that failed and of those after it.

    The iterator is past the item that failed, so no item is checked twice: in nested
    values a second check at each level would double the work of the level below.
    """
    position = last_position(value, remaining)
    yield from first.under(_item_step(value, position))
    for index, item in enumerate(remaining, position + 1):
        try:
            item_hook(item, None)
        except InvalidValue as error:
            yield from error.under(_item_step(value, index))


def last_position(value: Sized, remaining: Iterator[Any]) -> int:
    """Return the index of the last item that an iterator returned."""
    return len(value) - length_hint(remaining) - 1


def _item_step(value: Any, position: int) -> str:
    return "[*]" if isinstance(value, set | frozenset) else f"[{position}]"


def _set_builder(kind: Callable[[list[Any]], Any], expected: str) -> Callable[[list[Any]], Any]:
    """Make a set; an element that is not hashable is a problem."""

    def build(items: list[Any]) -> Any:
        try:
            return kind(items)
        except Exception:  # noqa: BLE001 - the hash and the equality may be the application's own
            raise invalid_value(f"{expected} of hashable elements", items) from None

    return build


def decode_tuple(hooks: Iterable[Hook], *, accepted: tuple[type, ...], expected: str) -> Hook:
    """Return a hook for a tuple with a type for each position."""
    item_hooks: Sequence[Hook] = tuple(hooks)

    def structure(value: Any, _: Any = None) -> Any:
        if type(value) not in accepted:
            raise invalid_value(expected, value)
        if len(value) != len(item_hooks):
            raise invalid_value(f"{expected} with {len(item_hooks)} items", value)
        result: list[Any] = []
        problems: list[Problem] = []
        for position, item_hook in enumerate(item_hooks):
            try:
                result.append(item_hook(value[position], None))
            except InvalidValue as error:
                problems += error.under(f"[{position}]")
        if problems:
            raise InvalidValue(problems)
        return tuple(result)

    return structure


# ------------------------------------------------------------------------------------------- encoding

_canonical_text = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def encode_array(encode_item: Hook, *, kind: type[Any], label: str) -> Hook:
    """Return a hook that makes a JSON array, sorted for a set."""
    is_set = issubclass(kind, set | frozenset)

    def encode(value: Any) -> list[Any]:
        if type(value) is not kind:
            raise changed(value, label)
        items = iter(value)
        try:
            result = [encode_item(item) for item in items]
        except NotSerializable as error:
            raise error.under(_item_step(value, last_position(value, items))) from error.__cause__
        return sorted(result, key=_canonical_text) if is_set else result

    return encode


def encode_tuple(hooks: Iterable[Hook], *, label: str) -> Hook:
    """Return a hook that encodes a tuple with a type for each position as a JSON array."""
    item_hooks: Sequence[Hook] = tuple(hooks)

    def encode(value: Any) -> list[Any]:
        if type(value) is not TUPLE or len(value) != len(item_hooks):
            raise changed(value, label)
        result: list[Any] = []
        for encode_item, item in zip(item_hooks, value, strict=True):
            try:
                result.append(encode_item(item))
            except NotSerializable as error:
                raise error.under(f"[{len(result)}]") from error.__cause__
        return result

    return encode
