"""JSON Schema (draft 2020-12) of annotations: for the input of `parse`, and for stored results.

A schema accepts all input that `parse` accepts, and more if JSON Schema cannot express a rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Flag
from pathlib import PurePath
from types import NoneType
from typing import Any, Literal, TypeAlias, get_args
from uuid import UUID

import attrs

from dexpy.codec.annotations import is_constrained, label_of, members_of, origin_of, unwrapped, without_constraints
from dexpy.codec.arrays import array_kind, is_array, is_tuple
from dexpy.codec.classes import is_record, is_typed_dict
from dexpy.codec.codecs import codec_of
from dexpy.codec.enums import has_rule, is_enum, is_literal
from dexpy.codec.fields import Field, fields_of, keys_of
from dexpy.codec.generics import is_union
from dexpy.codec.mappings import is_dict
from dexpy.codec.plain_json import is_anything
from dexpy.codec.pydantic_models import is_pydantic_model, schema_of
from dexpy.codec.registered_types import is_registered
from dexpy.codec.unions import TAG
from dexpy.declaration.json_schema_constraints import bounds_of
from dexpy.declaration.model_loaders import RegisteredLoader, SqlAlchemyLoader
from dexpy.declaration.refs import Reference

Schema: TypeAlias = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_OFFSET = r"(Z|[+-][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,6})?)?)?"
_TIME = r"[0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,6})?)?" + _OFFSET
_DURATION = r"[+-]?P([0-9]+W)?([0-9]+D)?(T([0-9]+H)?([0-9]+M)?([0-9]+([.][0-9]{1,6})?S)?)?"
_DECIMAL = r"[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]+)?"
_UUID = r"[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}"

_SCALARS: Mapping[Any, Schema] = {
    NoneType: {"type": "null"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    bytes: {"type": "string", "contentEncoding": "base64"},
    Decimal: {"type": "string", "pattern": f"^{_DECIMAL}$"},
    UUID: {"type": "string", "format": "uuid", "pattern": f"^{_UUID}$"},
    date: {"type": "string", "format": "date", "pattern": f"^{_DATE}$"},
    datetime: {"type": "string", "format": "date-time", "pattern": f"^{_DATE}T{_TIME}$"},
    time: {"type": "string", "format": "time", "pattern": f"^{_TIME}$"},
    timedelta: {"type": "integer", "description": "Microseconds."},
}
_ACCEPTED: Mapping[Any, Schema] = {
    Decimal: {"type": ["string", "integer"], "pattern": f"^{_DECIMAL}$"},
    timedelta: {
        "type": ["integer", "string"],
        "pattern": f"^{_DURATION}$",
        "description": "Microseconds, or an ISO 8601 duration such as PT1H30M.",
    },
}
"""Input schemas of types for which `parse` accepts more than the stored form."""


@attrs.define
class Schemas:
    """The schemas of one document.

    Attributes:
        side: ``"in"`` for the input of `parse`, ``"out"`` for the stored form.
        defs: The schemas of classes for ``$defs``.
        prefix: The prefix of their names in ``$defs``.
    """

    side: Literal["in", "out"]
    defs: dict[str, Schema] = attrs.field(factory=dict[str, Schema])
    prefix: str = ""
    _names: dict[Any, str] = attrs.field(factory=dict[Any, str])

    def of(self, annotation: Any) -> Schema:
        """Return the schema of an annotation."""
        if type(annotation).__name__ == "TypeAliasType":
            # An alias may refer to itself.
            return self._defined(annotation, annotation.__name__, lambda: self.of(unwrapped(annotation)))
        annotation = unwrapped(annotation)
        return next((make(self, annotation) for fits, make in _FAMILIES if fits(annotation)), None) or {
            "title": label_of(annotation)
        }

    def of_reference(self, reference: Reference) -> Schema:
        """Return the schema of the keys of a reference."""
        name = reference.model.__name__
        key = {**self._key(reference), "title": name, "description": f"The key of a {name}."}
        if reference.many:
            return {"type": "array", "items": key}
        return _or_null(key) if reference.optional else key

    def _key(self, reference: Reference) -> Schema:
        loader = reference.loader
        if isinstance(loader, SqlAlchemyLoader):
            key_schemas = [self.of(codec.type) for codec in loader.forms]
            return key_schemas[0] if len(key_schemas) == 1 else _tuple_schema(key_schemas)
        if isinstance(loader, RegisteredLoader):
            return {"type": ["integer", "string", "array", "object"]}
        return {}

    def _defined(self, key: Any, name: str, make: Callable[[], Schema]) -> Schema:
        if key not in self._names:
            base = self.prefix + re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_")
            unique, number = base, 1
            while unique in self.defs:
                number += 1
                unique = f"{base}-{number}"
            self._names[key] = unique
            self.defs[unique] = {}
            self.defs[unique] = make()
        return {"$ref": f"#/$defs/{self._names[key]}"}

    def of_scalar(self, annotation: Any) -> Schema:
        """Return the schema of a scalar."""
        accepted = _ACCEPTED.get(annotation) if self.side == "in" else None
        return dict(accepted or _SCALARS[annotation])

    def of_enum(self, annotation: Any) -> Schema:
        """Return the schema of an enum: its members as JSON."""
        if self.side == "in" and has_rule(annotation):
            return {"title": annotation.__name__, "type": ["string", "integer"]}
        encode = codec_of(annotation).encode
        values = [encode(member) for member in annotation.__members__.values()]
        if issubclass(annotation, Flag) and all(type(value) is int for value in values):
            return {"title": annotation.__name__, "type": "integer"}
        return {"title": annotation.__name__, "enum": list(dict.fromkeys(values))}

    def of_literal(self, annotation: Any) -> Schema:
        """Return the schema of fixed values."""
        if self.side == "in" and has_rule(annotation):
            return {"title": label_of(annotation)}
        encode = codec_of(annotation).encode
        return {"enum": [encode(value) for value in get_args(annotation)]}

    def of_union(self, annotation: Any) -> Schema:
        """Return the schema of a union; several classes are distinguished by their names."""
        members = list(dict.fromkeys(members_of(annotation)))
        classes = [member for member in members if _has_tag(without_constraints(member))]
        tagged = classes if len(classes) > 1 else ()
        return {"anyOf": [self._tagged(member) if member in tagged else self.of(member) for member in members]}

    def of_bounded(self, annotation: Any) -> Schema:
        """Return the schema of a type with constraints."""
        wrapped, *constraints = get_args(annotation)
        schema = self.of(wrapped)
        for options in constraints:
            schema = {**schema, **bounds_of(options, wrapped, codec_of(wrapped).encode)}
        return schema

    def _tagged(self, annotation: Any) -> Schema:
        annotation = without_constraints(annotation)
        name = origin_of(annotation).__name__
        tag = {TAG: {"const": name}}
        return self._defined(
            (TAG, annotation),
            f"{label_of(annotation)}.tagged",
            lambda: (
                self._pydantic(annotation, tag)
                if is_pydantic_model(annotation)
                else self._object(annotation, fields_of(annotation), tag)
            ),
        )

    def of_array(self, annotation: Any) -> Schema:
        """Return the schema of items of one type."""
        item, kind = (get_args(annotation) or (Any,))[0], array_kind(annotation)
        schema: Schema = {"type": "array", "items": self.of(item)}
        if self.side == "out" and kind in (set, frozenset):
            schema["uniqueItems"] = True
        return schema

    def of_tuple(self, annotation: Any) -> Schema:
        """Return the schema of a tuple with a type for each position."""
        return _tuple_schema([self.of(item) for item in get_args(annotation)])

    def of_dict(self, annotation: Any) -> Schema:
        """Return the schema of a dict."""
        key, item = get_args(annotation) or (Any, Any)
        schema: Schema = {"type": "object", "additionalProperties": self.of(item)}
        names = self.of(key)
        return schema if names in ({"type": "string"}, {"title": "Any"}) else {**schema, "propertyNames": names}

    def of_typed_dict(self, annotation: Any) -> Schema:
        """Return the schema of a TypedDict."""
        return self._defined(
            annotation, label_of(annotation), lambda: self._object(annotation, keys_of(annotation), {})
        )

    def of_record(self, annotation: Any) -> Schema:
        """Return the schema of an attrs class or a dataclass."""
        return self._defined(
            annotation, label_of(annotation), lambda: self._object(annotation, fields_of(annotation), {})
        )

    def of_pydantic(self, cls: Any) -> Schema:
        """Return the schema of a pydantic model, as defined by pydantic; its validators may accept more."""
        return self._defined(cls, label_of(cls), lambda: self._pydantic(cls, {}))

    def _pydantic(self, cls: Any, tag: Schema) -> Schema:
        name = self.prefix + re.sub(r"[^A-Za-z0-9_.-]+", "_", label_of(cls)).strip("_")
        model_schema: Schema = schema_of(cls, self.side, f"#/$defs/{name}.{{model}}")
        for def_name, schema in model_schema.pop("$defs", {}).items():
            self.defs[f"{name}.{def_name}"] = schema
        if tag:
            model_schema = {**model_schema, "properties": {**tag, **model_schema.get("properties", {})}}
            model_schema["required"] = [*tag, *model_schema.get("required", ())]
        if self.side == "out" or bool(getattr(cls, "__pydantic_root_model__", False)):
            return (
                model_schema
                if self.side == "out"
                else {"title": model_schema.get("title", label_of(cls)), "anyOf": [model_schema, {}]}
            )
        return {
            "anyOf": [
                model_schema,
                {"type": "object", "description": "Or other input that the validators of the model accept."},
            ]
        }

    def _object(self, annotation: Any, fields: Sequence[Field], tag: Schema) -> Schema:
        # The stored form has all fields of a class, and the required keys of a TypedDict.
        is_complete = self.side == "out" and not is_typed_dict(annotation)
        return {
            "title": label_of(annotation),
            "type": "object",
            "properties": {**tag, **{field.key: self._field(field) for field in fields}},
            "required": [*tag, *(field.key for field in fields if field.required or is_complete)],
            "additionalProperties": False,
        }

    def _field(self, field: Field) -> Schema:
        # A converter of the class may accept other values.
        return {"title": label_of(field.type)} if field.converts and self.side == "in" else self.of(field.type)


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _tuple_schema(items: list[Schema]) -> Schema:
    schema: Schema = {"type": "array", "minItems": len(items), "maxItems": len(items)}
    return {**schema, "prefixItems": items, "items": False} if items else schema


def _has_tag(annotation: Any) -> bool:
    is_root = bool(getattr(annotation, "__pydantic_root_model__", False))
    return is_record(annotation) or (is_pydantic_model(annotation) and not is_root)


def _is_known_scalar(annotation: Any) -> bool:
    return annotation in _SCALARS


def _is_path(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, PurePath)


def _anything(_: Schemas, annotation: Any) -> Schema:
    return {"title": label_of(annotation)}


_FAMILIES: tuple[tuple[Callable[[Any], bool], Callable[[Schemas, Any], Schema]], ...] = (
    (is_constrained, Schemas.of_bounded),
    (is_registered, _anything),
    (_is_known_scalar, Schemas.of_scalar),
    (_is_path, lambda _schemas, _annotation: {"type": "string", "title": "Path"}),
    (is_anything, _anything),
    (is_enum, Schemas.of_enum),
    (is_literal, Schemas.of_literal),
    (is_union, Schemas.of_union),
    (is_array, Schemas.of_array),
    (is_tuple, Schemas.of_tuple),
    (is_dict, Schemas.of_dict),
    (is_pydantic_model, Schemas.of_pydantic),
    (is_typed_dict, Schemas.of_typed_dict),
    (is_record, Schemas.of_record),
)
"""In the order of `converters.FAMILIES`; other annotations have no JSON form, and a schema with only a title."""
