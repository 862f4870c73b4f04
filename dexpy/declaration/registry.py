"""Stable names of operations, and the classes behind them.

A worker finds a class by the name that a message or row carries, and only here: nothing is imported by name.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from dexpy.foundation.errors import DeclarationError, UnknownOperation, did_you_mean

_by_name: dict[str, type[Any]] = {}


def stable_name(cls: type) -> str:
    """The name of a class that gives itself none: its module and qualified name.

    A class of a script gets the name that its file would be imported by.
    """
    module = cls.__module__
    if module == "__main__":
        module = _name_of_main() or module
    return f"{module}.{cls.__qualname__}"


def _name_of_main() -> str | None:
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        name: str = spec.name
        return name
    file = getattr(main, "__file__", None)
    if file is None or not os.path.isfile(file):  # what is read from standard input says that its file is <stdin>
        return None
    path = os.path.realpath(file)
    for entry in sys.path:
        folder = os.path.realpath(entry or ".")
        if path.startswith(folder + os.sep):
            return os.path.splitext(os.path.relpath(path, folder))[0].replace(os.sep, ".")
    return None


def why_not_importable(cls: type) -> str | None:
    """Why a worker could never find this class, or None if it can."""
    if "<locals>" in cls.__qualname__:
        return "it is declared inside a function. Move it to the top of a module"
    if cls.__module__ == "__main__" and _name_of_main() is None:
        return "it is declared in an interactive session. Put it into a module"
    return None


def _source_of(cls: type) -> tuple[str, str]:
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return (os.path.realpath(file) if file else cls.__module__), cls.__qualname__


def register(cls: type, names: tuple[str, ...]) -> None:
    """Make a class known by its names; declaring the same class of the same file again replaces it.

    Raises:
        DeclarationError: Another class has one of the names already.
    """
    if why_not_importable(cls) is not None:
        return
    for name in names:
        other = _by_name.get(name)
        if other is not None and _source_of(other) != _source_of(cls):
            raise DeclarationError(
                f"{cls.__module__}.{cls.__qualname__} wants the name {name!r}, which "
                f"{other.__module__}.{other.__qualname__} has already. "
                f'Give one of them another: class {cls.__name__}(Operation, name="...").'
            )
    for name in names:
        _by_name[name] = cls


def find(name: str) -> type[Any]:
    """The operation class of a name.

    Raises:
        UnknownOperation: This process has not declared it.
    """
    try:
        return _by_name[name]
    except KeyError:
        raise UnknownOperation(
            f"No operation is named {name!r} in this process.{did_you_mean(name, _by_name)} "
            "Import the module that declares it, or keep its old name as an alias."
        ) from None


def is_known(name: str) -> bool:
    """Whether a class of this name is declared here."""
    return name in _by_name


def names() -> tuple[str, ...]:
    """All names, sorted."""
    return tuple(sorted(_by_name))
