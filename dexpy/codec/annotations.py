"""Annotations: the types inside their wrappers, with types for their variables, and their names in messages."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator
from enum import Enum
from types import NoneType
from typing import Annotated, Any, ForwardRef, Literal, ParamSpec, TypeVar, TypeVarTuple, get_args, get_origin

from dexpy.codec.annotated_metadata import constraints_of
from dexpy.codec.constraints import PropOptions
from dexpy.codec.generics import is_union, match_arguments, replace_nodes, substituted, type_of_variable
from dexpy.codec.hints import resolved_in
from dexpy.foundation.errors import DeclarationError

_LIST: type[Any] = list
_QUALIFIERS = frozenset({"Required", "NotRequired", "ReadOnly", "Final"})
_MAX_WRAPPINGS = 100


# ------------------------------------------------------------------------------------------ wrappings


def unwrapped(annotation: Any) -> Any:
    """Return the type inside NewType, a type alias, Required and similar wrappers; constraints in Annotated stay."""
    original, count = annotation, 0
    while (wrapped := _unwrap_once(annotation)) is not annotation:
        annotation, count = wrapped, count + 1
        if count > _MAX_WRAPPINGS:
            name = getattr(original, "__name__", original)
            raise DeclarationError(f"Type {name}: refers only to itself. Write the type that it stands for.")
    return annotation


def is_wrapped(annotation: Any) -> bool:
    """Return whether an annotation only wraps another one."""
    return _unwrap_once(annotation) is not annotation


def is_qualified(annotation: Any) -> bool:
    """Return True for ``Annotated[X, ...]``, ``Required[X]`` and others whose first argument is the type."""
    origin = get_origin(annotation)
    return origin is Annotated or special_name(origin) in _QUALIFIERS


def simplified(annotation: Any) -> Any:
    """Return the annotation with dexpy's constraints as its only metadata, each as `PropOptions`.

    Raises:
        DeclarationError: Metadata for dexpy that is invalid inside a type.
    """

    def replace(node: Any) -> Any:
        if get_origin(node) is not Annotated:
            return node
        wrapped, *metadata = get_args(node)
        if all(type(item) is PropOptions for item in metadata):
            return node
        constraints = constraints_of(metadata)
        return Annotated[(simplified(wrapped), *constraints)] if constraints else simplified(wrapped)

    return replace_nodes(annotation, replace)


def is_constrained(annotation: Any) -> bool:
    """Return True for a simplified ``Annotated[X, ...]`` with constraints."""
    return get_origin(annotation) is Annotated and type(get_args(annotation)[1]) is PropOptions


def without_constraints(annotation: Any) -> Any:
    """Return the type inside wrappers and constraints."""
    annotation = unwrapped(annotation)
    while is_constrained(annotation):
        annotation = unwrapped(get_args(annotation)[0])
    return annotation


def _unwrap_once(annotation: Any) -> Any:
    if annotation is None:
        return NoneType
    if isinstance(annotation, str | ForwardRef):
        name = annotation if isinstance(annotation, str) else annotation.__forward_arg__
        raise DeclarationError(f"Annotation {name!r}: expected a type, got text. Pass the type itself.")
    if isinstance(annotation, typing.NewType):
        return resolved_in(annotation, annotation.__supertype__)
    if isinstance(annotation, (TypeVar, ParamSpec, TypeVarTuple)):
        return type_of_variable(annotation)
    if _is_alias(annotation):
        return _alias_value(annotation)
    alias = get_origin(annotation)
    if _is_alias(alias):
        return substituted(_alias_value(alias), match_arguments(alias.__type_params__, list(get_args(annotation))))
    if alias is not Annotated and is_qualified(annotation):
        return get_args(annotation)[0]
    return str if special_name(annotation) == "LiteralString" else simplified(annotation)


def _is_alias(annotation: Any) -> bool:
    """Return True for ``type X = ...``, and for its equivalent in typing_extensions before Python 3.12."""
    return type(annotation).__name__ == "TypeAliasType"


def _alias_value(alias: Any) -> Any:
    try:
        value = alias.__value__
    except NameError as error:
        raise DeclarationError(f"The type {alias.__name__} refers to {error.name!r}, which is not defined.") from error
    except Exception as error:
        raise DeclarationError(f"The type {alias.__name__} cannot be resolved: {error}.") from error
    return resolved_in(alias, value)


# -------------------------------------------------------------------------------- origins and arguments


def origin_of(annotation: Any) -> Any:
    """Return the origin of an annotation, with arguments or without: ``list`` for ``list[int]`` and for ``list``."""
    return get_origin(annotation) or annotation


def special_name(annotation: Any) -> str:
    """Return the name of a special form of typing or typing_extensions."""
    module, _, name = str(annotation).rpartition(".")
    return name if module in {"typing", "typing_extensions"} else ""


def members_of(union: Any) -> Iterator[Any]:
    """Yield the members of a union, including those of nested unions, which may be aliases."""
    for member in map(unwrapped, get_args(union)):
        if is_union(member):
            yield from members_of(member)
        else:
            yield member


# ------------------------------------------------------------------------------------------------ names


def label_of(annotation: Any) -> str:
    """Return an annotation for messages: ``int``, ``list[date]``, ``int | None``.

    Example:
        >>> from typing import Optional
        >>> label_of(Optional[list[int]])
        'list[int] | None'
    """
    if _is_alias(annotation):
        return str(annotation.__name__)
    annotation = without_constraints(annotation)
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


MAX_ALTERNATIVES = 30
"""The number of fixed values that a message lists."""


def alternatives(values: Iterable[Any]) -> str:
    """Return fixed values for messages: the first ones, and the number of the others."""
    items = list(values)
    texts = [str(value) if isinstance(value, Enum) else repr(value) for value in items[:MAX_ALTERNATIVES]]
    texts = [text if len(text) <= 60 else f"{text[:57]}..." for text in texts]
    num_omitted = len(items) - len(texts)
    return ", ".join([*texts, f"and {num_omitted} more"] if num_omitted else texts)
