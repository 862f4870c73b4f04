"""Loads the application of a command: its modules, and an application object or the factory that creates it."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from dexpy.configuration.settings import command_modules
from dexpy.foundation.errors import DexpyError, did_you_mean
from dexpy.worker.importing import StartupError, contain_exits, describe_error, import_modules

INTERFACES = ("environ", "scope")
"""The first parameters of applications that are functions: those of WSGI and ASGI."""
_loaded: dict[str, object] = {}
"""The applications by name, which would otherwise be freed while the process uses them."""


def load_application(names: tuple[str, ...]) -> None:
    """Import modules, and load applications in modules.

    Args:
        names: Names of modules, or with a colon of objects in modules. A function or class that accepts no arguments,
            such as ``shop:create_app``, is called; another object is an application.

    Raises:
        StartupError: It failed; the message has the name and the reason.
        DexpyError: Raised by the application itself, for example by its settings.
    """
    if names:
        command_modules.set(names)
    for name in names:
        module, _, attribute = name.partition(":")
        import_modules((module,))
        if attribute and name not in _loaded:
            _loaded[name] = _load(name, module, attribute)


def _load(name: str, module: str, attribute: str) -> object:
    subject = f"Cannot load the application {name!r}"
    found: Any = importlib.import_module(module)
    path = attribute.removesuffix("()")
    parent = f"the module {module!r}"
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            hint = did_you_mean(part, [known for known in dir(found) if not known.startswith("_")])
            raise StartupError(f"{subject}: {parent} has no attribute {part!r}.{hint} Correct the name.") from None
        parent = repr(part)
    if found is None:
        raise StartupError(f"{subject}: it is None. Pass the name of the function that creates it, or of a module.")
    if attribute.endswith("()") or _is_factory(subject, found):
        return _call(subject, path, found)
    return found


def _is_factory(subject: str, found: Any) -> bool:
    """Return whether an object is called for an application; objects with a ``__call__`` are applications.

    Raises:
        StartupError: It is a function or class that requires arguments.
    """
    if not any((inspect.isroutine(found), inspect.isclass(found), isinstance(found, functools.partial))):
        return False
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return True
    required = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if required and required[0] in INTERFACES:
        return False
    if required:
        raise StartupError(
            f"{subject}: it requires the arguments {', '.join(map(repr, required))}; expected an application, or a "
            "function without required arguments that creates it. Write such a function and pass its name."
        )
    return True


def _call(subject: str, path: str, factory: Callable[[], Any]) -> object:
    if not callable(factory):
        raise StartupError(f"{subject}: {path!r} cannot be called. Remove the parentheses.")
    try:
        with contain_exits(subject):
            application: Any = factory()
    except DexpyError:
        raise
    except Exception as error:
        raise StartupError(
            f"{subject}: {path}() raised {describe_error(error)}. Run with -v for the traceback."
        ) from error
    if inspect.iscoroutine(application):
        application.close()
        raise StartupError(f"{subject}: {path}() is async; expected a function. Write one without `async`.")
    return application
