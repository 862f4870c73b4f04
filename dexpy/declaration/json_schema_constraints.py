"""Constraints in JSON Schema, as far as it can express them; a schema accepts all input that `parse` accepts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from types import NoneType
from typing import Any, TypeAlias

from dexpy.codec.annotations import members_of, origin_of, without_constraints
from dexpy.codec.arrays import array_kind
from dexpy.codec.constraints import PropOptions
from dexpy.codec.enums import has_rule, is_enum, is_literal
from dexpy.codec.generics import is_union
from dexpy.codec.mappings import is_dict
from dexpy.declaration.json_schema_patterns import translate_pattern
from dexpy.foundation.errors import NotSerializable


def bounds_of(options: PropOptions, annotation: Any, encode: Callable[[Any], Any]) -> dict[str, Any]:
    """Return the keywords for constraints.

    Args:
        options: The constraints.
        annotation: The annotation of the constrained values.
        encode: A function that encodes such a value as JSON.
    """
    schema: dict[str, Any] = {}
    members = _members(annotation)
    for name, keyword, towards in _LIMITS:
        declared = getattr(options, name)
        bound = _number(declared, towards)
        if bound is not None and not (float in members and isinstance(declared, Decimal)):
            schema[keyword] = bound
    kinds = [_sized(member) for member in members]
    for option, end in (("min_length", "min"), ("max_length", "max")):
        length = getattr(options, option)
        if length is not None:
            for word, scale in filter(None, (kind.get(end) for kind in kinds)):
                schema[word] = scale(length)
    if options.pattern is not None and (pattern := translate_pattern(options.pattern)) is not None:
        schema["pattern"] = pattern
    is_listed = options.choices is not None and not options.sensitive
    if is_listed and all(_is_written_one_way(member) for member in members):
        values = [_written(encode, choice) for choice in options.choices or ()]
        schema["enum"] = [*values, None] if NoneType in members and None not in values else values
    return schema


def _written(encode: Callable[[Any], Any], value: Any) -> Any:
    try:
        return encode(value)
    except NotSerializable:
        return repr(value)


def _members(annotation: Any) -> Sequence[Any]:
    annotation = without_constraints(annotation)
    return [without_constraints(member) for member in members_of(annotation)] if is_union(annotation) else [annotation]


_LIMITS = (
    ("ge", "minimum", math.ceil),
    ("gt", "exclusiveMinimum", math.floor),
    ("le", "maximum", math.floor),
    ("lt", "exclusiveMaximum", math.ceil),
)


def _number(bound: Any, towards: Any) -> float | int | None:
    """Return a bound for numbers that excludes no valid value; None for a bound of other values."""
    if type(bound) is int:
        return bound
    if type(bound) is float:
        return bound if math.isfinite(bound) else None
    if type(bound) is timedelta:
        microseconds: int = bound // timedelta(microseconds=1)
        return microseconds
    if type(bound) is Decimal and bound.is_finite():
        # Only integral Decimals are JSON numbers, so that an integral bound is exact.
        integer: int = towards(bound)
        return integer
    return None


_Sizes: TypeAlias = Mapping[str, tuple[str, Any]]


def _unchanged(length: int) -> int:
    return length


def _in_base64(length: int) -> int:
    return math.ceil(length / 3) * 4


def _sized(annotation: Any) -> _Sizes:
    """Return the keywords for the length of a value in JSON."""
    origin = array_kind(annotation) or origin_of(annotation)
    if annotation is str:
        return {"min": ("minLength", _unchanged), "max": ("maxLength", _unchanged)}
    if annotation is bytes:
        return {"min": ("minLength", _in_base64), "max": ("maxLength", _in_base64)}
    if origin in (list, tuple):
        return {"min": ("minItems", _unchanged), "max": ("maxItems", _unchanged)}
    if origin in (set, frozenset):
        # Duplicates in the input count once.
        return {"min": ("minItems", _unchanged)}
    if is_dict(annotation):
        return {"min": ("minProperties", _unchanged)}
    return {}


def _is_written_one_way(annotation: Any) -> bool:
    """Return whether equal values always have the same JSON."""
    scalars = (NoneType, bool, int, float, str)
    return annotation in scalars or (is_enum(annotation) and not has_rule(annotation)) or is_literal(annotation)
