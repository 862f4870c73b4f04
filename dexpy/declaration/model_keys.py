"""Checks and JSON forms of primary keys, also of columns without a Python type."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast, get_args
from uuid import UUID

from dexpy.codec.codecs import Codec, codec_of
from dexpy.codec.hints import resolve_annotation
from dexpy.codec.problems import invalid_value
from dexpy.foundation.errors import DeclarationError

if TYPE_CHECKING:
    from sqlalchemy.orm import Mapper

PLAIN: tuple[type, ...] = (int, str)
"""Types of keys that are plain JSON."""
TAGGED: dict[str, type] = {
    "$uuid": UUID,
    "$datetime": datetime,
    "$date": date,
    "$time": time,
    "$decimal": Decimal,
    "$bytes": bytes,
}
"""The other types of keys, by the single key of their JSON object."""
EXPECTED = "int, str, UUID, date, datetime, time, Decimal or bytes"


def check_plain_key(value: Any, expected: str = EXPECTED) -> Any:
    """Return a checked value of a key whose type is not declared.

    Args:
        value: The value.
        expected: A noun phrase for valid values, for the message.

    Raises:
        InvalidValue: Keys cannot have its type.
    """
    if type(value) not in (*PLAIN, *TAGGED.values()):
        raise invalid_value(expected, value)
    return value


def encode_plain_key(value: Any) -> Any:
    """Return a checked value as JSON: the value, or an object with its type."""
    if type(value) in PLAIN:
        return value
    tag, kind = next(pair for pair in TAGGED.items() if type(value) is pair[1])
    return {tag: base64.b64encode(value).decode() if tag == "$bytes" else codec_of(kind).encode(value)}


def plain_key(value: Any) -> Any:
    """Return a checked value as JSON that is the same for equal values."""
    if type(value) in PLAIN:
        return value
    kind = value.__class__
    return {kind.__name__: codec_of(kind).key(value)}


def decode_plain_key(data: Any) -> Any:
    """Return the value of JSON from `encode_plain_key`.

    Raises:
        InvalidValue: The JSON is not from `encode_plain_key`.
    """
    if not isinstance(data, dict):
        return check_plain_key(data)
    items = cast("dict[str, Any]", data)
    tag = next(iter(items), "")
    if len(items) != 1 or tag not in TAGGED:
        raise invalid_value(EXPECTED, items)
    try:
        return (
            base64.b64decode(items[tag], validate=True) if tag == "$bytes" else codec_of(TAGGED[tag]).decode(items[tag])
        )
    except (ValueError, TypeError):
        raise invalid_value(EXPECTED, items) from None


def codec_of_column(model: type, mapper: Mapper[Any], column: Any) -> Codec:
    """Return the codec of one column of a primary key.

    Its type is that of the column type, or else the annotation of the mapped attribute, for example ``Mapped[UUID]``.
    Without either, it accepts any usual type of a key that the column type can process.

    Args:
        model: The mapped class.
        mapper: Its mapper.
        column: A column of the primary key of the mapper.
    """
    try:
        kind: Any = column.type.python_type
    except NotImplementedError:
        kind = object
    if kind is object:
        kind = _annotated_type(model, mapper.get_property_by_column(column).key)
    return _untyped_codec(column) if kind is None else codec_of(kind)


def _annotated_type(model: type, attribute: str) -> Any:
    """Return the type in the ``Mapped[...]`` of an attribute; None if it is not usable."""
    for owner in model.__mro__:
        if (annotation := vars(owner).get("__annotations__", {}).get(attribute)) is None:
            continue
        try:
            resolved = resolve_annotation(annotation, owner, f"{owner.__qualname__}.{attribute}")
            arguments = get_args(resolved)
            return arguments[0] if arguments and codec_of(arguments[0]).kinds else None
        except DeclarationError:
            # The name exists for type checkers only.
            return None
    return None


def _untyped_codec(column: Any) -> Codec:
    process = _bind_check(column)

    def check(value: Any) -> Any:
        return process(check_plain_key(value))

    def decode(data: Any) -> Any:
        return process(decode_plain_key(data))

    return Codec(
        type=object,
        label=EXPECTED,
        kinds=frozenset(),
        mutable=False,
        sensitive=False,
        check=check,
        encode=encode_plain_key,
        key=plain_key,
        decode=decode,
        parse=decode,
    )


def _bind_check(column: Any) -> Callable[[Any], Any]:
    """Refuse a value for which a column type of the application raises, before a statement uses it."""
    from sqlalchemy.engine.default import DefaultDialect

    # The dialect is unknown here: the default implementation of the type is used.
    bind: Callable[[Any], Any] | None = column.type.dialect_impl(DefaultDialect()).bind_processor(DefaultDialect())

    def process(value: Any) -> Any:
        if bind is not None:
            try:
                bind(value)
            except Exception:  # noqa: BLE001 - the application's own code
                raise invalid_value(f"a value that {type(column.type).__name__} accepts", value) from None
        return value

    return process
