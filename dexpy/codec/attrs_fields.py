"""Checks of attrs fields in the body of an operation, which refuse options that dexpy would ignore."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from dexpy.foundation.errors import DeclarationError

OWN_FIELDS = "__dexpy_fields__"
"""The attribute of a class that holds the attrs fields that dexpy has added."""

_REMEDIES: Mapping[str, str] = {
    "validator": "Write prop(ge=..., pattern=..., choices=...) for a bound, or a @guard for a rule.",
    "converter": "Declare the type that callers pass and convert it in perform, or register a conversion with "
    "dexpy.register_type.",
    "repr": "Write prop(sensitive=True) to hide a value.",
    "init": "Write a functools.cached_property for a computed value.",
    "alias": "Rename the prop; prop(aliases=(...,)) reads stored params with an earlier name.",
    "type": "Write the type as the annotation.",
    "default": "Write prop(default=...), or prop(factory=...) with a function without arguments.",
}


def check_field(field: Any, where: str) -> None:
    """Refuse a prop with options of attrs that dexpy would ignore.

    Args:
        field: The result of `prop(...)` or ``attrs.field(...)``.
        where: The prop.
    """
    plain: Any = attrs.field()
    changed_options = {
        name.lstrip("_"): getattr(field, name)
        for name in plain.__slots__
        if name not in ("counter", "metadata", "_default", "kw_only") and getattr(field, name) != getattr(plain, name)
    }
    if isinstance(field._default, attrs.Factory) and field._default.takes_self:  # type: ignore[arg-type]
        changed_options["default"] = "of self"
    if field.kw_only is False and plain.kw_only is not False:
        changed_options["kw_only"] = False
    for name in changed_options:
        description = "a default that depends on self" if name == "default" else f"attrs' {name}"
        remedy = _REMEDIES.get(name, f"Remove {name}.")
        raise DeclarationError(
            f"{where}: {description} would be ignored, because operations have their own constructor. {remedy}"
        )
