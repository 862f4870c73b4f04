"""Plain JSON: values without a declared type, for example of the annotations Any and object."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from enum import Enum
from types import NoneType
from typing import Any, cast

import attrs

from dexpy.codec.arrays import encode_array
from dexpy.codec.base import DICT, JSON_TYPES, LIST, Hook, Shape
from dexpy.codec.mappings import encode_dict
from dexpy.codec.scalars import SCALARS
from dexpy.codec.simple_values import encode_float, encode_int, float_key, identity
from dexpy.codec.strings import encode_text
from dexpy.foundation.errors import NotSerializable

TOO_DEEP = "is nested too deeply, or contains itself"


def plain_json(value: Any) -> Any:
    """Return a copy of a value without a declared type, if it is plain JSON.

    Args:
        value: None, bool, int, float, str, and lists and dicts (with str keys) of these.

    Returns:
        An equal value in new containers.

    Raises:
        NotSerializable: A part of it is not plain JSON; `path` is its place.

    Example:
        >>> plain_json({"k": [1, None, "a"]})
        {'k': [1, None, 'a']}
        >>> plain_json({"k": [float("nan")]})
        Traceback (most recent call last):
        ...
        dexpy.errors.NotSerializable: ['k'][0] is NaN or infinite, which JSON does not support: use None
    """
    try:
        return walk_plain(value)
    except RecursionError:
        raise NotSerializable(TOO_DEEP) from None


def is_anything(annotation: Any) -> bool:
    """Return whether an annotation allows any value."""
    return annotation is Any or annotation is object


def anything_shape(annotation: Any) -> Shape:
    """Return the shape of values without a declared type."""
    return Shape(
        frozenset(JSON_TYPES),
        lambda _: _copied,
        lambda _: walk_plain,
        is_open=True,
        mutable=True,
        key=lambda _: walk_plain_key,
    )


def _copied(value: Any, _: Any = None) -> Any:
    """Copy the lists and dicts of an untyped value; other values are checked when they are encoded."""
    if type(value) is LIST:
        return [_copied(item, None) for item in value]
    if type(value) is DICT:
        return {key: _copied(item, None) for key, item in value.items()}
    return value


def walk_plain(value: object) -> Any:
    """Encode a part of a value as `plain_json` does; the caller handles values that are nested too deeply."""
    encode: Hook = _PLAIN.get(type(value)) or _refuse
    return encode(value)


_PLAIN: Mapping[type, Hook] = {
    NoneType: identity,
    bool: identity,
    int: encode_int,
    float: encode_float,
    str: encode_text,
    list: encode_array(walk_plain, kind=list, label="list"),
    dict: encode_dict(walk_plain, label="dict"),
}


def plain_key(value: object) -> Any:
    """Return a value without a declared type as JSON that is the same for equal values, with tuples as lists.

    Raises:
        NotSerializable: A part of it is not plain JSON; `path` is its place.
    """
    try:
        return walk_plain_key(_as_plain(value))
    except RecursionError:
        raise NotSerializable(TOO_DEEP) from None


def _as_plain(value: object) -> Any:
    """Return a value with tuples as lists, and with instances of subclasses, such as str enums, as plain values."""
    if isinstance(value, (list, tuple)):
        return [_as_plain(item) for item in cast("Sequence[object]", value)]
    if isinstance(value, dict):
        return {key: _as_plain(item) for key, item in cast("dict[Any, object]", value).items()}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (int, float)) and type(value) is not bool:
        return int(value) if isinstance(value, int) else float(value)
    return value


def walk_plain_key(value: object) -> Any:
    """Encode like `walk_plain`, with the same JSON for equal numbers."""
    encode: Hook = _PLAIN_KEY.get(type(value)) or walk_plain
    return encode(value)


_PLAIN_KEY: Mapping[type, Hook] = {
    float: float_key,
    list: encode_array(walk_plain_key, kind=list, label="list"),
    dict: encode_dict(walk_plain_key, label="dict"),
}

_TYPED_REMEDIES: Mapping[type, str] = {
    tuple: "tuple[int, ...]",
    set: "set[int]",
    frozenset: "frozenset[int]",
}


def _refuse(value: object) -> Any:
    cls = type(value)
    name = cls.__name__
    has_fields = attrs.has(cls) or dataclasses.is_dataclass(cls)
    if cls in SCALARS or cls in _TYPED_REMEDIES or isinstance(value, Enum) or has_fields:
        raise NotSerializable(
            f"is of type {name}, but without a declared type only plain JSON is supported: "
            f"give the prop a type such as dict[str, {_TYPED_REMEDIES.get(cls, name)}]"
        )
    for plain in (dict, list, str, int, float):
        if isinstance(value, plain):
            raise NotSerializable(f"is of type {name}, which JSON does not preserve: use a {plain.__name__}")
    raise NotSerializable(
        f"is of type {name}, which has no JSON form: pass an id or a path, or give the prop a type "
        "that is registered with dexpy.register_type"
    )
