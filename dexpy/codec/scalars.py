"""Scalars: the supported types without nested values, of JSON and beyond."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from types import NoneType
from typing import Any
from uuid import UUID

from dexpy.codec.base import Shape
from dexpy.codec.simple_values import (
    encode_float,
    encode_int,
    encoded_type,
    float_key,
    identity,
    json_type,
    leaf,
    number_key,
    to_float,
)
from dexpy.codec.strings import PATHS, encode_text, from_text, matching
from dexpy.codec.times import TIMES
from dexpy.foundation.errors import NotSerializable

_DECIMAL = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_UUID = r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}"


def _write_base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _write_decimal(value: Decimal) -> str:
    if value.is_finite():
        return str(value)
    raise NotSerializable("is NaN or infinite, which JSON does not support: use None")


def _decode_decimal(value: Any, _: Any = None) -> Decimal:
    return Decimal(value) if type(value) is int else _decimal_text(value)


_decimal_text = from_text(matching(_DECIMAL, Decimal), "Decimal, as text or int")


SCALARS: Mapping[Any, Shape] = {
    NoneType: json_type(NoneType, "None", "null", identity),
    bool: json_type(bool, "bool", "boolean", identity),
    int: json_type(int, "int", "integer", encode_int),
    float: leaf(
        ["number"],
        check=to_float,
        decode=to_float,
        parse=to_float,
        encode=encode_float,
        types=[float, int],
        key=float_key,
    ),
    str: json_type(str, "str", "string", encode_text),
    bytes: encoded_type(
        bytes,
        ["string"],
        encode_value=_write_base64,
        decode=from_text(partial(binascii.a2b_base64, strict_mode=True), "bytes, as base64 text"),
    ),
    Decimal: encoded_type(
        Decimal, ["string"], encode_value=_write_decimal, decode=_decode_decimal, encode_for_key=number_key
    ),
    UUID: encoded_type(UUID, ["string"], encode_value=str, decode=from_text(matching(_UUID, UUID), "UUID text")),
    **TIMES,
    **PATHS,
}


def is_scalar(annotation: Any) -> bool:
    """Return whether a type is in the table."""
    return annotation in SCALARS


def scalar_shape(annotation: Any) -> Shape:
    """Return the shape of a type in the table."""
    return SCALARS[annotation]
