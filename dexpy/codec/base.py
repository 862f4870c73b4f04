"""Shapes: parsed annotations with their JSON kinds and the hooks that check, decode and encode their values.

A hook is built once for each annotation and called with a value and, as cattrs does, its type.
While an error propagates, each enclosing hook prepends its part of the path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, Protocol, TypeAlias

import attrs

Hook: TypeAlias = Callable[..., Any]
"""``(value)`` or ``(value, type)`` to a value; raises `InvalidValue` in decoding, `NotSerializable` in encoding.

Nested hooks are called with both arguments. Python 3.13 does not count calls that omit a default
(python/cpython#132744): a value that contains itself would use all memory instead of raising RecursionError.
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
"""The kinds of JSON values, with the Python types of each kind, the usual one first."""

# With the name `dict`, type checkers narrow `type(value) is dict` to a dict of unknown types.
DICT: type[Any] = dict
LIST: type[Any] = list
TUPLE: type[Any] = tuple


class Conversion(Protocol):
    """One direction of conversion, which provides the hooks of nested annotations.

    Attributes:
        takes_python: Whether Python values are accepted.
        takes_json: Whether JSON is accepted.
    """

    takes_python: bool
    takes_json: bool

    def hook(self, annotation: Any) -> Hook:
        """Return the hook that converts values of an annotation."""
        ...

    def checker(self, annotation: Any) -> Hook:
        """Return the hook that checks values of an annotation at construction, in either direction."""
        ...

    def encoder(self, annotation: Any) -> Hook:
        """Return the hook that encodes values of an annotation as JSON, or for keys."""
        ...


@attrs.frozen
class Shape:
    """A parsed annotation.

    Attributes:
        kinds: The JSON kinds that it encodes to.
        structure: Builds the hook that decodes, for one direction.
        encode: Builds the hook that encodes.
        key: Builds the hook for keys, if equal values have several JSON forms; None otherwise.
        types: The exact Python types of its values.
        is_open: Whether values may be of other types too.
        mutable: Whether the values themselves, not only nested ones, are mutable.
        nested_annotations: The nested annotations.
        tag: Identifies a class in a union; empty for everything but classes with fields.
        decodable_kinds: More JSON kinds, which a rule of the application may decode.
        sensitive: Whether the values must not be shown.
    """

    kinds: frozenset[str]
    structure: Callable[[Conversion], Hook]
    encode: Callable[[Conversion], Hook]
    types: frozenset[type] = frozenset()
    is_open: bool = False
    mutable: bool = False
    nested_annotations: tuple[Any, ...] = ()
    tag: str = ""
    decodable_kinds: frozenset[str] = frozenset()
    sensitive: bool = False
    key: Callable[[Conversion], Hook] | None = None


Reader: TypeAlias = Callable[[Any], Shape]
