"""Annotations as they are read: what is inside of their wrappings, what their variables stand for, their names."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from types import NoneType
from typing import Annotated, Any, ForwardRef, Literal, TypeVar, Union, get_args, get_origin

from dexpy.foundation.errors import DeclarationError

_LIST: type[Any] = list
_QUALIFIERS = frozenset({"Required", "NotRequired", "ReadOnly", "Final"})


# ------------------------------------------------------------------------------------------ wrappings


def unwrapped(annotation: Any) -> Any:
    """The type inside of Annotated, NewType, a type alias, Required and the like."""
    while True:
        inner = _inside(annotation)
        if inner is annotation:
            return hashable(annotation)
        annotation = inner


def is_wrapped(annotation: Any) -> bool:
    """True for an annotation that only stands around another one."""
    return _inside(annotation) is not annotation


def is_qualified(annotation: Any) -> bool:
    """True for ``Annotated[X, ...]``, ``Required[X]`` and the like, whose first argument is the type."""
    origin = get_origin(annotation)
    return origin is Annotated or special_name(origin) in _QUALIFIERS


def hashable(annotation: Any) -> Any:
    """The annotation, without metadata that cannot be hashed (``Annotated[int, []]``) deep inside."""
    try:
        hash(annotation)
    except TypeError:
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        return typing.get_type_hints(holder)["it"]
    return annotation


def _inside(annotation: Any) -> Any:
    if annotation is None:
        return NoneType
    if isinstance(annotation, str | ForwardRef):
        name = annotation if isinstance(annotation, str) else annotation.__forward_arg__
        raise DeclarationError(f"The annotation {name!r} is still text: give the type itself, or resolve it first.")
    if isinstance(annotation, typing.NewType):
        return annotation.__supertype__
    if isinstance(annotation, TypeVar):
        return Any if annotation.__bound__ is None else annotation.__bound__
    if _is_alias(annotation):
        return _alias_value(annotation)
    alias = get_origin(annotation)
    if _is_alias(alias):
        return substituted(_alias_value(alias), dict(zip(alias.__type_params__, get_args(annotation), strict=False)))
    if is_qualified(annotation):
        return get_args(annotation)[0]
    return str if special_name(annotation) == "LiteralString" else annotation


def _is_alias(annotation: Any) -> bool:
    """True for ``type X = ...``, also as typing_extensions has it before Python 3.12."""
    return type(annotation).__name__ == "TypeAliasType"


def _alias_value(alias: Any) -> Any:
    try:
        return alias.__value__
    except NameError as error:
        raise DeclarationError(f"The type {alias.__name__} refers to {error.name!r}, which is not defined.") from error


# -------------------------------------------------------------------------------- origins and arguments


def origin_of(annotation: Any) -> Any:
    """What an annotation is of, with arguments or without: ``list`` for ``list[int]`` and for ``list``."""
    return get_origin(annotation) or annotation


def special_name(annotation: Any) -> str:
    """The name of a special form, whichever of typing and typing_extensions it is from."""
    module, _, name = str(annotation).rpartition(".")
    return name if module in {"typing", "typing_extensions"} else ""


def is_union(annotation: Any) -> bool:
    """True for ``X | Y`` and its older spellings."""
    return get_origin(annotation) in (Union, types.UnionType)


def members_of(union: Any) -> Iterator[Any]:
    """The members of a union, those of a union inside of it (an alias of one) too."""
    for member in map(unwrapped, get_args(union)):
        if is_union(member):
            yield from members_of(member)
        else:
            yield member


def arguments_of(annotation: Any) -> dict[Any, Any]:
    """What the type variables of a generic class and of its bases stand for."""
    cls = origin_of(annotation)
    arguments = dict(zip(getattr(cls, "__parameters__", ()), get_args(annotation), strict=False))
    for base in getattr(cls, "__orig_bases__", ()):
        inherited = arguments_of(base).items()
        arguments |= {variable: substituted(argument, arguments) for variable, argument in inherited}
    return arguments


def substituted(annotation: Any, arguments: Mapping[Any, Any]) -> Any:
    """An annotation with types in the place of its type variables."""
    if isinstance(annotation, TypeVar):
        return arguments.get(annotation, annotation)
    variables = getattr(annotation, "__parameters__", ()) if get_origin(annotation) is not None else ()
    return annotation[tuple(arguments.get(variable, variable) for variable in variables)] if variables else annotation


# ------------------------------------------------------------------------------------------------ names


def label_of(annotation: Any) -> str:
    """An annotation for messages: ``int``, ``list[date]``, ``int | None``.

    Example:
        >>> from typing import Optional
        >>> label_of(Optional[list[int]])
        'list[int] | None'
    """
    if _is_alias(annotation):
        return str(annotation.__name__)
    annotation = unwrapped(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is NoneType:
        return "None"
    if annotation is Any:
        return "Any"
    if is_union(annotation):
        return " | ".join(label_of(member) for member in arguments)
    if origin is Literal:
        return f"Literal[{alternatives(arguments)}]"
    name: str = getattr(origin or annotation, "__name__", None) or repr(annotation).rpartition(".")[2]
    return f"{name}[{', '.join(map(_argument_label, arguments))}]" if arguments else name


def _argument_label(argument: Any) -> str:
    if argument is Ellipsis:
        return "..."
    if type(argument) is _LIST:  # the arguments of a Callable
        return f"[{', '.join(map(_argument_label, argument))}]"
    return label_of(argument)


def alternatives(values: Iterable[Any]) -> str:
    """Fixed values for messages."""
    return ", ".join(str(value) if isinstance(value, Enum) else repr(value) for value in values)
