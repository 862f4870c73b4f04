"""Forms: all that dexpy knows of one annotation, from the check at construction to JSON and back.

An annotation is read once into a `Shape`, which says what JSON it becomes and makes its hooks;
which shape it has is in `converter`, what the hooks do in the file of each kind of value.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import attrs

from dexpy.declaration.annotations import hashable, label_of, unwrapped
from dexpy.declaration.converter import CONSTRUCTION, OUTSIDE, STORED, converter, shape_of
from dexpy.declaration.misfits import Misfit, shown
from dexpy.declaration.plain import TOO_DEEP, is_anything, plain_json
from dexpy.declaration.scalars import SCALARS
from dexpy.declaration.shapes import Hook, Shape
from dexpy.declaration.strangers import Registration, registered
from dexpy.foundation.errors import DeclarationError, NotSerializable, Problem

__all__ = ["Form", "Misfit", "converter", "form_of", "plain_json", "register_type"]

_lock = threading.RLock()


@attrs.frozen
class Form:
    """What dexpy knows of one annotation.

    Attributes:
        type: The annotation.
        label: Its name in messages: ``int``, ``list[date]``, ``Color``.
        kinds: The JSON kinds that it encodes to; empty for a type that has no JSON form.
        mutable: Its values hold containers or instances that somebody could change later.
        check: Takes a Python value at construction, strictly; gives it back, with containers of its own;
            raises `Misfit`.
        encode: Makes JSON of a checked value; raises `NotSerializable`.
        decode: Makes a value of stored JSON; raises `Misfit`. Unknown keys of classes are ignored.
        parse: Makes a value of JSON from outside or of a Python value; raises `Misfit`. Unknown keys are refused.

    Example:
        >>> form = form_of(list[int])
        >>> form.label, sorted(form.kinds), form.mutable
        ('list[int]', ['array'], True)
    """

    type: object
    label: str
    kinds: frozenset[str]
    mutable: bool
    check: Callable[[Any], Any]
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    parse: Callable[[Any], Any]


def form_of(annotation: object) -> Form:
    """The form of an annotation.

    Args:
        annotation: A class or a typing form, resolved: not the text of one.

    Returns:
        Its form, the same one every time.

    Raises:
        DeclarationError: It can never work: a union whose members no JSON tells apart, a name that is not
            found, something that is no type.

    Example:
        >>> from datetime import date
        >>> dates = form_of(dict[str, date])
        >>> dates.encode({"due": date(2026, 1, 31)})
        {'due': '2026-01-31'}
        >>> dates.parse({"due": "2026-01-31"})
        {'due': datetime.date(2026, 1, 31)}
        >>> dates.check({"due": "2026-01-31"})
        Traceback (most recent call last):
        ...
        dexpy.declaration.misfits.Misfit: ['due']: wants date, got str '2026-01-31'
    """
    with _lock:
        return _form_of(hashable(annotation))


def register_type(cls: type, *, to_json: Callable[[Any], Any], from_json: Callable[[Any], Any]) -> None:
    """Gives a type a JSON form, so that props can have it.

    Call it before the operations with such props are used; a form that is already in use stays as it is.

    Args:
        cls: The class. Its instances, those of subclasses too, are taken at construction.
        to_json: Makes plain JSON of an instance, anything but None.
        from_json: Makes an equal instance of that JSON; what it raises says that the JSON does not fit.

    Raises:
        DeclarationError: `cls` is not a class, or one that dexpy itself knows.

    Example:
        >>> from fractions import Fraction
        >>> register_type(Fraction, to_json=str, from_json=Fraction)
        >>> form_of(list[Fraction]).encode([Fraction(1, 3)])
        ['1/3']
    """
    if not isinstance(cls, type):
        raise DeclarationError(f"register_type wants a class, got {shown(cls)}.")
    if cls in SCALARS or cls in (Any, object, list, set, frozenset, tuple, dict):
        raise DeclarationError(f"register_type({cls.__name__}) is not possible: dexpy's own form of it is fixed.")
    with _lock:
        registered[cls] = Registration(to_json, from_json)
        _form_of.cache_clear()
        for way in (CONSTRUCTION, STORED, OUTSIDE):
            way.take_up(cls)


@cache
def _form_of(annotation: Any) -> Form:
    shapes, is_deep = _all_inside(annotation)
    ways_in = [way.hook(annotation) for way in (CONSTRUCTION, STORED, OUTSIDE)]
    way_out = STORED.encoder(annotation)
    if is_deep:
        ways_in = [_until_too_deep(hook, _misfit_too_deep) for hook in ways_in]
        way_out = _until_too_deep(way_out, _unserializable_too_deep)
    check, decode, parse = ways_in
    return Form(
        type=annotation,
        label=label_of(annotation),
        kinds=shapes[0].kinds,
        mutable=any(shape.mutable for shape in shapes),
        check=check,
        encode=way_out,
        decode=decode,
        parse=parse,
    )


def _all_inside(annotation: Any) -> tuple[list[Shape], bool]:
    """The shapes of an annotation and of all inside it, and whether values may nest without end.

    Made before any hook, so that what cannot work is refused before cattrs has kept a part of it.
    """
    met: dict[Any, Shape] = {}
    waiting, is_deep = [unwrapped(annotation)], False
    while waiting:
        current = waiting.pop()
        if current in met:
            is_deep = is_deep or bool(met[current].parts)
            continue
        met[current] = shape = shape_of(current)
        is_deep = is_deep or is_anything(current)
        waiting.extend(unwrapped(part) for part in shape.parts)
    return list(met.values()), is_deep


def _until_too_deep(hook: Hook, refuse: Callable[[], Exception]) -> Hook:
    """The hook, with a refusal where Python's stack ends."""

    def guarded(value: Any) -> Any:
        try:
            return hook(value)
        except RecursionError:
            raise refuse() from None

    return guarded


def _misfit_too_deep() -> Misfit:
    return Misfit([Problem("", "a value that does not hold itself and is not nested as deeply")])


def _unserializable_too_deep() -> NotSerializable:
    return NotSerializable(TOO_DEEP)
