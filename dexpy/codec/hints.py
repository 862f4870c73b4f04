"""Annotations of a class: read early, while its module is imported, and later with all names resolved.

Models are often declared after the operations that refer to them, so that a name may be undefined at first.
Names are resolved as in Python: in the body of the class, among its type parameters, in its module.
"""

from __future__ import annotations

import builtins
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, ForwardRef, TypeVar

from dexpy.foundation.errors import DeclarationError

_CLASS_VAR = re.compile(r"(\w+\.)*ClassVar\b")

# ------------------------------------------------------------------------------------------------ early


def class_annotations(cls: type) -> Mapping[str, Any]:
    """Return the unresolved annotations of a class, without those of its bases."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
    annotations: Mapping[str, Any] = vars(cls).get("__annotations__", {})
    return annotations


def early_annotation(annotation: Any, owner: type) -> tuple[Any, bool]:
    """Return an annotation, resolved as far as possible during the import of its module, and whether it is complete."""
    if not isinstance(annotation, str):
        return annotation, True
    names = _NamesWithPlaceholders(_names_of(owner), _module_of(owner))
    try:
        return eval(annotation, {}, names), not names.are_missing  # noqa: S307 - the class's own annotation
    except Exception:  # noqa: BLE001 - reported in full when it is resolved
        return _Placeholder, False


def is_classvar(annotation: Any, text: object) -> bool:
    """Return whether an early annotation, which may be text, is a ClassVar rather than a prop."""
    while typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is ClassVar or annotation is ClassVar:
        return True
    return annotation is _Placeholder and isinstance(text, str) and _CLASS_VAR.match(text) is not None


# ---------------------------------------------------------------------------------------------- in full


def resolve_annotation(annotation: Any, owner: type, where: str, function: Any = None) -> Any:
    """Return an annotation with its names resolved.

    Args:
        annotation: The annotation; may be text.
        owner: The class whose body contains it.
        where: Its place, for messages.
        function: The method that it belongs to; None for an annotation of the class.

    Raises:
        DeclarationError: A name in it does not exist at run time.
    """
    module = dict(_module_of(owner))
    names = _names_of(owner)
    if function is not None:
        function = inspect.unwrap(function)
        module |= getattr(function, "__globals__", {})
        names |= {parameter.__name__: parameter for parameter in getattr(function, "__type_params__", ())}
    try:
        return evaluate(annotation, module, names)
    except NameError as error:
        raise DeclarationError(_unresolved_message(where, annotation, error, owner)) from None
    except Exception as error:  # noqa: BLE001 - an annotation may be any expression
        reason = str(error) or type(error).__name__
        raise DeclarationError(f"{where}: invalid type {_text(annotation)}: {reason}.") from None


def evaluate(annotation: Any, module: Mapping[str, Any], names: Mapping[str, Any]) -> Any:
    """Return an annotation with its names resolved; raises any exception of its evaluation."""
    container = type("holder", (), {"__annotations__": {"it": annotation}})
    return typing.get_type_hints(container, dict(module), dict(names), include_extras=True)["it"]


def resolved_in(owner: Any, annotation: Any) -> Any:
    """Return an annotation resolved in the module of a type alias, a `NewType` or a type variable.

    Raises:
        DeclarationError: A name in it does not exist at run time.
    """
    module = sys.modules.get(getattr(owner, "__module__", None) or "")
    try:
        return evaluate(annotation, vars(module) if module is not None else {}, {})
    except NameError as error:
        raise DeclarationError(f"The type {owner.__name__} refers to {error.name!r}, which is not defined.") from error
    except Exception as error:
        raise DeclarationError(f"The type {owner.__name__} cannot be resolved: {error}.") from error


def _unresolved_message(where: str, annotation: Any, error: NameError, owner: type) -> str:
    start = f"{where}: undefined name {error.name!r} in the type {_text(annotation)}"
    if "<locals>" in owner.__qualname__:
        return (
            f"{start}; it is neither in the class nor in its module. Move {error.name!r} out of the function, or out "
            "of `if TYPE_CHECKING:`; an annotation as text does not see local names."
        )
    return (
        f"{start}; it does not exist at run time. "
        "Import it outside of `if TYPE_CHECKING:` and on module level "
        "(ruff's flake8-type-checking: runtime-evaluated-base-classes = ['dexpy.Operation'])."
    )


def _text(annotation: Any) -> str:
    return repr(annotation.__forward_arg__ if isinstance(annotation, ForwardRef) else annotation)


# ------------------------------------------------------------------------------------------------ names


def _names_of(owner: type) -> dict[str, Any]:
    """Return the names that the body of a class adds to those of its module.

    Props and methods do not hide types of the same name, as in ``date: date | None = None``.
    """
    module, annotations = _module_of(owner), class_annotations(owner)
    names = {parameter.__name__: parameter for parameter in getattr(owner, "__type_params__", ())}
    for enclosing in (*_enclosing_classes(owner), owner):
        names |= {
            name: value
            for name, value in vars(enclosing).items()
            if _is_type(value) and not (name in annotations and (name in module or hasattr(builtins, name)))
        }
    return {"typing": typing, **names, owner.__name__: owner}


def _enclosing_classes(owner: type) -> list[type]:
    """Return the enclosing classes of a class, the outermost first."""
    classes: list[type] = []
    scope: Any = types.SimpleNamespace(**_module_of(owner))
    for name in owner.__qualname__.split(".")[:-1]:
        scope = getattr(scope, name, None)
        if not isinstance(scope, type):
            break
        classes.append(scope)
    return classes


def _is_type(value: object) -> bool:
    return (
        isinstance(value, (type, TypeVar, types.ModuleType, types.GenericAlias, types.UnionType, typing.NewType))
        or typing.get_origin(value) is not None
        or type(value).__name__ == "TypeAliasType"
    )


def _module_of(cls: type) -> Mapping[str, Any]:
    """Return the names in the module of a class; for code run by ``exec``, the globals of its methods."""
    module = sys.modules.get(cls.__module__)
    names: dict[str, Any] = {}
    for value in vars(cls).values():
        function: Callable[..., Any] | None = value if isinstance(value, types.FunctionType) else None
        if function is not None and function.__module__ == cls.__module__:
            names = function.__globals__
            break
    if module is None or names is vars(module):
        return names
    return {**names, **vars(module)}


class _NamesWithPlaceholders(dict[str, Any]):
    """Names for an annotation that is read early: an undefined name is a placeholder."""

    def __init__(self, names: Mapping[str, Any], module: Mapping[str, Any]) -> None:
        super().__init__(names)
        self._module = module
        self.are_missing = False

    def __missing__(self, name: str) -> Any:
        if name in self._module:
            return self._module[name]
        if hasattr(builtins, name):
            return getattr(builtins, name)
        self.are_missing = True
        return _Placeholder


class _PlaceholderMeta(type):
    def __getattr__(cls, name: str) -> Any:
        return cls

    def __getitem__(cls, item: Any) -> Any:
        return cls

    def __or__(cls, other: Any) -> Any:
        return cls

    def __ror__(cls, other: Any) -> Any:
        return cls

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls


class _Placeholder(metaclass=_PlaceholderMeta):
    """Placeholder of an undefined name."""
