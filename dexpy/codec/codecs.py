"""Codecs: the checks and conversions of one annotation, from construction to JSON and back.

An annotation is parsed once into a `Shape`, which holds its JSON kinds and builds its hooks.
`converters` selects the shape; the module of each kind of value defines its hooks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import attrs

from dexpy.codec.annotations import label_of, simplified, unwrapped
from dexpy.codec.base import Hook, Shape
from dexpy.codec.converters import CONSTRUCTION, KEYS, OUTSIDE, STORED, converter, shape_of
from dexpy.codec.plain_json import TOO_DEEP, is_anything, plain_json
from dexpy.codec.problems import InvalidValue, TooDeep, describe_value
from dexpy.codec.registered_types import Registration, registered
from dexpy.codec.scalars import SCALARS
from dexpy.foundation.errors import DeclarationError, NotSerializable, Problem

__all__ = ["Codec", "InvalidValue", "codec_of", "converter", "plain_json", "register_type"]

_lock = threading.RLock()


@attrs.frozen
class Codec:
    """The checks and conversions of one annotation.

    Attributes:
        type: The annotation.
        label: Its name in messages: ``int``, ``list[date]``, ``Color``.
        kinds: The JSON kinds that it encodes to; empty for a type without a JSON form.
        mutable: Whether its values contain containers or instances that may change later.
        sensitive: Whether a part of its values is secret.
        check: Checks a Python value at construction, strictly; returns it with copies of its containers;
            raises `InvalidValue`.
        encode: Encodes a checked value as JSON; raises `NotSerializable`.
        key: Encodes a checked value as JSON that is the same for equal values; raises `NotSerializable`.
        decode: Decodes stored JSON; raises `InvalidValue`. Unknown keys of classes are ignored.
        parse: Decodes external JSON or checks a Python value; raises `InvalidValue`. Unknown keys are refused.

    Example:
        >>> form = codec_of(list[int])
        >>> form.label, sorted(form.kinds), form.mutable
        ('list[int]', ['array'], True)
    """

    type: object
    label: str
    kinds: frozenset[str]
    mutable: bool
    sensitive: bool
    check: Callable[[Any], Any]
    encode: Callable[[Any], Any]
    key: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    parse: Callable[[Any], Any]


def codec_of(annotation: object) -> Codec:
    """Return the codec of an annotation.

    Args:
        annotation: A class or a typing form, resolved.

    Returns:
        Its codec, the same object for each call.

    Raises:
        DeclarationError: The annotation is invalid: a union whose members JSON does not distinguish, an unknown name,
            or not a type.

    Example:
        >>> from datetime import date
        >>> dates = codec_of(dict[str, date])
        >>> dates.encode({"due": date(2026, 1, 31)})
        {'due': '2026-01-31'}
        >>> dates.parse({"due": "2026-01-31"})
        {'due': datetime.date(2026, 1, 31)}
        >>> dates.check({"due": "2026-01-31"})
        Traceback (most recent call last):
        ...
        dexpy.codec.problems.InvalidValue: ['due']: expected date, got str '2026-01-31'
    """
    with _lock:
        return _codec_of(simplified(annotation))


def register_type(cls: type, *, to_json: Callable[[Any], Any], from_json: Callable[[Any], Any]) -> None:
    """Register the JSON form of a type for props, fields and results.

    Call it before an operation with such a prop is used for the first time; a codec in use does not change.

    Args:
        cls: The class; instances of subclasses are accepted as well.
        to_json: Returns plain JSON for an instance, anything but None.
        from_json: Returns an equal instance for that JSON; an exception means that the JSON is invalid.

    Raises:
        DeclarationError: `cls` is not a class, or has a built-in codec.

    Example:
        >>> from fractions import Fraction
        >>> register_type(Fraction, to_json=str, from_json=Fraction)
        >>> codec_of(list[Fraction]).encode([Fraction(1, 3)])
        ['1/3']
    """
    if not isinstance(cls, type):
        raise DeclarationError(f"register_type: expected a class, got {describe_value(cls)}.")
    if cls in SCALARS or cls in (Any, object, list, set, frozenset, tuple, dict):
        raise DeclarationError(
            f"register_type({cls.__name__}): the JSON form of a built-in type is fixed. Register your own class."
        )
    with _lock:
        registered[cls] = Registration(to_json, from_json)
        _codec_of.cache_clear()
        for conversion in (CONSTRUCTION, STORED, OUTSIDE, KEYS):
            conversion.refresh(cls)


def codec_at(annotation: object, where: str) -> Codec:
    """Return the codec of an annotation; the message of an error begins with its place.

    Raises:
        DeclarationError: As `codec_of` raises it.
    """
    try:
        return codec_of(annotation)
    except DeclarationError as error:
        raise DeclarationError(f"{where}: {error}") from error.__cause__
    except (TypeError, ValueError) as error:
        raise DeclarationError(f"{where}: invalid type {annotation!r}: {error}.") from error
    except RecursionError:
        raise DeclarationError(f"{where}: invalid type {annotation!r}, which contains only itself.") from None


@cache
def _codec_of(annotation: Any) -> Codec:
    shapes, is_deep = _nested_shapes(annotation)
    hooks = [conversion.hook(annotation) for conversion in (CONSTRUCTION, STORED, OUTSIDE)]
    encode, key = STORED.encoder(annotation), KEYS.encoder(annotation)
    if is_deep:
        hooks = [_with_depth_error(hook, _invalid_too_deep) for hook in hooks]
        encode, key = (_with_depth_error(hook, _unserializable_too_deep) for hook in (encode, key))
    check, decode, parse = hooks
    return Codec(
        type=annotation,
        label=label_of(annotation),
        kinds=shapes[0].kinds,
        mutable=any(shape.mutable for shape in shapes),
        sensitive=any(shape.sensitive for shape in shapes),
        check=check,
        encode=encode,
        key=key,
        decode=decode,
        parse=parse,
    )


def _nested_shapes(annotation: Any) -> tuple[list[Shape], bool]:
    """Return the shapes of an annotation and its nested annotations, and whether the nesting of values is unlimited.

    It is called before any hook is built, so that cattrs caches nothing of an invalid annotation.
    """
    shapes: dict[Any, Shape] = {}
    pending, is_deep = [unwrapped(annotation)], False
    while pending:
        current = pending.pop()
        if current in shapes:
            is_deep = is_deep or bool(shapes[current].nested_annotations)
            continue
        shapes[current] = shape = shape_of(current)
        is_deep = is_deep or is_anything(current)
        pending.extend(unwrapped(part) for part in shape.nested_annotations)
    return list(shapes.values()), is_deep


def _with_depth_error(hook: Hook, refuse: Callable[[], Exception]) -> Hook:
    """Return the hook with an error of its own instead of RecursionError."""

    def guarded(value: Any) -> Any:
        try:
            return hook(value)
        except RecursionError:
            raise refuse() from None

    return guarded


def _invalid_too_deep() -> InvalidValue:
    return TooDeep([Problem("", reason="nested too deeply, or contains itself")])


def _unserializable_too_deep() -> NotSerializable:
    return NotSerializable(TOO_DEEP)
