"""Registered types, and types without a JSON form."""

from __future__ import annotations

import collections.abc
from collections.abc import Callable
from typing import IO, Any, Generic, Protocol, cast, get_args

import attrs

from dexpy.codec.annotations import label_of, origin_of, unwrapped
from dexpy.codec.base import JSON_TYPES, Shape
from dexpy.codec.hints import class_annotations
from dexpy.codec.plain_json import plain_json, walk_plain_key
from dexpy.codec.problems import changed, describe_value, invalid_value
from dexpy.codec.simple_values import instance_of, leaf
from dexpy.foundation.errors import DeclarationError, NotSerializable

# ---------------------------------------------------------------------------------------- registered


@attrs.frozen
class Registration:
    """The functions that encode and decode a registered type."""

    to_json: Callable[[Any], Any]
    from_json: Callable[[Any], Any]


registered: dict[type, Registration] = {}
"""The types that were passed to `register_type`."""


def is_registered(annotation: Any) -> bool:
    """Return True for a type that was passed to `register_type`."""
    return annotation in registered


def registered_shape(annotation: Any) -> Shape:
    """Return the shape of a registered type."""
    registration, label = registered[annotation], label_of(annotation)
    check = instance_of(annotation, label)

    def decode(value: Any, _: Any = None) -> Any:
        try:
            instance = registration.from_json(value)
        except Exception as error:
            raise invalid_value(f"{label} as JSON", value) from error
        return check(instance)

    def parse(value: Any, _: Any = None) -> Any:
        return value if isinstance(value, annotation) else decode(value)

    def encode(value: Any) -> Any:
        if not isinstance(value, annotation):
            raise changed(value, label, annotation)
        data = _to_plain_json(label, registration.to_json, value)
        if type(value) is not annotation:
            _check_round_trip(registration, data, value)
        return data

    def key(value: Any) -> Any:
        return walk_plain_key(encode(value))

    return leaf(
        JSON_TYPES.keys() - {"null"},
        check=check,
        decode=decode,
        parse=parse,
        encode=encode,
        types=[annotation],
        is_open=True,
        key=key,
    )


def _to_plain_json(label: str, to_json: Callable[[Any], Any], value: Any) -> Any:
    try:
        data = plain_json(to_json(value))
    except NotSerializable as error:
        raise NotSerializable(
            f"has no plain JSON form: in the result of to_json of {label}, {str(error).partition(':')[0]}"
        ) from None
    except Exception as error:
        raise NotSerializable(f"has no JSON form: to_json of {label} raised {type(error).__name__}") from error
    if data is None:
        raise NotSerializable(f"has no JSON form: to_json of {label} returned None, which means no value")
    return data


def _check_round_trip(registration: Registration, data: Any, value: Any) -> None:
    """Refuse an instance of a subclass that would be restored as another class."""
    try:
        restored_class = type(cast(object, registration.from_json(data)))
    except Exception as error:
        raise NotSerializable(f"has no JSON form: from_json raised {type(error).__name__}") from error
    if restored_class is not type(value):
        raise NotSerializable(f"is of type {type(value).__name__}, but would be restored as {restored_class.__name__}")


# ------------------------------------------------------------------------------------------ the rest


def is_opaque(annotation: Any) -> bool:
    """Return True: the last entry of the table, for any other type."""
    return True


def opaque_shape(annotation: Any) -> Shape:
    """Return the shape of a type without a JSON form: its values are checked by isinstance."""
    cls = origin_of(annotation)
    if not isinstance(cls, type) or cls in (Generic, Protocol):
        raise DeclarationError(
            f"{describe_value(annotation)} is not a type. Annotate with a class (int) or a typing form (list[int])."
        )
    label, is_instance_of = label_of(annotation), _instance_check(cls, annotation)

    def check(value: Any, _: Any = None) -> Any:
        try:
            is_instance = is_instance_of(value)
        except Exception:  # noqa: BLE001 - isinstance may be the application's own
            is_instance = False
        if not is_instance:
            raise invalid_value(label, value, cls)
        return value

    def decode(value: Any, _: Any = None) -> Any:
        raise invalid_value(f"no value, because {label} has no JSON form", value)

    def encode(value: Any) -> Any:
        raise NotSerializable(f"is declared as {label}, which has no JSON form: {_remedy(cls)}")

    return leaf((), check=check, decode=decode, parse=check, encode=encode, is_open=True)


def _instance_check(cls: Any, annotation: Any) -> Callable[[Any], bool]:
    """Return a check of values that isinstance() does not support."""
    if issubclass(cls, IO):  # files are recognized by their methods
        return lambda value: (
            callable(getattr(value, "close", None))
            and (callable(getattr(value, "read", None)) or callable(getattr(value, "write", None)))
        )
    if getattr(cls, "_is_protocol", False) and not getattr(cls, "_is_runtime_protocol", False):
        members = _protocol_members(cls)
        return lambda value: all(hasattr(value, name) for name in members)
    if cls is type and get_args(annotation):
        expected = unwrapped(get_args(annotation)[0])
        return lambda value: isinstance(value, type) and (not isinstance(expected, type) or issubclass(value, expected))
    return lambda value: isinstance(value, cls)


def _protocol_members(cls: type) -> list[str]:
    protocols = [base for base in cls.__mro__ if getattr(base, "_is_protocol", False) and base is not Protocol]
    names = {name for base in protocols for name in (*vars(base), *class_annotations(base))}
    return sorted(name for name in names if name not in _NOT_MEMBERS and not name.startswith("_abc_"))


_NOT_MEMBERS = frozenset(
    """
    __abstractmethods__ __annotations__ __callable_proto_members_only__
    __annotate__ __annotate_func__ __annotations_cache__ __class_getitem__ __dict__
    __doc__ __firstlineno__ __init__ __match_args__ __module__ __new__ __non_callable_proto_members__ __orig_bases__
    __parameters__ __protocol_attrs__ __slots__ __static_attributes__ __subclasshook__ __type_params__ __weakref__
    _is_protocol _is_runtime_protocol
    """.split()
)


def _remedy(cls: type) -> str:
    if cls.__module__ == "collections.abc" and issubclass(cls, collections.abc.Iterable):
        return "declare a type with a JSON form, such as list[int], tuple[int, ...] or dict[str, int]"
    return "pass an id or a path, or register a form with dexpy.register_type"
