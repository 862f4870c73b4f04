"""Type hints of a class: read early, while its module is still being read, and in full, with every name looked up.

Models are often declared after the operations that refer to them, so that a name may be missing at first.
"""

from __future__ import annotations

import builtins
import re
import sys
import typing
from collections.abc import Mapping
from typing import Any, ClassVar

from dexpy.foundation.errors import DeclarationError


def early_annotation(annotation: Any, owner: type) -> Any:
    """An annotation as far as it can be known while its module is still being read."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, {}, _Missing(_module_of(owner)))  # noqa: S307 - the class's own annotation
    except Exception:  # noqa: BLE001 - whatever it is, it is told in full when it is resolved
        return _StandIn


def is_classvar(annotation: object, text: object) -> bool:
    """Whether an annotation, as it was read early and as it stands, declares no prop but a ClassVar."""
    if typing.get_origin(annotation) is ClassVar or annotation is ClassVar:
        return True
    return isinstance(text, str) and re.match(r"(typing\.|t\.)?ClassVar\b", text) is not None


def resolve_annotation(annotation: Any, owner: type, where: str) -> Any:
    """An annotation with its names looked up, as `typing.get_type_hints` does it.

    Raises:
        DeclarationError: It names something that does not exist at run time.
    """

    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    try:
        hints = typing.get_type_hints(holder, dict(_module_of(owner)), {owner.__name__: owner}, include_extras=True)
    except NameError as error:
        raise DeclarationError(
            f"{where}: its type {annotation!r} names {error.name!r}, which does not exist at run time. "
            "Import it outside of `if TYPE_CHECKING:` and on module level "
            "(ruff's flake8-type-checking: runtime-evaluated-base-classes = ['dexpy.Operation'])."
        ) from None
    except TypeError as error:
        raise DeclarationError(f"{where}: its type {annotation!r} cannot be understood: {error}.") from None
    return hints["it"]


def _module_of(cls: type) -> Mapping[str, Any]:
    module = sys.modules.get(cls.__module__)
    return vars(module) if module is not None else {}


class _Missing(dict[str, Any]):
    """Names for an annotation that is looked at early: what is not there yet is a stand-in."""

    def __init__(self, module: Mapping[str, Any]) -> None:
        super().__init__()
        self._module = module

    def __missing__(self, name: str) -> Any:
        if name in self._module:
            return self._module[name]
        return getattr(builtins, name, _StandIn)


class _StandInMeta(type):
    def __getattr__(cls, name: str) -> Any:
        return cls

    def __getitem__(cls, item: Any) -> Any:
        return cls

    def __or__(cls, other: Any) -> Any:
        return cls

    def __ror__(cls, other: Any) -> Any:
        return cls


class _StandIn(metaclass=_StandInMeta):
    """Any name that does not exist yet."""
