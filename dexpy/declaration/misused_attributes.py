"""Checks that refuse idioms of attrs, dataclasses and pydantic that dexpy would ignore in an operation.

An operation is an attrs class, but it has its own constructor, which reports all problems at once.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping
from typing import Any

from dexpy.codec.attrs_fields import OWN_FIELDS
from dexpy.foundation.errors import DeclarationError

IGNORED_METHODS: Mapping[str, str] = {
    "__init__": "the constructor of operations takes only props, by name",
    "__new__": "the constructor of operations takes only props, by name",
    "__attrs_pre_init__": "the constructor of operations does not call it",
    "__attrs_post_init__": "the constructor of operations does not call it",
    "__post_init__": "the constructor of operations does not call it",
    "__setattr__": "operations are frozen",
    "__delattr__": "operations are frozen",
}
_OF_LIBRARIES = frozenset({"typing", "typing_extensions", "warnings", "abc", "dexpy.operation"})


def check_default(value: object, where: str) -> None:
    """Refuse a field specifier of another library where a default is expected."""
    module, name = type(value).__module__, type(value).__name__
    if isinstance(value, dataclasses.Field) or (
        module.startswith("pydantic") and name in ("FieldInfo", "ModelPrivateAttr", "ComputedFieldInfo")
    ):
        library = module.partition(".")[0]
        raise DeclarationError(f"{where}: a field of {library} is not supported. Write prop(...).")


def check_methods(cls: type) -> None:
    """Refuse `__slots__` and methods that dexpy never calls, in a class and its bases."""
    for base in cls.__mro__:
        if base is object or base.__module__ in _OF_LIBRARIES:
            continue
        attributes = vars(base)
        for name, value in attributes.items():
            if type(value).__name__ == "PydanticDescriptorProxy":
                raise DeclarationError(
                    f"{cls.__qualname__}: {base.__qualname__}.{name} has a decorator of pydantic, which an operation "
                    "ignores. Write a guard or a cached_property, or declare a pydantic model as the type of a prop."
                )
        for name in _ignored_methods_in(attributes):
            raise DeclarationError(
                f"{cls.__qualname__}: {base.__qualname__}.{name} would be ignored: {IGNORED_METHODS[name]}. Write a "
                "guard, a callback (@before) or a functools.cached_property, or prop(factory=...) for a default."
            )
        if attributes.get("__slots__"):
            raise DeclarationError(
                f"{cls.__qualname__}: {base.__qualname__}.__slots__ is not supported: operations store their props in "
                "__dict__. Remove it."
            )


def _ignored_methods_in(attributes: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of ignored methods of the application, without those of attrs or a Protocol."""
    return (name for name in IGNORED_METHODS if attributes.get(name) is not None and is_ignored(name, attributes[name]))


def is_ignored(name: str, value: object) -> bool:
    """Return whether such a method is the application's, rather than of a library that calls dexpy's constructor."""
    function = getattr(value, "__func__", value)
    is_made = name in ("__setattr__", "__delattr__") and getattr(function, "__module__", "").startswith("attr")
    is_of_protocol = isinstance(function, types.FunctionType) and function.__module__ in _OF_LIBRARIES
    return not (is_made or is_of_protocol)


def check_decorators(cls: type) -> None:
    """Refuse a class that attrs or dataclasses have processed as well."""
    attributes = vars(cls)
    marks = {"__dataclass_fields__": "@dataclass", "__attrs_attrs__": "@attrs.define"}
    for mark, decorator in marks.items():
        if mark in attributes and (mark != "__attrs_attrs__" or attributes[mark] is not attributes.get(OWN_FIELDS)):
            raise decorator_error(cls, decorator)


def check_constructor(cls: type) -> None:
    """Refuse a class whose constructor a decorator has replaced; called at the first use."""
    check_decorators(cls)
    # A Protocol that is the first base copies the constructor of dexpy into the class.
    if "__init__" in vars(cls) and is_ignored("__init__", vars(cls)["__init__"]):
        raise decorator_error(cls, "a class decorator")


def decorator_error(cls: type, decorator: str) -> DeclarationError:
    """Return the error for a class decorator."""
    return DeclarationError(
        f"{cls.__qualname__}: {decorator} is not supported: an operation is already an attrs class with its own "
        "constructor. Remove the decorator."
    )
