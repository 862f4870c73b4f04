"""Dicts with keys of one type and values of another, which are objects in JSON."""

from __future__ import annotations

import collections.abc
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from dexpy.codec.annotations import label_of, origin_of
from dexpy.codec.arrays import last_position
from dexpy.codec.base import DICT, Hook, Shape
from dexpy.codec.problems import InvalidValue, changed, invalid_value, path_segment
from dexpy.codec.strings import encode_text
from dexpy.foundation.errors import DeclarationError, NotSerializable, Problem


def is_dict(annotation: Any) -> bool:
    """Return True for dict and Mapping, whose values are dicts as well."""
    return origin_of(annotation) in (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def dict_shape(annotation: Any) -> Shape:
    """Return the shape of a dict."""
    label = label_of(annotation)
    if len(get_args(annotation)) not in (0, 2):
        raise DeclarationError(f"{label}: expected two type arguments, as in dict[str, int], got one.")
    key, item = get_args(annotation) or (Any, Any)
    return Shape(
        frozenset({"object"}),
        lambda conversion: decode_dict(conversion.hook(key), conversion.hook(item), expected=label),
        lambda conversion: encode_dict(conversion.encoder(item), label=label),
        types=frozenset({dict}),
        mutable=True,
        nested_annotations=(key, item),
    )


def decode_dict(take_key: Hook, item_hook: Hook, *, expected: str) -> Hook:
    """Return a hook for a dict with keys of one type and values of another."""

    def structure(value: Any, _: Any = None) -> Any:
        if type(value) is not DICT:
            raise invalid_value(expected, value)
        entries = iter(value.items())
        try:
            return {take_key(key, None): item_hook(item, None) for key, item in entries}
        except InvalidValue as first:
            raise InvalidValue(_entry_problems(first, value, entries, take_key, item_hook)) from None

    return structure


def _entry_problems(
    first: InvalidValue, value: dict[Any, Any], remaining: Iterator[tuple[Any, Any]], take_key: Hook, item_hook: Hook
) -> Iterator[Problem]:
    key = list(value)[last_position(value, remaining)]
    key_problems = list(_key_problems(key, take_key))
    if key_problems:
        yield from key_problems
        yield from _value_problems(key, value[key], item_hook)
    else:
        yield from first.under(path_segment(key))
    for later_key, item in remaining:
        yield from _key_problems(later_key, take_key)
        yield from _value_problems(later_key, item, item_hook)


def _key_problems(key: Any, take_key: Hook) -> Iterator[Problem]:
    try:
        take_key(key, None)
    except InvalidValue as error:
        for problem in error.problems:
            expected = f"{problem.expected} as a key" if problem.expected else ""
            yield Problem(path_segment(key), expected, problem.got, problem.reason)


def _value_problems(key: Any, item: Any, item_hook: Hook) -> Iterator[Problem]:
    try:
        item_hook(item, None)
    except InvalidValue as error:
        yield from error.under(path_segment(key))


def encode_dict(encode_item: Hook, *, label: str) -> Hook:
    """Return a hook that makes a JSON object of a dict."""

    def encode(value: Any) -> dict[str, Any]:
        if type(value) is not DICT:
            raise changed(value, label)
        _refuse_keys(value)
        entries = iter(value.items())
        try:
            return {key: encode_item(item) for key, item in entries}
        except NotSerializable as error:
            key = list(value)[last_position(value, entries)]
            raise error.under(path_segment(key)) from error.__cause__

    return encode


def _refuse_keys(value: Mapping[Any, Any]) -> None:
    """Refuse a dict with keys that JSON does not support."""
    for key in value:
        if type(key) is not str:
            raise NotSerializable(
                f"has a key of type {type(key).__name__}, but JSON keys are str: "
                "convert the keys to str, or use a list of pairs"
            )
        try:
            encode_text(key)
        except NotSerializable as error:
            raise NotSerializable(f"has a key that {error.reason}") from None
