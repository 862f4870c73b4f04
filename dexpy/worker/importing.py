"""Imports the application's modules for a command, and converts their exceptions to errors with a fix."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import PurePath

from dexpy.configuration.kinds import APPLICATION
from dexpy.foundation.errors import ConfigurationError, DexpyError


class StartupError(ConfigurationError):
    """An error at the start of a process that a restart would not fix."""

    exit_status = 2


class ModuleExited(StartupError):
    """A module of the application tried to end the program when it was imported or called."""


def import_modules(modules: tuple[str, ...]) -> None:
    """Import modules of the application.

    Raises:
        StartupError: The import of a module failed; the message has its name and the reason.
        DexpyError: Raised by a module itself, for example by its settings.
    """
    for module in modules:
        check_name(module)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for module in modules:
        try:
            with contain_exits(f"Cannot import the module {module!r}"):
                importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
                raise StartupError(
                    f"Cannot import the module {module!r}: there is no {error.name!r} in {os.getcwd()} or on the "
                    f"Python path. Pass the dotted name, as in `import`{_for_example(module)}, and start in the folder "
                    "that contains it."
                ) from error
            raise StartupError(f"Cannot import the module {module!r}: {error}.") from error
        except DexpyError:
            raise
        except Exception as error:
            raise StartupError(
                f"Cannot import the module {module!r}: {describe_error(error)}. Run with -v for the traceback."
            ) from error


@contextmanager
def contain_exits(what: str) -> Generator[None, None, None]:
    """Convert exceptions of the application that would end the program into `ModuleExited`.

    Args:
        what: The beginning of the message: what failed.

    Raises:
        ModuleExited: A BaseException other than an `Exception` was raised, for example SystemExit.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        raise ModuleExited(
            f"{what}: it raised {describe_error(error)}, which ends the program. "
            'Move that call under `if __name__ == "__main__":`.'
        ) from error


def describe_error(error: BaseException) -> str:
    """Return the class of an exception and its text, if that can be computed."""
    text = ""
    with contextlib.suppress(Exception):
        text = str(error)
    name = type(error).__name__
    if isinstance(error, SystemExit):
        return f"{name}({error.code!r})" if isinstance(error.code, (int, str)) else f"{name}()"
    return f"{name}: {text}" if text else name


def check_name(module: str) -> None:
    """Refuse an invalid module name, for example a path.

    Raises:
        StartupError: The name is not dotted; the message shows an example.
    """
    if all(module.split(".")) and not set(module) & set('/\\:" \t\n\0'):
        return
    raise StartupError(
        f"MODULE: {module!r} is not the name of a module; expected a dotted name, as in `import`{_for_example(module)}."
        f" Start in the folder that contains it.{_app_option(module)}"
    )


def _for_example(module: str) -> str:
    """Return an example: the dotted name for a path, a file, or a name with an attribute."""
    path = PurePath(module.replace("\\", "/").partition(":")[0])
    if path.is_absolute():
        path = PurePath(path.name)
    parts = [part for part in path.parts if part not in (".", "..")]
    dotted = ".".join(parts).removesuffix(".py").removesuffix(".__init__").strip(".")
    is_name = dotted != module and dotted and all(part.isidentifier() for part in dotted.split("."))
    return f", for example {dotted!r}" if is_name else ""


def _app_option(module: str) -> str:
    """Return a sentence for an attribute of a module."""
    return f" Pass an application in a module as --app {module}." if APPLICATION.fullmatch(module) else ""


def call_application(what: str, function: Callable[[], object]) -> None:
    """Call a function that may call the application.

    Raises:
        DexpyError: The function failed; another exception is the cause of a `StartupError`.
    """
    try:
        with contain_exits(what):
            function()
    except DexpyError:
        raise
    except Exception as error:
        raise StartupError(f"{what}: {describe_error(error)}.") from error
