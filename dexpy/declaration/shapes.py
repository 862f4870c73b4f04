"""Shapes: annotations as they were read, each saying what JSON it becomes and making the hooks of its values.

A hook is made once for one annotation and called with a value and, because that is how cattrs calls, its type.
While a refusal unwinds, each hook around it puts its step before the path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import NoneType
from typing import Any, Protocol, TypeAlias

import attrs

from dexpy.declaration.misfits import changed, misfit

Hook: TypeAlias = Callable[..., Any]
"""``(value)`` or ``(value, type)`` to a value; raises `Misfit` on the way in, `NotSerializable` on the way out.

Hooks inside of others are given both arguments. Python 3.13 does not count a call that leaves out a default
(python/cpython#132744), and a value that holds itself would take all memory instead of raising RecursionError.
"""

JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "null": (NoneType,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (float, int),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
}
"""The kinds of JSON, and the types that values of each kind have; the first is the kind's own."""

# Of classes of their own names, `type(value) is dict` would turn a value of any type into a dict of unknowns.
DICT: type[Any] = dict
LIST: type[Any] = list
TUPLE: type[Any] = tuple


class Way(Protocol):
    """One way in, or the way out: where a shape finds the hooks of its parts.

    Attributes:
        takes_python: Values may be Python's own.
        takes_json: Values may be JSON.
    """

    takes_python: bool
    takes_json: bool

    def hook(self, annotation: Any) -> Hook:
        """The hook that takes values of an annotation."""
        ...

    def checker(self, annotation: Any) -> Hook:
        """The hook that takes values of an annotation at construction, whatever this way takes."""
        ...

    def encoder(self, annotation: Any) -> Hook:
        """The hook that makes JSON of values of an annotation."""
        ...


@attrs.frozen
class Shape:
    """An annotation as it was read.

    Attributes:
        kinds: JSON kinds that it encodes to.
        structure: Makes the hook for one way in.
        encode: Makes the hook for the way out.
        types: Python types that its values have exactly.
        is_open: Values may be of other types too.
        mutable: The values themselves, not only their parts, can be changed.
        parts: Annotations of what is inside.
        tag: What tells a class from others in one union; empty for all that is no class with fields.
    """

    kinds: frozenset[str]
    structure: Callable[[Way], Hook]
    encode: Callable[[Way], Hook]
    types: frozenset[type] = frozenset()
    is_open: bool = False
    mutable: bool = False
    parts: tuple[Any, ...] = ()
    tag: str = ""


Reader: TypeAlias = Callable[[Any], Shape]


def leaf(
    kinds: Iterable[str],
    *,
    check: Hook,
    decode: Hook,
    parse: Hook,
    encode: Hook,
    types: Iterable[type] = (),
    is_open: bool = False,
) -> Shape:
    """The shape of values without parts: its hooks need no others."""

    def structure(way: Way) -> Hook:
        if way.takes_json:
            return parse if way.takes_python else decode
        return check

    return Shape(frozenset(kinds), structure, lambda _: encode, frozenset(types), is_open)


def written(cls: type, kinds: Iterable[str], *, write: Hook, decode: Hook, parse_json: Hook | None = None) -> Shape:
    """The shape of a type that JSON does not have.

    Args:
        cls: The type; subclasses do not count as it.
        kinds: JSON kinds that it is written as.
        write: Makes JSON of an instance.
        decode: Makes an instance of that JSON.
        parse_json: Makes an instance of JSON from outside, where that is more than what was stored.
    """
    label = cls.__name__
    from_outside = parse_json or decode

    def parse(value: Any, _: Any = None) -> Any:
        return value if type(value) is cls else from_outside(value)

    def encode(value: Any) -> Any:
        if type(value) is cls:
            return write(value)
        raise changed(value, label)

    return leaf(kinds, check=exactly(cls, label), decode=decode, parse=parse, encode=encode, types=[cls])


def exactly(cls: type, wanted: str) -> Hook:
    """A hook that takes values of one type, and none of its subclasses."""

    def check(value: Any, _: Any = None) -> Any:
        if type(value) is cls:
            return value
        raise misfit(wanted, value)

    return check


def instance_of(cls: type, wanted: str) -> Hook:
    """A hook that takes values of one type and of its subclasses."""

    def check(value: Any, _: Any = None) -> Any:
        if isinstance(value, cls):
            return value
        raise misfit(wanted, value)

    return check
