"""How the values of a primary key are checked and travel, also those of columns that name no Python type."""

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
"""Types of keys that are JSON as they are."""
TAGGED: dict[str, type] = {
    "$uuid": UUID,
    "$datetime": datetime,
    "$date": date,
    "$time": time,
    "$decimal": Decimal,
    "$bytes": bytes,
}
"""The other types of keys, each by the one key of the JSON object that it becomes."""
EXPECTED = "int, str, UUID, date, datetime, time, Decimal or bytes"


def check_plain_key(value: Any, expected: str = EXPECTED) -> Any:
    """One value of a key whose type is not declared.

    Args:
        value: The value.
        expected: For the message.

    Raises:
        InvalidValue: It is of no type that a key can have.
    """
    if type(value) not in (*PLAIN, *TAGGED.values()):
        raise invalid_value(expected, value)
    return value


def encode_plain_key(value: Any) -> Any:
    """Return a checked value as JSON: itself, or an object that names its type."""
    if type(value) in PLAIN:
        return value
    tag, kind = next(pair for pair in TAGGED.items() if type(value) is pair[1])
    return {tag: base64.b64encode(value).decode() if tag == "$bytes" else codec_of(kind).encode(value)}


def plain_key(value: Any) -> Any:
    """Return a checked value as JSON that is the same of equal values."""
    if type(value) in PLAIN:
        return value
    kind = value.__class__
    return {kind.__name__: codec_of(kind).key(value)}


def decode_plain_key(data: Any) -> Any:
    """Return the value that `encode_plain_key` wrote.

    Raises:
        InvalidValue: It wrote nothing like this.
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

    Its type is that of the column type, else the annotation of the mapped attribute, ``Mapped[UUID]`` for example;
    without either any usual type of a key is taken that the column type's own processing accepts.

    Args:
        model: The mapped class.
        mapper: Its mapper.
        column: One of the mapper's primary key.
    """
    try:
        kind: Any = column.type.python_type
    except NotImplementedError:
        kind = object
    if kind is object:
        kind = _annotated_type(model, mapper.get_property_by_column(column).key)
    return _untyped_codec(column) if kind is None else codec_of(kind)


def _annotated_type(model: type, attribute: str) -> Any:
    """Return the type in ``Mapped[...]`` of an attribute, None if there is no usable one."""
    for owner in model.__mro__:
        if (annotation := vars(owner).get("__annotations__", {}).get(attribute)) is None:
            continue
        try:
            resolved = resolve_annotation(annotation, owner, f"{owner.__qualname__}.{attribute}")
            arguments = get_args(resolved)
            return arguments[0] if arguments and codec_of(arguments[0]).kinds else None
        except DeclarationError:
            # A name that exists for type checkers only.
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
    """Refuse what a column type of the application's own raises for, before a statement is made with it."""
    from sqlalchemy.engine.default import DefaultDialect

    # The dialect is not known yet: what the type does for most databases has to do.
    bind: Callable[[Any], Any] | None = column.type.dialect_impl(DefaultDialect()).bind_processor(DefaultDialect())

    def process(value: Any) -> Any:
        if bind is not None:
            try:
                bind(value)
            except Exception:  # noqa: BLE001 - the application's own code
                raise invalid_value(f"a value that {type(column.type).__name__} takes", value) from None
        return value

    return process
