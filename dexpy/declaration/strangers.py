"""Strangers: types that dexpy does not know, those that were registered and those that have no JSON form."""

from __future__ import annotations

import collections.abc
from collections.abc import Callable
from typing import Any

import attrs

from dexpy.declaration.annotations import label_of, origin_of, special_name
from dexpy.declaration.misfits import changed, misfit, shown
from dexpy.declaration.plain import plain_json
from dexpy.declaration.shapes import JSON_TYPES, Shape, instance_of, leaf
from dexpy.foundation.errors import DeclarationError, NotSerializable

# ---------------------------------------------------------------------------------------- registered


@attrs.frozen
class Registration:
    """How a registered type becomes JSON and comes back."""

    to_json: Callable[[Any], Any]
    from_json: Callable[[Any], Any]


registered: dict[type, Registration] = {}
"""The types that `register_type` was called with."""


def is_registered(annotation: Any) -> bool:
    """True for a type that `register_type` was called with."""
    return annotation in registered


def registered_shape(annotation: Any) -> Shape:
    """The shape of a registered type."""
    registration, label = registered[annotation], label_of(annotation)
    check = instance_of(annotation, label)

    def decode(value: Any, _: Any = None) -> Any:
        try:
            made = registration.from_json(value)
        except Exception as error:
            raise misfit(f"{label} as JSON", value) from error
        return check(made)

    def parse(value: Any, _: Any = None) -> Any:
        return value if isinstance(value, annotation) else decode(value)

    def encode(value: Any) -> Any:
        if not isinstance(value, annotation):
            raise changed(value, label)
        return _made_json(label, registration.to_json, value)

    kinds = JSON_TYPES.keys() - {"null"}
    return leaf(kinds, check=check, decode=decode, parse=parse, encode=encode, types=[annotation], is_open=True)


def _made_json(label: str, to_json: Callable[[Any], Any], value: Any) -> Any:
    try:
        made = plain_json(to_json(value))
    except NotSerializable as error:
        raise NotSerializable(f"has no plain JSON form: in what to_json of {label} gives, {error}") from None
    except Exception as error:
        raise NotSerializable(f"has no JSON form: to_json of {label} raised {type(error).__name__}") from error
    if made is None:
        raise NotSerializable(f"has no JSON form: to_json of {label} gives None, which stands for no value")
    return made


# ------------------------------------------------------------------------------------------ the rest


def is_opaque(annotation: Any) -> bool:
    """True: asked last, for what nobody else knew."""
    return True


def opaque_shape(annotation: Any) -> Shape:
    """The shape of a type that a prop may have, but that cannot travel."""
    cls = origin_of(annotation)
    if not isinstance(cls, type) and not special_name(annotation):
        raise DeclarationError(
            f"{shown(annotation)} is not a type. Annotate with a class (int) or a typing form (list[int])."
        )
    label = label_of(annotation)
    cls = cls if _can_be_asked(cls) else object
    check = instance_of(cls, label)

    def decode(value: Any, _: Any = None) -> Any:
        raise misfit(f"nothing, because {label} has no JSON form", value)

    def encode(value: Any) -> Any:
        raise NotSerializable(f"is declared as {label}, which has no JSON form: {_remedy(cls)}")

    return leaf((), check=check, decode=decode, parse=check, encode=encode, is_open=True)


def _can_be_asked(cls: Any) -> bool:
    """True for a class whose isinstance is to be trusted: no file is a `typing.IO`."""
    try:
        isinstance(None, cls)
    except TypeError:
        return False
    return bool(cls.__module__ != "typing")


def _remedy(cls: type) -> str:
    if cls.__module__ == "collections.abc" and issubclass(cls, collections.abc.Iterable):
        return "declare a type with one, such as list[int], tuple[int, ...] or dict[str, int]"
    return "pass an id or a path, or give it one with dexpy.register_type"
