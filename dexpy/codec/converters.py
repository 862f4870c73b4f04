"""Three cattrs converters, one for each source of values, built from the same table of annotations.

Values are encoded by the converter of stored JSON.
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

from dexpy.codec.annotations import is_constrained, is_wrapped, unwrapped
from dexpy.codec.arrays import array_shape, is_array, is_tuple, tuple_shape
from dexpy.codec.base import Hook, Reader, Shape
from dexpy.codec.classes import is_record, is_typed_dict, record_shape, typed_dict_shape
from dexpy.codec.enums import enum_shape, is_enum, is_literal, literal_shape
from dexpy.codec.generics import is_union
from dexpy.codec.mappings import dict_shape, is_dict
from dexpy.codec.nested_constraints import constrained_shape
from dexpy.codec.plain_json import anything_shape, is_anything
from dexpy.codec.pydantic_models import is_pydantic_model, pydantic_shape
from dexpy.codec.registered_types import is_opaque, is_registered, opaque_shape, registered_shape
from dexpy.codec.scalars import SCALARS, is_scalar, scalar_shape
from dexpy.codec.unions import union_shape

# ---------------------------------------------------------------------------------------- the recipe


def shape_of(annotation: Any) -> Shape:
    """Return the shape of an unwrapped annotation.

    Example:
        >>> sorted(shape_of(dict[str, int] | None).kinds)
        ['null', 'object']
    """
    return next(read for fits, read in FAMILIES if fits(annotation))(annotation)


def _stored(value: Any) -> Any:
    """Return a value as JSON, according to its type."""
    return STORED.encoder(type(value))(value)


FAMILIES: tuple[tuple[Callable[[Any], bool], Reader], ...] = (
    (is_constrained, partial(constrained_shape, shape_of=shape_of)),
    (is_registered, registered_shape),
    (is_scalar, scalar_shape),
    (is_anything, anything_shape),
    (is_enum, enum_shape),
    (is_literal, partial(literal_shape, encode_one=_stored)),
    (is_union, partial(union_shape, shape_of=shape_of)),
    (is_array, array_shape),
    (is_tuple, tuple_shape),
    (is_dict, dict_shape),
    (is_pydantic_model, pydantic_shape),
    (is_typed_dict, typed_dict_shape),
    (is_record, record_shape),
    (is_opaque, opaque_shape),
)
"""The families of annotations for all three converters; the first match applies."""


# ---------------------------------------------------------------------------------- the three converters


@attrs.define(eq=False)
class CattrsWay:
    """One direction: a cattrs converter and what it accepts.

    cattrs searches the hook of a class along its bases first: `IntEnum` would get the hook of `int`,
    before any factory is called. Therefore a subclass of such a class is registered separately at its first use.
    """

    takes_python: bool
    takes_json: bool
    is_for_keys: bool = False
    converter: cattrs.Converter = attrs.field(factory=cattrs.Converter)
    _registered_alone: set[type] = attrs.field(factory=set[type])

    def __attrs_post_init__(self) -> None:
        self._register(is_opaque, self._structure_hook, self._encode_hook)
        self._register(is_wrapped, self.hook, self.encoder)
        for cls in SCALARS:
            self._register_alone(cls)

    def hook(self, annotation: Any) -> Hook:
        """Return the hook that converts values of an annotation."""
        return self.converter.get_structure_hook(self._with_own_hooks(annotation))

    def checker(self, annotation: Any) -> Hook:
        """Return the hook that checks values of an annotation at construction, in either direction."""
        return CONSTRUCTION.hook(annotation)

    def encoder(self, annotation: Any) -> Hook:
        """Return the hook that encodes values of an annotation as JSON."""
        return self.converter.get_unstructure_hook(self._with_own_hooks(annotation))

    def refresh(self, cls: type) -> None:
        """Rebuild all hooks, because a class was registered."""
        self._registered_alone.clear()
        # Any registration clears the cache of cattrs.
        self._register(partial(operator.is_, cls), self._structure_hook, self._encode_hook)

    def _with_own_hooks(self, annotation: Any) -> Any:
        annotation = unwrapped(annotation)
        if (
            isinstance(annotation, type)
            and annotation not in self._registered_alone
            and issubclass(annotation, _SPECIAL_BASES)
        ):
            self._register_alone(annotation)
        return annotation

    def _register_alone(self, cls: type) -> None:
        self._registered_alone.add(cls)
        self.converter.register_structure_hook(cls, self._structure_hook(cls))
        self.converter.register_unstructure_hook(cls, self._encode_hook(cls))

    def _register(
        self, fits: Callable[[Any], bool], hook: Callable[[Any], Hook], encoder: Callable[[Any], Hook]
    ) -> None:
        self.converter.register_structure_hook_factory(fits, hook)
        self.converter.register_unstructure_hook_factory(fits, encoder)

    def _structure_hook(self, annotation: Any) -> Hook:
        return _make_hook((self, "in", annotation), lambda: shape_of(annotation).structure(self))

    def _encode_hook(self, annotation: Any) -> Hook:
        return _make_hook((self, "out", annotation), lambda: self._encoder_for(shape_of(annotation)))

    def _encoder_for(self, shape: Shape) -> Hook:
        return shape.key(self) if self.is_for_keys and shape.key is not None else shape.encode(self)


_SPECIAL_BASES = (*(cls for cls in SCALARS if cls is not NoneType), Enum)


class _HooksInProgress(threading.local):
    """The hooks that this thread is building."""

    def __init__(self) -> None:
        self.hooks: dict[Any, list[Hook]] = {}


_in_progress = _HooksInProgress()


def _make_hook(key: Any, make: Callable[[], Hook]) -> Hook:
    """Build a hook; a recursive call, for example for a tree of nodes, returns a hook that is resolved later."""
    if key in _in_progress.hooks:
        return _deferred_hook(_in_progress.hooks[key])
    hooks: list[Hook] = []
    _in_progress.hooks[key] = hooks
    try:
        hooks.append(make())
    finally:
        del _in_progress.hooks[key]
    return hooks[0]


def _deferred_hook(hooks: list[Hook]) -> Hook:
    def hook(*args: Any) -> Any:
        return hooks[0](*args)

    return hook


STORED = CattrsWay(takes_python=False, takes_json=True)
CONSTRUCTION = CattrsWay(takes_python=True, takes_json=False)
OUTSIDE = CattrsWay(takes_python=True, takes_json=True)
KEYS = CattrsWay(takes_python=False, takes_json=True, is_for_keys=True)

converter = STORED.converter
"""The cattrs converter of stored JSON: ``structure`` and ``unstructure`` as jobs use them."""
