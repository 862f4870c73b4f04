"""Generic annotations: the types of their type variables, and substitution of the variables."""

from __future__ import annotations

import collections.abc
import functools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ForwardRef, Generic, Literal, ParamSpec, TypeVarTuple, Union, get_args, get_origin

from dexpy.codec.hints import resolved_in
from dexpy.foundation.errors import DeclarationError

_LIST: type[Any] = list
_TUPLE: type[Any] = tuple
_CALLABLE: Any = collections.abc.Callable
Arguments = Mapping[Any, Any]
"""Types by their type variables; a tuple of types for a `TypeVarTuple`."""


# ------------------------------------------------------------------------------------------------ trees


def replace_nodes(annotation: Any, replace: Callable[[Any], Any]) -> Any:
    """Return an annotation with replaced parts; the same object if nothing was replaced.

    Args:
        annotation: An annotation with resolved names.
        replace: A function that returns another annotation for a node, or the node itself; its result is final.
    """
    replaced = replace(annotation)
    if replaced is not annotation:
        return replaced
    if type(annotation) is _LIST:  # the arguments of a Callable
        items = [replace_nodes(item, replace) for item in annotation]
        return items if _differ(items, annotation) else annotation
    origin, arguments = get_origin(annotation), get_args(annotation)
    if not arguments or origin is Literal:
        return annotation
    if origin is Annotated:
        wrapped = replace_nodes(arguments[0], replace)
        return annotation if wrapped is arguments[0] else Annotated[(wrapped, *arguments[1:])]
    replaced_arguments: list[Any] = []
    for argument in arguments:
        replacement = replace_nodes(argument, replace)
        replaced_arguments += (
            replacement if type(replacement) is _TUPLE else [replacement]
        )  # the types of a TypeVarTuple
    return _rebuilt(annotation, origin, replaced_arguments) if _differ(replaced_arguments, arguments) else annotation


def _union_of(left: Any, right: Any) -> Any:
    return Union[left, right]  # noqa: UP007 - not every typing form has an operator


def _differ(replaced: Sequence[Any], arguments: Sequence[Any]) -> bool:
    return len(replaced) != len(arguments) or any(new is not old for new, old in zip(replaced, arguments, strict=True))


def _rebuilt(annotation: Any, origin: Any, arguments: list[Any]) -> Any:
    if is_union(annotation):
        return functools.reduce(_union_of, arguments)
    if origin is _CALLABLE:
        return origin[arguments[0], arguments[1]]
    if hasattr(annotation, "copy_with"):
        return annotation.copy_with(tuple(arguments))
    rebuilt = origin[tuple(arguments)]
    return next(iter(rebuilt)) if getattr(annotation, "__unpacked__", False) else rebuilt


def substituted(annotation: Any, arguments: Arguments) -> Any:
    """Return an annotation with types instead of its type variables."""
    if not arguments:
        return annotation

    def replace(node: Any) -> Any:
        if type(node) is _LIST:
            return node
        unpacked = _unpacked_variable(node)
        if unpacked is not None:
            return arguments.get(unpacked, node)
        generic = pydantic_generic(node)
        if generic is not None:
            origin, arguments_of_generic = generic
            replaced = tuple(substituted(argument, arguments) for argument in arguments_of_generic)
            return origin[replaced] if _differ(replaced, arguments_of_generic) else node
        try:
            return arguments.get(node, node)
        except TypeError:  # metadata that is not hashable
            return node

    return replace_nodes(annotation, replace)


def _unpacked_variable(node: Any) -> Any:
    """Return the TypeVarTuple in ``*Ts`` and ``Unpack[Ts]``, else None."""
    args = get_args(node)
    is_one = len(args) == 1 and isinstance(args[0], TypeVarTuple)
    return args[0] if is_one and get_origin(node) is not tuple else None


def pydantic_generic(cls: Any) -> tuple[Any, tuple[Any, ...]] | None:
    """Return the generic pydantic model of a class and its arguments, if type variables are left; else None."""
    metadata = vars(cls).get("__pydantic_generic_metadata__") if isinstance(cls, type) else None
    if not metadata or not metadata["parameters"]:
        return None
    return (metadata["origin"], metadata["args"]) if metadata["origin"] is not None else (cls, metadata["parameters"])


def is_union(annotation: Any) -> bool:
    """Return True for ``X | Y``, ``Union`` and ``Optional``."""
    return get_origin(annotation) in (Union, types.UnionType)


# -------------------------------------------------------------------------------------------- variables


_NO_ARGUMENTS: Arguments = {}


def arguments_of(annotation: Any, cls: type) -> Arguments:
    """Return the types of the type variables of one class, seen from a subclass.

    Args:
        annotation: The subclass, perhaps with arguments: ``KeepDate``, ``Box[int]``.
        cls: The base class, or the class itself.
    """
    candidates = [base_arguments for base, base_arguments in _all_arguments(annotation, {}) if base is cls]
    return next((base_arguments for base_arguments in candidates if base_arguments), _NO_ARGUMENTS)


def _all_arguments(annotation: Any, outer: Arguments) -> Iterator[tuple[Any, Arguments]]:
    cls = get_origin(annotation) or annotation
    flat_arguments = [item for argument in get_args(annotation) for item in _flat(substituted(argument, outer))]
    class_arguments = match_arguments(getattr(cls, "__parameters__", ()), flat_arguments)
    for base in vars(cls).get("__orig_bases__", ()) or getattr(cls, "__bases__", ()) if isinstance(cls, type) else ():
        if base is not Generic and get_origin(base) is not Generic:
            is_text = any(isinstance(argument, ForwardRef) for argument in get_args(base))
            yield from _all_arguments(resolved_in(cls, base) if is_text else base, class_arguments)
    yield cls, class_arguments


def _flat(argument: Any) -> Sequence[Any]:
    return argument if type(argument) is _TUPLE else [argument]


def match_arguments(parameters: Sequence[Any], arguments: list[Any]) -> Arguments:
    """Return type parameters with their arguments."""
    result: dict[Any, Any] = {}
    remaining = list(arguments)
    for position, parameter in enumerate(parameters):
        if isinstance(parameter, TypeVarTuple):
            num_following = len(parameters) - position - 1
            count = max(len(remaining) - num_following, 0)
            if arguments:
                result[parameter] = tuple(remaining[:count])
            remaining = remaining[count:]
        elif remaining:
            result[parameter] = remaining.pop(0)
        elif arguments and has_default(parameter):
            result[parameter] = substituted(parameter.__default__, result)
    return result


def has_default(variable: Any) -> bool:
    """Return whether a type variable has a default (PEP 696)."""
    return bool(getattr(variable, "has_default", bool)())


def type_of_variable(variable: Any) -> Any:
    """Return the type of a variable without an argument: its default, its constraints, its bound, or Any.

    Raises:
        DeclarationError: Values cannot have this type.
    """
    if isinstance(variable, (ParamSpec, TypeVarTuple)):
        raise DeclarationError(
            f"{variable.__name__}: expected a type, got a {type(variable).__name__}. Pass a type argument."
        )
    if has_default(variable):
        return resolved_in(variable, variable.__default__)
    if variable.__constraints__:
        return functools.reduce(
            _union_of, [resolved_in(variable, constraint) for constraint in variable.__constraints__]
        )
    return Any if variable.__bound__ is None else resolved_in(variable, variable.__bound__)
