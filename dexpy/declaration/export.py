"""`export`: the contracts of all operations that this process declares."""

from __future__ import annotations

from typing import Any, Literal

from dexpy.declaration.contract import Contract
from dexpy.declaration.registry import find, names
from dexpy.foundation.errors import OptionsError


def export(form: Literal["dict", "json_schema"] = "dict") -> dict[str, dict[str, Any]]:
    """Return the contracts of all operations that this process declares, as plain JSON by their stable names, sorted.

    Base classes without a `perform` are left out.

    Args:
        form: ``"dict"`` for `Contract.to_dict`, ``"json_schema"`` for `Contract.to_json_schema` of all sections.

    Raises:
        OptionsError: The form is unknown.

    Example:
        >>> import json, dexpy
        >>> text = json.dumps(dexpy.export("json_schema"), indent=2)
    """
    if form not in ("dict", "json_schema"):
        raise OptionsError(f"export({form!r}): expected 'dict' or 'json_schema'.")
    contracts: dict[str, Contract] = {name: find(name).contract for name in names()}
    return {
        name: contract.to_dict() if form == "dict" else contract.to_json_schema("full")
        for name, contract in contracts.items()
        if contract.name == name and not _is_of_dexpy(contract)
    }


def _is_of_dexpy(contract: Contract) -> bool:
    """Return whether a class belongs to dexpy, or has no `perform` of its own."""
    owner = next(base for base in contract.cls.__mro__ if "perform" in vars(base))
    return f"{owner.__module__}.".startswith("dexpy.")
