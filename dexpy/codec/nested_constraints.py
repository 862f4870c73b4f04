"""Types with constraints inside other types: ``list[Annotated[int, prop(gt=0)]]``."""

from __future__ import annotations

from typing import Any, get_args

import attrs

from dexpy.codec.annotations import label_of, unwrapped
from dexpy.codec.base import Conversion, Hook, Reader, Shape
from dexpy.codec.constraint_checks import checked_constraints
from dexpy.codec.problems import invalid_value


def constrained_shape(annotation: Any, shape_of: Reader) -> Shape:
    """Return the shape of a type with constraints, which are checked in all directions."""
    wrapped, *constraints = get_args(annotation)
    shape = shape_of(unwrapped(wrapped))
    label = label_of(wrapped)

    def structure(conversion: Conversion) -> Hook:
        hook = conversion.hook(wrapped)
        bounds = [
            checked_constraints(options, wrapped, label, conversion.checker(wrapped))
            for options in constraints
            if options.bounded
        ]

        def decode(value: Any, _: Any = None) -> Any:
            checked = hook(value, None)
            for options in bounds:
                expected = options.problem(checked)
                if expected is not None:
                    raise invalid_value(expected, checked)
            return checked

        return decode

    def encode(conversion: Conversion) -> Hook:
        return conversion.encoder(wrapped)

    return attrs.evolve(
        shape,
        structure=structure,
        encode=encode,
        nested_annotations=(wrapped,),
        sensitive=any(constraint.sensitive for constraint in constraints),
    )
