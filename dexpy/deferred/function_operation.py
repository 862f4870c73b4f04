"""The body of the operation behind a target: its parameters as props, and the method that makes the call."""

from __future__ import annotations

import copy
import functools
import inspect
import typing
from collections.abc import Callable, Collection
from typing import Any

from dexpy.codec.constraints import prop
from dexpy.declaration.class_definition import RATE, RESERVED, reserved_name
from dexpy.declaration.deferred_targets import Target
from dexpy.declaration.refs import reference_for
from dexpy.deferred import NO_HANDLER, DeferredCall
from dexpy.foundation.errors import DeclarationError, did_you_mean, listed


def check_parameters(target: Target, base: type[DeferredCall]) -> None:
    """Refuse parameters that have no single name, or a reserved one."""
    if inspect.isgeneratorfunction(target.function) or inspect.isasyncgenfunction(target.function):
        raise DeclarationError(f"deferrable({target.label}): expected a plain function, got a generator function.")
    for parameter in target.parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise DeclarationError(
                f"deferrable({target.label}): {parameter} is not supported, because a deferred call stores arguments "
                "by name. Write a parameter for each argument."
            )
        is_taken = parameter.name != RATE and hasattr(base, parameter.name)
        if parameter.name in RESERVED or parameter.name.startswith("_") or is_taken:
            raise DeclarationError(reserved_name(f"deferrable({target.label})", parameter.name, "parameter"))


def props_of(target: Target, *, sensitive: Collection[str], encrypted: Collection[str]) -> dict[str, Any]:
    """Return its parameters, as the props of a class.

    Raises:
        DeclarationError: A sensitive or encrypted parameter does not exist.
    """
    parameters = {parameter.name: parameter for parameter in target.parameters}
    for option, chosen in (("sensitive", sensitive), ("encrypted", encrypted)):
        if isinstance(chosen, str):
            raise DeclarationError(
                f"deferrable({option}={chosen!r}): expected a tuple of names. Write {option}=({chosen!r},)."
            )
        for name in chosen:
            if name not in parameters:
                raise DeclarationError(
                    f"deferrable({target.label}): unknown parameter {name!r} in {option}; expected one of "
                    f"{listed(parameters)}.{did_you_mean(name, parameters)}"
                )
    hints = _hints(target.function)
    namespace: dict[str, Any] = {"__annotations__": {name: hints.get(name, Any) for name in parameters}}
    for name, parameter in parameters.items():
        options: dict[str, Any] = {"sensitive": name in sensitive}
        if name in encrypted:
            options["encrypted"] = True
        if type(parameter.default) in (list, dict, set):
            options["factory"] = functools.partial(copy.deepcopy, parameter.default)
        elif parameter.default is not parameter.empty:
            options["default"] = parameter.default
        namespace[name] = prop(**options)
    return namespace


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return its annotations, with a reference for a model of SQLAlchemy; unresolved names are resolved later."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        return dict(inspect.get_annotations(function))
    return {name: reference_for(hint) or hint for name, hint in hints.items()}


def methods_of(target: Target, base: type[DeferredCall]) -> dict[str, Any]:
    """Return the methods of the operation: `perform` makes the call, `on_error` calls the base's handler."""
    by_position = [parameter.name for parameter in target.parameters if parameter.kind is parameter.POSITIONAL_ONLY]
    by_name = [parameter.name for parameter in target.parameters if parameter.kind is not parameter.POSITIONAL_ONLY]

    def call(self: Any) -> Any:
        arguments = {name: getattr(self, name) for name in by_name}
        return target.bound()(*(getattr(self, name) for name in by_position), **arguments)

    def perform(self: Any) -> Any:
        return call(self)

    async def perform_async(self: Any) -> Any:
        return await call(self)

    performer: Any = perform_async if inspect.iscoroutinefunction(target.function) else perform
    annotations = inspect.get_annotations(target.function)
    performer.__annotations__ = {"return": annotations["return"]} if "return" in annotations else {}
    methods: dict[str, Any] = {"perform": performer}
    if not hasattr(base.handle_error, NO_HANDLER):
        methods["on_error"] = _call_handle_error
    return methods


def _call_handle_error(call: Any, error: Exception) -> None:
    call.handle_error(error)


def on_error_hook_of(handle_error: Callable[[Exception], None]) -> Callable[[Any, Exception], None]:
    """Return the operation's `on_error` hook for a function that handles errors."""

    def on_error(_call: Any, error: Exception) -> None:
        handle_error(error)

    return on_error
