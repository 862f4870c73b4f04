"""`export`: the contracts of every operation that this process has declared."""

from __future__ import annotations

from typing import Any, Literal

from dexpy.declaration.contract import Contract
from dexpy.declaration.registry import find, names
from dexpy.foundation.errors import OptionsError


def export(form: Literal["dict", "json_schema"] = "dict") -> dict[str, dict[str, Any]]:
    """Return every operation that this process has declared, by its stable name, sorted: its contract as plain JSON.

    Base classes without a `perform` are left out.

    Args:
        form: ``"dict"`` for `Contract.to_dict`, ``"json_schema"`` for `Contract.to_json_schema` of all sections.

    Raises:
        OptionsError: There is no such form.

    Example:
        >>> import json, dexpy
        >>> text = json.dumps(dexpy.export("json_schema"), indent=2)
    """
    if form not in ("dict", "json_schema"):
        raise OptionsError(f"export({form!r}): the forms are 'dict' and 'json_schema'.")
    contracts: dict[str, Contract] = {name: find(name).contract for name in names()}
    return {
        name: contract.to_dict() if form == "dict" else contract.to_json_schema("full")
        for name, contract in contracts.items()
        if contract.name == name and not _is_of_dexpy(contract)
    }


def _is_of_dexpy(contract: Contract) -> bool:
    """Return whether a class is one of dexpy's own, or has no `perform` but that of the base of all."""
    owner = next(base for base in contract.cls.__mro__ if "perform" in vars(base))
    return f"{owner.__module__}.".startswith("dexpy.")
