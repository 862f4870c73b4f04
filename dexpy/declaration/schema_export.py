"""Contracts as data, for people and for programs in other languages: as a dict or as JSON Schema."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from dexpy.codec.codecs import Codec
from dexpy.declaration.json_schema import DIALECT, Schema, Schemas
from dexpy.declaration.json_schema_constraints import bounds_of
from dexpy.declaration.props import Prop
from dexpy.foundation.errors import NotSerializable, OptionsError, did_you_mean, listed

Section: TypeAlias = Literal["params", "success", "errors", "full"]
SECTIONS = ("params", "success", "errors", "full")


def params_dict(props: Sequence[Prop]) -> dict[str, dict[str, Any]]:
    """Return the props of a class as plain JSON, by name."""
    return {prop.name: _param(prop) for prop in props}


def _param(prop: Prop) -> dict[str, Any]:
    options = prop.options
    description: dict[str, Any] = {"type": prop.codec.label, "required": prop.required and options.context is None}
    description |= _default(prop)
    for name in ("ge", "gt", "le", "lt", "min_length", "max_length"):
        bound = getattr(options, name)
        if bound is not None:
            description[name] = bound if type(bound) in (int, float) and math.isfinite(bound) else str(bound)
    if options.pattern is not None:
        description["pattern"] = options.pattern.pattern
    if options.choices is not None and not options.sensitive:
        description["choices"] = [_encoded(prop, choice) for choice in options.choices]
    if options.desc is not None:
        description["description"] = options.desc
    if options.context is not None:
        description["context"] = options.context
    if options.sensitive:
        description["sensitive"] = True
    return description


def _encoded(prop: Prop, value: Any) -> Any:
    try:
        return prop.codec.encode(value)
    except NotSerializable:
        return repr(value)


def _default(prop: Prop) -> dict[str, Any]:
    """Return the default as JSON; empty if a factory makes it, it has no JSON form, or it is secret."""
    if prop.required or prop.has_factory or prop.options.sensitive:
        return {}
    try:
        return {"default": prop.codec.encode(prop.default())}
    except NotSerializable:
        return {}


def section_schema(
    section: str,
    name: str,
    description: str | None,
    props: Sequence[Prop],
    result: Codec | None,
    errors: Mapping[str, str | None],
) -> Schema:
    """Return a section of a contract as JSON Schema, draft 2020-12.

    Raises:
        OptionsError: The section is unknown.
    """
    if section not in SECTIONS:
        raise OptionsError(
            f"to_json_schema({section!r}): expected one of {listed(SECTIONS)}.{did_you_mean(str(section), SECTIONS)}"
        )
    header: Schema = {"$schema": DIALECT, "title": name}
    if description is not None:
        header["description"] = description
    defs: dict[str, Schema] = {}
    # The schema of the input of a class differs from that of its output.
    params, success = Schemas("in", defs), Schemas("out", defs, "success." if section == "full" else "")
    sections: dict[str, Callable[[], Schema]] = {
        "params": lambda: _params(props, params),
        "success": lambda: {} if result is None else success.of(result.type),
        "errors": lambda: _errors(errors),
    }
    if section == "full":
        schema: Schema = {
            "type": "object",
            "properties": {section_name: make() for section_name, make in sections.items()},
            "additionalProperties": False,
        }
    else:
        schema = sections[section]()
    return {**header, **schema, **({"$defs": defs} if defs else {})}


def _params(props: Sequence[Prop], schemas: Schemas) -> Schema:
    return {
        "type": "object",
        "properties": {prop.name: _prop(prop, schemas) for prop in props},
        "required": [prop.name for prop in props if prop.required and prop.options.context is None],
        "additionalProperties": False,
    }


def _errors(errors: Mapping[str, str | None]) -> Schema:
    codes = [
        {"const": code, **({"description": description} if description else {})} for code, description in errors.items()
    ]
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


# ------------------------------------------------------------------------------------------- one prop


def _prop(prop: Prop, schemas: Schemas) -> Schema:
    schema = schemas.of(prop.type) if prop.reference is None else schemas.of_reference(prop.reference)
    schema |= bounds_of(prop.options, prop.type if prop.reference is None else list, prop.codec.encode)
    options = prop.options
    if options.desc is not None:
        schema["description"] = options.desc
    elif options.context is not None and "description" not in schema:
        schema["description"] = f"Default: the context value {options.context!r}."
    if options.sensitive:
        schema["writeOnly"] = True
    return schema | _default(prop)
