"""Fields of attrs classes and dataclasses, and the keys of TypedDicts, which work like them."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import attrs

from dexpy.declaration.annotations import arguments_of, is_qualified, origin_of, special_name, substituted
from dexpy.declaration.misfits import step
from dexpy.foundation.errors import DeclarationError


@attrs.frozen
class Field:
    """One field of a class or key of a TypedDict.

    Attributes:
        name: The attribute or key in Python.
        key: The key in JSON: the name of the argument of ``__init__``.
        type: Its annotation.
        required: It has no default.
        path: The piece of a path that leads to it.
    """

    name: str
    key: str
    type: Any
    required: bool
    path: str


def has_fields(cls: Any) -> bool:
    """True for a class that its fields can build again: one without an `InitVar` or an ``__init__`` of its own."""
    if not isinstance(cls, type) or not (attrs.has(cls) or dataclasses.is_dataclass(cls)):
        return False
    try:
        parameters = inspect.signature(cls).parameters
    except (ValueError, NameError):  # from Python 3.14 on, a name in an annotation may not be there yet
        return True
    keys = {field.key for field in _declared_fields(cls)}
    of_any_name = {name for name, one in parameters.items() if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
    needed = {name for name, one in parameters.items() if one.default is one.empty} - of_any_name
    return needed <= keys and keys <= parameters.keys()


def fields_of(annotation: Any) -> tuple[Field, ...]:
    """The fields of an attrs class or dataclass that its ``__init__`` takes."""
    cls = origin_of(annotation)
    hints, arguments = _hints(cls), arguments_of(annotation)
    return tuple(
        attrs.evolve(field, type=substituted(hints.get(field.name, field.type), arguments))
        for field in _declared_fields(cls)
    )


def _declared_fields(cls: Any) -> Iterator[Field]:
    """The fields with their types as they were declared: maybe text."""
    if attrs.has(cls):
        for one in attrs.fields(cls):
            if one.init:
                key = one.alias or one.name
                declared = Any if one.type is None else one.type
                yield Field(one.name, key, declared, one.default is attrs.NOTHING, f".{key}")
        return
    for field in dataclasses.fields(cls):
        if field.init:
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            yield Field(field.name, field.name, field.type, required, f".{field.name}")


def keys_of(annotation: Any) -> tuple[Field, ...]:
    """The keys of a TypedDict."""
    cls = origin_of(annotation)
    arguments = arguments_of(annotation)
    return tuple(
        Field(key, key, substituted(hint, arguments), _is_required(cls, key, hint), step(key))
        for key, hint in _hints(cls).items()
    )


def _is_required(cls: Any, key: str, hint: Any) -> bool:
    while is_qualified(hint):
        name = special_name(get_origin(hint))
        if name in {"Required", "NotRequired"}:
            return name == "Required"
        hint = get_args(hint)[0]
    # asked last: it does not know a Required or NotRequired that was text when the class was made
    return key in cls.__required_keys__


def _hints(cls: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except NameError:
        pass
    # a class inside of a function does not find its own name, text not the variables of ``class Box[T]``
    variables = {variable.__name__: variable for variable in getattr(cls, "__type_params__", ())}
    try:
        return typing.get_type_hints(cls, localns={**vars(cls), **variables, cls.__name__: cls}, include_extras=True)
    except NameError as error:
        raise DeclarationError(
            f"{cls.__qualname__} has an annotation with the name {error.name!r}, which does not exist at run time. "
            "Import it outside of `if TYPE_CHECKING:`, or define it at the top of its module."
        ) from error
