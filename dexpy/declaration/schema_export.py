"""A contract as data: for people and programs that are no Python, as a dict or as JSON Schema."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from dexpy.declaration.annotations import is_union, members_of, origin_of, unwrapped
from dexpy.declaration.choices import is_enum, is_literal
from dexpy.declaration.dicts import is_dict
from dexpy.declaration.json_schema import DIALECT, Schema, Schemas
from dexpy.declaration.registry import find, names
from dexpy.foundation.errors import NotSerializable, OptionsError, did_you_mean, listed

if TYPE_CHECKING:
    from dexpy.declaration.contract import Contract
    from dexpy.declaration.props import Prop

Section: TypeAlias = Literal["params", "success", "errors", "full"]
SECTIONS = ("params", "success", "errors", "full")

_PYTHON_ONLY = re.compile(r"\(\?(?![:=!]|<[=!])|\\[AZz]|\\N\{|(?<!\\)[*+?}][+]")
"""What a pattern may have in Python, and JavaScript would not understand."""


def contract_dict(contract: Contract) -> dict[str, Any]:
    """A contract as plain JSON: name, params, success, errors, guards."""
    return {
        "name": contract.name,
        "aliases": list(contract.aliases),
        "description": contract.description,
        "params": {one.name: _param(one) for one in contract.props},
        "success": None if contract.success is None else contract.success.label,
        "errors": dict(contract.errors),
        "guards": [
            {"code": guard.code, "message": guard.message or guard.code, "requires": list(guard.requires)}
            for guard in contract.guards
        ],
    }


def _param(one: Prop) -> dict[str, Any]:
    options = one.options
    told: dict[str, Any] = {"type": one.form.label, "required": one.required and options.context is None}
    told |= _default(one)
    for name in ("ge", "gt", "le", "lt", "min_length", "max_length"):
        bound = getattr(options, name)
        if bound is not None:
            told[name] = bound if type(bound) in (int, float) and math.isfinite(bound) else str(bound)
    if options.pattern is not None:
        told["pattern"] = options.pattern.pattern
    if options.choices is not None:
        told["choices"] = [_written(one, choice) for choice in options.choices]
    if options.desc is not None:
        told["description"] = options.desc
    if options.context is not None:
        told["context"] = options.context
    if options.sensitive:
        told["sensitive"] = True
    return told


def _written(one: Prop, value: Any) -> Any:
    try:
        return one.form.encode(value)
    except NotSerializable:
        return repr(value)


def _default(one: Prop) -> dict[str, Any]:
    """The default as JSON; nothing of one that is made anew each time, has no JSON form or is a secret."""
    if one.required or one.is_made or one.options.sensitive:
        return {}
    try:
        return {"default": one.form.encode(one.default())}
    except NotSerializable:
        return {}


def contract_schema(contract: Contract, section: str) -> Schema:
    """A section of a contract as JSON Schema, draft 2020-12.

    Raises:
        OptionsError: There is no such section.
    """
    if section not in SECTIONS:
        raise OptionsError(
            f"to_json_schema({section!r}): the sections are {listed(SECTIONS)}.{did_you_mean(str(section), SECTIONS)}"
        )
    head: Schema = {"$schema": DIALECT, "title": contract.name}
    if contract.description is not None:
        head["description"] = contract.description
    defs: dict[str, Schema] = {}
    # What a class is read from, and what is written of it, are two things.
    params, success = Schemas("in", defs), Schemas("out", defs, "success." if section == "full" else "")
    parts: dict[str, Callable[[], Schema]] = {
        "params": lambda: _params(contract, params),
        "success": lambda: _success(contract, success),
        "errors": lambda: _errors(contract),
    }
    if section == "full":
        made: Schema = {
            "type": "object",
            "properties": {name: make() for name, make in parts.items()},
            "additionalProperties": False,
        }
    else:
        made = parts[section]()
    return {**head, **made, **({"$defs": defs} if defs else {})}


def _params(contract: Contract, schemas: Schemas) -> Schema:
    return {
        "type": "object",
        "properties": {one.name: _prop(one, schemas) for one in contract.props},
        "required": [one.name for one in contract.props if one.required and one.options.context is None],
        "additionalProperties": False,
    }


def _success(contract: Contract, schemas: Schemas) -> Schema:
    return {} if contract.success is None else schemas.of(contract.success.type)


def _errors(contract: Contract) -> Schema:
    codes = [{"const": code, **({"description": said} if said else {})} for code, said in contract.errors.items()]
    return {
        "type": "object",
        "properties": {
            "code": {"oneOf": codes} if codes else {"type": "string", "minLength": 1},
            "message": {"type": "string"},
            "details": {"type": "object"},
        },
        "required": ["code", "message", "details"],
        "additionalProperties": False,
    }


def export(form: Literal["dict", "json_schema"] = "dict") -> dict[str, dict[str, Any]]:
    """Every operation that this process has declared, by its stable name, sorted: its contract as plain JSON.

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
    """Whether a class is one of dexpy's own, or has no `perform` but that of the base of all."""
    owner = next(base for base in contract.cls.__mro__ if "perform" in vars(base))
    return f"{owner.__module__}.".startswith("dexpy.")


