"""Plain JSON: values that have no declared type, and the annotations Any and object, which declare none."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from types import NoneType
from typing import Any

import attrs

from dexpy.declaration.arrays import encode_array
from dexpy.declaration.dicts import encode_dict
from dexpy.declaration.scalars import SCALARS, as_it_is, encode_float, encode_int
from dexpy.declaration.shapes import DICT, JSON_TYPES, LIST, Hook, Shape
from dexpy.declaration.texts import encode_text
from dexpy.foundation.errors import NotSerializable

TOO_DEEP = "is nested too deeply, or holds itself"


def plain_json(value: Any) -> Any:
    """Walks a value that has no declared type and gives it back, if it is plain JSON.

    Args:
        value: None, bool, int, float, str, and lists and dicts (with str keys) of these.

    Returns:
        An equal value, in containers of its own.

    Raises:
        NotSerializable: Something in it is not plain JSON; `path` says where.

    Example:
        >>> plain_json({"k": [1, None, "a"]})
        {'k': [1, None, 'a']}
        >>> plain_json({"k": [float("nan")]})
        Traceback (most recent call last):
        ...
        dexpy.NotSerializable: ['k'][0] is NaN or infinite, and JSON has neither: use None
    """
    try:
        return walk_plain(value)
    except RecursionError:
        raise NotSerializable(TOO_DEEP) from None


def is_anything(annotation: Any) -> bool:
    """True for an annotation that says nothing about its values."""
    return annotation is Any or annotation is object


def anything_shape(annotation: Any) -> Shape:
    """The shape of values without a declared type."""
    return Shape(frozenset(JSON_TYPES), lambda _: _copied, lambda _: walk_plain, is_open=True, mutable=True)


def _copied(value: Any, _: Any = None) -> Any:
    """An untyped value in lists and dicts of its own; the rest is looked at when it is to become JSON."""
    if type(value) is LIST:
        return [_copied(item, None) for item in value]
    if type(value) is DICT:
        return {key: _copied(item, None) for key, item in value.items()}
    return value


def walk_plain(value: object) -> Any:
    """`plain_json` for a part of a value: whoever walks the whole looks after the depth."""
    encode: Hook = _PLAIN.get(type(value)) or _refuse
    return encode(value)


_PLAIN: Mapping[type, Hook] = {
    NoneType: as_it_is,
    bool: as_it_is,
    int: encode_int,
    float: encode_float,
    str: encode_text,
    list: encode_array(walk_plain, taken=list, label="list"),
    dict: encode_dict(walk_plain, label="dict"),
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
            f"is of type {name}, and without a declared type only plain JSON travels: "
            f"give the prop a type such as dict[str, {_TYPED_REMEDIES.get(cls, name)}]"
        )
    for plain in (dict, list, str, int, float):
        if isinstance(value, plain):
            raise NotSerializable(f"is of type {name}, which would not come back as one: use a {plain.__name__}")
    raise NotSerializable(
        f"is of type {name}, which has no JSON form: pass an id or a path, or give the prop a type "
        "that dexpy.register_type knows"
    )
