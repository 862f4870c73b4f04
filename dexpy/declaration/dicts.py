"""Dicts with keys of one type and values of another, which are objects in JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from dexpy.declaration.annotations import label_of, origin_of
from dexpy.declaration.arrays import last_position
from dexpy.declaration.misfits import Misfit, changed, misfit, step
from dexpy.declaration.shapes import DICT, Hook, Shape
from dexpy.declaration.texts import encode_text
from dexpy.foundation.errors import NotSerializable, Problem


def is_dict(annotation: Any) -> bool:
    """True for dict itself; a `Mapping` has no JSON form."""
    return origin_of(annotation) is dict


def dict_shape(annotation: Any) -> Shape:
    """The shape of a dict."""
    key, item = get_args(annotation) or (Any, Any)
    label = label_of(annotation)
    return Shape(
        frozenset({"object"}),
        lambda way: take_dict(way.hook(key), way.hook(item), wanted=label),
        lambda way: encode_dict(way.encoder(item), label=label),
        types=frozenset({dict}),
        mutable=True,
        parts=(key, item),
    )


def take_dict(take_key: Hook, inner: Hook, *, wanted: str) -> Hook:
    """A hook for a dict with keys of one form and values of another."""

    def structure(value: Any, _: Any = None) -> Any:
        if type(value) is not DICT:
            raise misfit(wanted, value)
        entries = iter(value.items())
        try:
            return {take_key(key, None): inner(item, None) for key, item in entries}
        except Misfit as first:
            raise Misfit(_entry_problems(first, value, entries, take_key, inner)) from None

    return structure


def _entry_problems(
    first: Misfit, value: dict[Any, Any], rest: Iterator[tuple[Any, Any]], take_key: Hook, inner: Hook
) -> Iterator[Problem]:
    key = list(value)[last_position(value, rest)]
    of_its_key = list(_key_problems(key, take_key))
    if of_its_key:
        yield from of_its_key
        yield from _value_problems(key, value[key], inner)
    else:
        yield from first.under(step(key))
    for later, item in rest:
        yield from _key_problems(later, take_key)
        yield from _value_problems(later, item, inner)


def _key_problems(key: Any, take_key: Hook) -> Iterator[Problem]:
    try:
        take_key(key, None)
    except Misfit as error:
        for problem in error.problems:
            yield Problem(step(key), f"{problem.wanted} as its key", problem.got)


def _value_problems(key: Any, item: Any, inner: Hook) -> Iterator[Problem]:
    try:
        inner(item, None)
    except Misfit as error:
        yield from error.under(step(key))


def encode_dict(inner: Hook, *, label: str) -> Hook:
    """A hook that makes a JSON object of a dict."""

    def encode(value: Any) -> dict[str, Any]:
        if type(value) is not DICT:
            raise changed(value, label)
        _refuse_keys(value)
        entries = iter(value.items())
        try:
            return {key: inner(item) for key, item in entries}
        except NotSerializable as error:
            key = list(value)[last_position(value, entries)]
            raise error.under(step(key)) from error.__cause__

    return encode


def _refuse_keys(value: Mapping[Any, Any]) -> None:
    """Refuses a dict with keys that JSON does not have."""
    for key in value:
        if type(key) is not str:
            raise NotSerializable(
                f"has a key of type {type(key).__name__}, and keys must be str in JSON: "
                "turn the keys into str, or carry a list of pairs"
            )
        try:
            encode_text(key)
        except NotSerializable as error:
            raise NotSerializable(f"has a key that {error.reason}") from None
