"""The converters: one recipe, applied to three cattrs converters, one for each way in.

The way out is the unstructuring of the one for stored JSON.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from enum import Enum
from functools import partial
from types import NoneType
from typing import Any

import attrs
import cattrs

from dexpy.declaration.annotations import is_union, is_wrapped, unwrapped
from dexpy.declaration.arrays import array_shape, is_array, is_tuple, tuple_shape
from dexpy.declaration.choices import enum_shape, is_enum, is_literal, literal_shape
from dexpy.declaration.classes import is_record, is_typed_dict, record_shape, typed_dict_shape
from dexpy.declaration.dicts import dict_shape, is_dict
from dexpy.declaration.plain import anything_shape, is_anything
from dexpy.declaration.scalars import SCALARS, is_scalar, scalar_shape
from dexpy.declaration.shapes import Hook, Reader, Shape
from dexpy.declaration.strangers import is_opaque, is_registered, opaque_shape, registered_shape
from dexpy.declaration.unions import union_shape

# ---------------------------------------------------------------------------------------- the recipe


def shape_of(annotation: Any) -> Shape:
    """Reads an annotation, unwrapped already.

    Example:
        >>> sorted(shape_of(dict[str, int] | None).kinds)
        ['null', 'object']
    """
    return next(read for fits, read in FAMILIES if fits(annotation))(annotation)


def _stored(value: Any) -> Any:
    """A value as JSON, by its own type."""
    return STORED.encoder(type(value))(value)


FAMILIES: tuple[tuple[Callable[[Any], bool], Reader], ...] = (
    (is_registered, registered_shape),
    (is_scalar, scalar_shape),
    (is_anything, anything_shape),
    (is_enum, enum_shape),
    (is_literal, partial(literal_shape, encode_one=_stored)),
    (is_union, partial(union_shape, shape_of=shape_of)),
    (is_array, array_shape),
    (is_tuple, tuple_shape),
    (is_dict, dict_shape),
    (is_typed_dict, typed_dict_shape),
    (is_record, record_shape),
    (is_opaque, opaque_shape),
)
"""What an annotation can be, the first that fits wins; the same for all three converters."""


# -------------------------------------------------------------------------------------- the three ways


@attrs.define(eq=False)
class CattrsWay:
    """One way in: a cattrs converter and what it takes.

    cattrs looks for the hook of a class along its bases first: `IntEnum` would get the hook of `int`,
    before any factory is asked. So a subclass of such a class is registered by itself when it is met.
    """

    takes_python: bool
    takes_json: bool
    converter: cattrs.Converter = attrs.field(factory=cattrs.Converter)
    _met: set[type] = attrs.field(factory=set[type])

    def __attrs_post_init__(self) -> None:
        self._register(is_opaque, self._made, self._made_encoder)
        self._register(is_wrapped, self.hook, self.encoder)
        for cls in SCALARS:
            self._register_alone(cls)

    def hook(self, annotation: Any) -> Hook:
        """The hook that takes values of an annotation."""
        return self.converter.get_structure_hook(self._met_alone(annotation))

    def checker(self, annotation: Any) -> Hook:
        """The hook that takes values of an annotation at construction, whatever this way takes."""
        return CONSTRUCTION.hook(annotation)

    def encoder(self, annotation: Any) -> Hook:
        """The hook that makes JSON of values of an annotation."""
        return self.converter.get_unstructure_hook(self._met_alone(annotation))

    def take_up(self, cls: type) -> None:
        """Makes hooks anew, because a class was registered."""
        self._met.clear()
        # any registration makes cattrs forget the hooks that it has kept
        self._register(partial(operator.is_, cls), self._made, self._made_encoder)

    def _met_alone(self, annotation: Any) -> Any:
        annotation = unwrapped(annotation)
        if isinstance(annotation, type) and annotation not in self._met and issubclass(annotation, _CAUGHT):
            self._register_alone(annotation)
        return annotation

    def _register_alone(self, cls: type) -> None:
        self._met.add(cls)
        self.converter.register_structure_hook(cls, self._made(cls))
        self.converter.register_unstructure_hook(cls, self._made_encoder(cls))

    def _register(
        self, fits: Callable[[Any], bool], hook: Callable[[Any], Hook], encoder: Callable[[Any], Hook]
    ) -> None:
        self.converter.register_structure_hook_factory(fits, hook)
        self.converter.register_unstructure_hook_factory(fits, encoder)

    def _made(self, annotation: Any) -> Hook:
        return _tied((self, "in", annotation), lambda: shape_of(annotation).structure(self))

    def _made_encoder(self, annotation: Any) -> Hook:
        return _tied((self, "out", annotation), lambda: shape_of(annotation).encode(self))


_CAUGHT = (*(cls for cls in SCALARS if cls is not NoneType), Enum)


class _Knots(threading.local):
    """The hooks that are being made, in this thread."""

    def __init__(self) -> None:
        self.open: dict[Any, list[Hook]] = {}


_knots = _Knots()


def _tied(key: Any, make: Callable[[], Hook]) -> Hook:
    """Makes a hook; asked for it again while that goes on (a tree of nodes), gives one that waits for it."""
    if key in _knots.open:
        return _late(_knots.open[key])
    made: list[Hook] = []
    _knots.open[key] = made
    try:
        made.append(make())
    finally:
        del _knots.open[key]
    return made[0]


def _late(made: list[Hook]) -> Hook:
    def hook(*given: Any) -> Any:
        return made[0](*given)

    return hook


STORED = CattrsWay(takes_python=False, takes_json=True)
CONSTRUCTION = CattrsWay(takes_python=True, takes_json=False)
OUTSIDE = CattrsWay(takes_python=True, takes_json=True)

converter = STORED.converter
"""The cattrs converter of stored JSON: ``structure`` and ``unstructure`` as jobs use them."""
