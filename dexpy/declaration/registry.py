"""The registry of operation classes by their stable names.

A worker looks up the name in a message or row here only: nothing is imported by name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from dexpy.foundation.errors import DeclarationError, UnknownOperation, did_you_mean
from dexpy.foundation.log_events import declared_names

_by_name: dict[str, type[Any]] = {}
_with_task: dict[str, type[Any]] = {}
"""The class that has declared a recurring task last, by its key; the task may be gone since."""


def stable_name(cls: type) -> str:
    """Return the default name of a class: its module and qualified name.

    For a class of a script it is the name under which its file would be imported.
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
    if file is None or not os.path.isfile(file):  # a program read from standard input has the file <stdin>
        return None
    path = os.path.realpath(file)
    for entry in sys.path:
        folder = os.path.realpath(entry or ".")
        if path.startswith(folder + os.sep):
            return os.path.splitext(os.path.relpath(path, folder))[0].replace(os.sep, ".")
    return None


def why_not_importable(cls: type) -> str | None:
    """Return why a worker could never find this class, or None if it can."""
    if "<locals>" in cls.__qualname__:
        return "it is declared inside a function. Move it to the top of a module"
    if cls.__module__ == "__main__" and _name_of_main() is None:
        return "it is declared in an interactive session. Put it into a module"
    return None


def _source_of(cls: type) -> tuple[str, str]:
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return (os.path.realpath(file) if file else cls.__module__), cls.__qualname__


def register(cls: type, names: tuple[str, ...], tasks: Sequence[Any] = ()) -> None:
    """Register a class under its names; a new declaration of the same class in the same file replaces it.

    Args:
        cls: The class.
        names: Its names.
        tasks: Its recurring tasks.

    Raises:
        DeclarationError: Another class has one of the names, or a task with one of the keys, already.
    """
    if why_not_importable(cls) is not None:
        return
    for name in names:
        registered = _by_name.get(name)
        if registered is not None and _source_of(registered) != _source_of(cls):
            raise DeclarationError(
                f"{cls.__module__}.{cls.__qualname__}: the name {name!r} is already used by "
                f"{registered.__module__}.{registered.__qualname__}. "
                f'Give one of them another name: class {cls.__name__}(Operation, name="...").'
            )
    for task in tasks:
        other = _with_task.get(task.key)
        if other is not None and _source_of(other) != _source_of(cls) and task.key in _keys_of(other):
            raise DeclarationError(
                f"{cls.__module__}.{cls.__qualname__}.schedule: the key {task.key!r} is already used by "
                f"{other.__module__}.{other.__qualname__}. Give one of them another key."
            )
    for name in names:
        _by_name[name] = cls
    _with_task.update((task.key, cls) for task in tasks)
    declared_names.update(names)


def _keys_of(cls: Any) -> set[str]:
    return {task.key for task in cls.contract.recurring}


def scheduled_classes() -> list[Any]:
    """Return the classes of this process that declare recurring tasks, each once."""
    classes = {id(cls): cls for cls in _by_name.values()}
    return [cls for cls in classes.values() if cls.contract.recurring]


def find(name: str) -> type[Any]:
    """Return the operation class with a name.

    Raises:
        UnknownOperation: No class in this process has this name.
    """
    try:
        return _by_name[name]
    except KeyError:
        raise UnknownOperation(
            f"Unknown operation {name!r}: this process does not declare it.{did_you_mean(name, _by_name)} "
            "Import its module, or declare the earlier name as an alias of the class."
        ) from None


def contract_of(name: str) -> Any:
    """Return the contract of the operation with a name; None if this process does not declare it."""
    cls = _by_name.get(name)
    return None if cls is None else cls.contract


def is_known(name: str) -> bool:
    """Return whether this process declares a class with this name."""
    return name in _by_name


def names() -> tuple[str, ...]:
    """Return all names, sorted."""
    return tuple(sorted(_by_name))
