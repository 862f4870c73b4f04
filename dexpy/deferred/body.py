"""The body of the operation behind a target: its parameters as props, and what makes the call."""

from __future__ import annotations

import copy
import functools
import inspect
import typing
from collections.abc import Callable, Collection
from typing import Any

from dexpy.declaration.definition import RESERVED, reserved_name
from dexpy.declaration.options import prop
from dexpy.declaration.refs import reference_for
from dexpy.declaration.targets import Target
from dexpy.deferred import NO_HANDLER, DeferredCall
from dexpy.foundation.errors import DeclarationError, did_you_mean, listed


def check_parameters(target: Target, base: type[DeferredCall]) -> None:
    """Refuse what could not be stored by name, or would hide a part of the operation."""
    if inspect.isgeneratorfunction(target.function) or inspect.isasyncgenfunction(target.function):
        raise DeclarationError(f"deferrable({target.label}): it has a yield, so that nothing of it would run later.")
    for one in target.parameters:
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            raise DeclarationError(
                f"deferrable({target.label}): {one} takes arguments without names of their own, and a deferred call "
                "keeps its arguments by name. Write a parameter for each."
            )
        if one.name in RESERVED or one.name.startswith("_") or hasattr(base, one.name):
            raise DeclarationError(reserved_name(f"deferrable({target.label})", one.name, "no parameter"))


def props_of(target: Target, *, sensitive: Collection[str], encrypted: Collection[str]) -> dict[str, Any]:
    """Its parameters, as the props of a class.

    Raises:
        DeclarationError: One that is named as sensitive or encrypted is not there.
    """
    parameters = {one.name: one for one in target.parameters}
    for option, named in (("sensitive", sensitive), ("encrypted", encrypted)):
        if isinstance(named, str):
            raise DeclarationError(f"deferrable({option}={named!r}) wants names in a tuple: {option}=({named!r},).")
        for name in named:
            if name not in parameters:
                raise DeclarationError(
                    f"deferrable({target.label}): {option} names {name!r}, which is no parameter. "
                    f"They are {listed(parameters)}.{did_you_mean(name, parameters)}"
                )
    hints = _hints(target.function)
    body: dict[str, Any] = {"__annotations__": {name: hints.get(name, Any) for name in parameters}}
    for name, one in parameters.items():
        options: dict[str, Any] = {"sensitive": name in sensitive}
        if name in encrypted:
            options["encrypted"] = True
        if type(one.default) in (list, dict, set):
            options["factory"] = functools.partial(copy.deepcopy, one.default)
        elif one.default is not one.empty:
            options["default"] = one.default
        body[name] = prop(**options)
    return body


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Its annotations; a model of SQLAlchemy stands for a reference. What is not there yet is resolved later."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        return dict(inspect.get_annotations(function))
    return {name: reference_for(hint) or hint for name, hint in hints.items()}


def methods_of(target: Target, base: type[DeferredCall]) -> dict[str, Any]:
    """What the operation does: it makes the call, and tells its base of errors."""
    by_position = [one.name for one in target.parameters if one.kind is one.POSITIONAL_ONLY]
    by_name = [one.name for one in target.parameters if one.kind is not one.POSITIONAL_ONLY]

    def call(self: Any) -> Any:
        arguments = {name: getattr(self, name) for name in by_name}
        return target.bound()(*(getattr(self, name) for name in by_position), **arguments)

    def perform(self: Any) -> Any:
        return call(self)

    async def perform_async(self: Any) -> Any:
        return await call(self)

    chosen: Any = perform_async if inspect.iscoroutinefunction(target.function) else perform
    raw = inspect.get_annotations(target.function)
    chosen.__annotations__ = {"return": raw["return"]} if "return" in raw else {}
    found: dict[str, Any] = {"perform": chosen}
    if not hasattr(base.handle_error, NO_HANDLER):
        found["on_error"] = _told_to_base
    return found


def _told_to_base(call: Any, error: Exception) -> None:
    call.handle_error(error)


def observer_of(handle_error: Callable[[Exception], None]) -> Callable[[Any, Exception], None]:
    """The operation's hook for a function that is told of errors."""

    def on_error(_call: Any, error: Exception) -> None:
        handle_error(error)

    return on_error
