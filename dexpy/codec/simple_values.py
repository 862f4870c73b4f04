"""Simple values: the shapes of numbers and other values without nested annotations."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, cast

from dexpy.codec.base import Conversion, Hook, Shape
from dexpy.codec.problems import changed, invalid_value
from dexpy.foundation.errors import NotSerializable

_INT_DIGITS = 4300
_INT_LIMIT = 10**_INT_DIGITS
"""Python does not convert longer ints to or from text (`sys.set_int_max_str_digits`)."""

_FLOAT_EXPONENT = 400
"""Larger than the decimal exponent of any float."""


def leaf(
    kinds: Iterable[str],
    *,
    check: Hook,
    decode: Hook,
    parse: Hook,
    encode: Hook,
    types: Iterable[type] = (),
    is_open: bool = False,
    key: Hook | None = None,
) -> Shape:
    """Build the shape of values without nested values."""

    def structure(conversion: Conversion) -> Hook:
        if conversion.takes_json:
            return parse if conversion.takes_python else decode
        return check

    def make_key(_: Conversion) -> Hook:
        return encode if key is None else key

    return Shape(frozenset(kinds), structure, lambda _: encode, frozenset(types), is_open, key=make_key)


def encoded_type(
    cls: type,
    kinds: Iterable[str],
    *,
    encode_value: Hook,
    decode: Hook,
    parse_json: Hook | None = None,
    encode_for_key: Hook | None = None,
) -> Shape:
    """Build the shape of a type that JSON does not support.

    Args:
        cls: The type; subclasses are refused.
        kinds: The JSON kinds that it is encoded as.
        encode_value: Encodes an instance as JSON.
        decode: Decodes an instance from that JSON.
        parse_json: Decodes an instance from external JSON, if that allows more than `decode`.
        encode_for_key: Encodes an instance for keys, the same for equal ones, if `encode_value` does not.
    """
    label = cls.__name__
    from_outside = parse_json or decode

    def parse(value: Any, _: Any = None) -> Any:
        return value if type(value) is cls else from_outside(value)

    def encode(value: Any) -> Any:
        if type(value) is cls:
            return encode_value(value)
        raise changed(value, label, cls)

    def key(value: Any) -> Any:
        encode(value)  # a value without a JSON form has no key
        return cast("Hook", encode_for_key)(value)

    return leaf(
        kinds,
        check=exact_type(cls, label),
        decode=decode,
        parse=parse,
        encode=encode,
        types=[cls],
        key=None if encode_for_key is None else key,
    )


def exact_type(cls: type, expected: str) -> Hook:
    """Build a hook that accepts values of one type, without subclasses."""

    def check(value: Any, _: Any = None) -> Any:
        if type(value) is cls:
            return value
        raise invalid_value(expected, value, cls)

    return check


def instance_of(cls: type, expected: str) -> Hook:
    """Build a hook that accepts values of one type and of its subclasses."""

    def check(value: Any, _: Any = None) -> Any:
        if isinstance(value, cls):
            return value
        raise invalid_value(expected, value, cls)

    return check


def json_type(cls: type, label: str, kind: str, encode: Hook) -> Shape:
    """Build the shape of a type of JSON: all directions accept the same values."""
    check = exact_type(cls, label)
    return leaf([kind], check=check, decode=check, parse=check, encode=encode, types=[cls])


def encode_int(value: Any) -> int:
    """Return an int if Python can convert it to text."""
    if type(value) is not int:
        raise changed(value, "int")
    if -_INT_LIMIT < value < _INT_LIMIT:
        return value
    raise NotSerializable("has more than 4300 digits, which Python does not convert to or from text")


def encode_float(value: Any) -> float:
    """Return a finite float; convert an int, which a float field of a nested class may contain."""
    number = to_float(value) if type(value) is int else value
    if type(number) is not float:
        raise changed(value, "float")
    if number - number == 0.0:  # neither NaN nor infinite
        return number
    raise NotSerializable("is NaN or infinite, which JSON does not support: use None")


def identity(value: Any) -> Any:
    """Return a value, which is already JSON."""
    return value


def to_float(value: Any, _: Any = None) -> float:
    """Return a float; convert an int."""
    if type(value) is float:
        return value
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise invalid_value("float, or an int in the range of floats", value) from None
    raise invalid_value("float", value)


def float_key(value: Any) -> Any:
    """Encode a finite float as JSON that is the same for equal numbers."""
    return number_key(encode_float(value))


def number_key(value: float | Decimal) -> Any:
    """Encode a number as JSON that is the same for equal numbers of all types."""
    if type(value) is float:
        return int(value) if value.is_integer() else value
    if not isinstance(value, Decimal):
        return value
    sign, digits, exponent = value.as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    significant = text.rstrip("0")
    exponent = cast("int", exponent) + len(text) - len(significant)
    if not significant:
        return 0
    if exponent >= 0 and len(significant) + exponent <= _INT_DIGITS:
        return (-1) ** sign * int(significant) * 10**exponent
    if -_FLOAT_EXPONENT < exponent + len(significant) < _FLOAT_EXPONENT and Decimal(number := float(value)) == value:
        return number
    return f"{'-' * sign}{significant}E{exponent}"