# ------------------------------------------------------------------------------------------- one prop


def _prop(one: Prop, schemas: Schemas) -> Schema:
    made = schemas.of(one.type) if one.reference is None else schemas.of_reference(one.reference)
    made |= _bounds(one)
    options = one.options
    if options.desc is not None:
        made["description"] = options.desc
    elif options.context is not None and "description" not in made:
        made["description"] = f"Taken from the ambient value {options.context!r} when it is left out."
    if options.sensitive:
        made["writeOnly"] = True
    return made | _default(one)


def _bounds(one: Prop) -> Schema:
    """The bounds of a prop, as far as JSON Schema has words for them."""
    options, made = one.options, Schema()
    members = _members(one)
    for name, keyword, towards in _LIMITS:
        bound = _number(getattr(options, name), towards)
        if bound is not None and not (float in members and isinstance(getattr(options, name), Decimal)):
            made[keyword] = bound
    kinds = [_sized(member) for member in members]
    for option, end in (("min_length", "min"), ("max_length", "max")):
        length = getattr(options, option)
        if length is not None:
            for word, scale in filter(None, (kind.get(end) for kind in kinds)):
                made[word] = scale(length)
    if options.pattern is not None and _PYTHON_ONLY.search(options.pattern.pattern) is None:
        made["pattern"] = f"^(?:{options.pattern.pattern})$"
    if options.choices is not None and all(_is_written_one_way(member) for member in members):
        values = [_written(one, choice) for choice in options.choices]
        made["enum"] = [*values, None] if type(None) in members and None not in values else values
    return made


def _members(one: Prop) -> Sequence[Any]:
    annotation = unwrapped(one.type)
    return list(members_of(annotation)) if is_union(annotation) else [annotation]


_LIMITS = (
    ("ge", "minimum", math.ceil),
    ("gt", "exclusiveMinimum", math.floor),
    ("le", "maximum", math.floor),
    ("lt", "exclusiveMaximum", math.ceil),
)


def _number(bound: Any, towards: Any) -> float | int | None:
    """A bound for numbers, that leaves out nothing that is within; None for one that is of other values."""
    if type(bound) is int:
        return bound
    if type(bound) is float:
        return bound if math.isfinite(bound) else None
    if type(bound) is timedelta:
        exact: int = bound // timedelta(microseconds=1)
        return exact
    if type(bound) is Decimal and bound.is_finite():
        # Of Decimals only ints are JSON numbers, so that a whole bound is exact.
        whole: int = towards(bound)
        return whole
    return None


_Sizes: TypeAlias = Mapping[str, tuple[str, Any]]


def _as_it_is(length: int) -> int:
    return length


def _in_base64(length: int) -> int:
    return math.ceil(length / 3) * 4


def _sized(annotation: Any) -> _Sizes:
    """The words for the length of a value, and how a length is counted in JSON."""
    origin = origin_of(annotation)
    if annotation is str:
        return {"min": ("minLength", _as_it_is), "max": ("maxLength", _as_it_is)}
    if annotation is bytes:
        return {"min": ("minLength", _in_base64), "max": ("maxLength", _in_base64)}
    if origin in (list, tuple):
        return {"min": ("minItems", _as_it_is), "max": ("maxItems", _as_it_is)}
    if origin in (set, frozenset):
        # One that is said twice counts once.
        return {"min": ("minItems", _as_it_is)}
    if is_dict(annotation):
        return {"min": ("minProperties", _as_it_is)}
    return {}


def _is_written_one_way(annotation: Any) -> bool:
    """Whether two equal values are always the same JSON."""
    scalars = (type(None), bool, int, float, str)
    return annotation in scalars or is_enum(annotation) or is_literal(annotation)
