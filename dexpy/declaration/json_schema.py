"""JSON Schema (draft 2020-12) of annotations: what `parse` takes, and what results are written as.

A schema never refuses what `parse` takes; where JSON Schema has no word for a rule it takes more.
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

from dexpy.declaration.annotations import is_union, label_of, members_of, origin_of, unwrapped
from dexpy.declaration.arrays import is_array, is_tuple
from dexpy.declaration.choices import is_enum, is_literal
from dexpy.declaration.classes import is_record, is_typed_dict
from dexpy.declaration.dicts import is_dict
from dexpy.declaration.fields import Field, fields_of, keys_of
from dexpy.declaration.forms import form_of
from dexpy.declaration.models import RegisteredLoader, SqlAlchemyLoader
from dexpy.declaration.plain import is_anything
from dexpy.declaration.refs import Reference
from dexpy.declaration.strangers import is_registered
from dexpy.declaration.unions import TAG

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
_TAKEN: Mapping[Any, Schema] = {
    Decimal: {"type": ["string", "integer"], "pattern": f"^{_DECIMAL}$"},
    timedelta: {
        "type": ["integer", "string"],
        "pattern": f"^{_DURATION}$",
        "description": "Microseconds, or an ISO 8601 duration such as PT1H30M.",
    },
}
"""Where `parse` takes more than is written."""


@attrs.define
class Schemas:
    """The schemas of one document.

    Attributes:
        side: ``"in"`` for what `parse` takes, ``"out"`` for what is written.
        defs: The classes met so far, for ``$defs``.
        prefix: Of their names there.
    """

    side: Literal["in", "out"]
    defs: dict[str, Schema] = attrs.field(factory=dict[str, Schema])
    prefix: str = ""
    _names: dict[Any, str] = attrs.field(factory=dict[Any, str])

    def of(self, annotation: Any) -> Schema:
        """The schema of an annotation."""
        if type(annotation).__name__ == "TypeAliasType":
            # An alias may be about itself.
            return self._defined(annotation, annotation.__name__, lambda: self.of(unwrapped(annotation)))
        annotation = unwrapped(annotation)
        return next((make(self, annotation) for fits, make in _FAMILIES if fits(annotation)), None) or {
            "title": label_of(annotation)
        }

    def of_reference(self, reference: Reference) -> Schema:
        """The schema of the keys of a reference."""
        name = reference.model.__name__
        key = {**self._key(reference), "title": name, "description": f"The key of a {name}."}
        if reference.many:
            return {"type": "array", "items": key}
        return _or_null(key) if reference.optional else key

    def _key(self, reference: Reference) -> Schema:
        loader = reference.loader
        if isinstance(loader, SqlAlchemyLoader):
            parts = [self.of(form.type) for form in loader.forms]
            return parts[0] if len(parts) == 1 else _places(parts)
        if isinstance(loader, RegisteredLoader):
            return {"type": ["integer", "string", "array", "object"]}
        return {}

    def _defined(self, key: Any, name: str, make: Callable[[], Schema]) -> Schema:
        if key not in self._names:
            plain = self.prefix + re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_")
            taken, number = plain, 1
            while taken in self.defs:
                number += 1
                taken = f"{plain}-{number}"
            self._names[key] = taken
            self.defs[taken] = {}
            self.defs[taken] = make()
        return {"$ref": f"#/$defs/{self._names[key]}"}

    def of_scalar(self, annotation: Any) -> Schema:
        """Of a scalar."""
        found = _TAKEN.get(annotation) if self.side == "in" else None
        return dict(found or _SCALARS[annotation])

    def of_enum(self, annotation: Any) -> Schema:
        """Of an enum: its members as they travel."""
        encode = form_of(annotation).encode
        written = [encode(member) for member in annotation.__members__.values()]
        if issubclass(annotation, Flag) and all(type(value) is int for value in written):
            return {"title": annotation.__name__, "type": "integer"}
        return {"title": annotation.__name__, "enum": list(dict.fromkeys(written))}

    def of_literal(self, annotation: Any) -> Schema:
        """Of fixed values."""
        encode = form_of(annotation).encode
        return {"enum": [encode(value) for value in get_args(annotation)]}

    def of_union(self, annotation: Any) -> Schema:
        """Of a union; two classes or more are told apart by their names."""
        members = list(dict.fromkeys(members_of(annotation)))
        classes = [member for member in members if is_record(member)]
        tagged = classes if len(classes) > 1 else ()
        return {"anyOf": [self._tagged(member) if member in tagged else self.of(member) for member in members]}

    def _tagged(self, annotation: Any) -> Schema:
        name = origin_of(annotation).__name__
        tag = {TAG: {"const": name}}
        return self._defined(
            (TAG, annotation),
            f"{label_of(annotation)}.tagged",
            lambda: self._object(annotation, fields_of(annotation), tag),
        )

    def of_array(self, annotation: Any) -> Schema:
        """Of items of one type."""
        item = (get_args(annotation) or (Any,))[0]
        made: Schema = {"type": "array", "items": self.of(item)}
        if self.side == "out" and origin_of(annotation) in (set, frozenset):
            made["uniqueItems"] = True
        return made

    def of_tuple(self, annotation: Any) -> Schema:
        """Of a tuple with a type for each place."""
        return _places([self.of(place) for place in get_args(annotation)])

    def of_dict(self, annotation: Any) -> Schema:
        """Of a dict."""
        key, item = get_args(annotation) or (Any, Any)
        made: Schema = {"type": "object", "additionalProperties": self.of(item)}
        names = self.of(key)
        return made if names in ({"type": "string"}, {"title": "Any"}) else {**made, "propertyNames": names}

    def of_typed_dict(self, annotation: Any) -> Schema:
        """Of a TypedDict."""
        return self._defined(
            annotation, label_of(annotation), lambda: self._object(annotation, keys_of(annotation), {})
        )

    def of_record(self, annotation: Any) -> Schema:
        """Of an attrs class or a dataclass."""
        return self._defined(
            annotation, label_of(annotation), lambda: self._object(annotation, fields_of(annotation), {})
        )

    def _object(self, annotation: Any, fields: Sequence[Field], tag: Schema) -> Schema:
        # What is written has every field of a class, and of a TypedDict those keys that it must have.
        is_complete = self.side == "out" and not is_typed_dict(annotation)
        return {
            "title": label_of(annotation),
            "type": "object",
            "properties": {**tag, **{field.key: self.of(field.type) for field in fields}},
            "required": [*tag, *(field.key for field in fields if field.required or is_complete)],
            "additionalProperties": False,
        }


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _places(places: list[Schema]) -> Schema:
    made: Schema = {"type": "array", "minItems": len(places), "maxItems": len(places)}
    return {**made, "prefixItems": places, "items": False} if places else made


def _is_known_scalar(annotation: Any) -> bool:
    return annotation in _SCALARS


def _is_path(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, PurePath)


def _anything(_: Schemas, annotation: Any) -> Schema:
    return {"title": label_of(annotation)}


_FAMILIES: tuple[tuple[Callable[[Any], bool], Callable[[Schemas, Any], Schema]], ...] = (
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
    (is_typed_dict, Schemas.of_typed_dict),
    (is_record, Schemas.of_record),
)
"""In the order of `converter.FAMILIES`; what is none of these has no JSON form, and nothing is said of it."""
