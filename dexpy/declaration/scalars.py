"""Scalars: the types without parts that dexpy knows, those of JSON itself and those that are written in it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from types import NoneType
from typing import Any
from uuid import UUID

from dexpy.declaration.misfits import changed, misfit
from dexpy.declaration.shapes import Hook, Shape, exactly, leaf, written
from dexpy.declaration.texts import PATHS, encode_text, from_text, matching
from dexpy.declaration.times import TIMES
from dexpy.foundation.errors import NotSerializable

_INT_LIMIT = 10**4300
"""Python refuses to write or read longer ints as text (`sys.set_int_max_str_digits`)."""

_DECIMAL = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_UUID = r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}"


def encode_int(value: Any) -> int:
    """An int as it is, if it can be written as text."""
    if type(value) is not int:
        raise changed(value, "int")
    if -_INT_LIMIT < value < _INT_LIMIT:
        return value
    raise NotSerializable("has more than 4300 digits, which Python does not write or read as text")


def encode_float(value: Any) -> float:
    """A finite float as it is; an int that a nested class holds in its float field, as a float."""
    number = _take_float(value) if type(value) is int else value
    if type(number) is not float:
        raise changed(value, "float")
    if number - number == 0.0:  # neither NaN nor infinite
        return number
    raise NotSerializable("is NaN or infinite, and JSON has neither: use None")


def as_it_is(value: Any) -> Any:
    """A value that is JSON already."""
    return value


def _take_float(value: Any, _: Any = None) -> float:
    """A float, or an int as the float it is."""
    if type(value) is float:
        return value
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise misfit("float, or an int that a float can hold", value) from None
    raise misfit("float", value)


def _write_base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _write_decimal(value: Decimal) -> str:
    if value.is_finite():
        return str(value)
    raise NotSerializable("is NaN or infinite, and JSON has neither: use None")


def _decode_decimal(value: Any, _: Any = None) -> Decimal:
    return Decimal(value) if type(value) is int else _decimal_text(value)


_decimal_text = from_text(matching(_DECIMAL, Decimal), "Decimal, as text or int")


def _plain(cls: type, label: str, kind: str, encode: Hook) -> Shape:
    """The shape of a type that JSON has: every way in takes the same."""
    check = exactly(cls, label)
    return leaf([kind], check=check, decode=check, parse=check, encode=encode, types=[cls])


SCALARS: Mapping[Any, Shape] = {
    NoneType: _plain(NoneType, "None", "null", as_it_is),
    bool: _plain(bool, "bool", "boolean", as_it_is),
    int: _plain(int, "int", "integer", encode_int),
    float: leaf(
        ["number"],
        check=_take_float,
        decode=_take_float,
        parse=_take_float,
        encode=encode_float,
        types=[float, int],
    ),
    str: _plain(str, "str", "string", encode_text),
    bytes: written(
        bytes,
        ["string"],
        write=_write_base64,
        decode=from_text(partial(binascii.a2b_base64, strict_mode=True), "bytes, as base64 text"),
    ),
    Decimal: written(Decimal, ["string"], write=_write_decimal, decode=_decode_decimal),
    UUID: written(UUID, ["string"], write=str, decode=from_text(matching(_UUID, UUID), "UUID text")),
    **TIMES,
    **PATHS,
}


def is_scalar(annotation: Any) -> bool:
    """True for a type of the table."""
    return annotation in SCALARS


def scalar_shape(annotation: Any) -> Shape:
    """The shape of a type of the table."""
    return SCALARS[annotation]
