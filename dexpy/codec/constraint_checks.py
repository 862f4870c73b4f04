"""Checks whether the constraints of `prop(...)` fit the type of the prop, when the class is declared."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import NoneType
from typing import Any, get_args
from uuid import UUID

import attrs

from dexpy.codec.annotations import label_of, members_of, origin_of, without_constraints
from dexpy.codec.constraints import PropOptions
from dexpy.codec.enums import is_enum, is_literal
from dexpy.codec.generics import is_union
from dexpy.codec.problems import InvalidValue
from dexpy.foundation.errors import DeclarationError

_LIMITS = ("ge", "gt", "le", "lt")
_SAMPLES: dict[Any, Any] = {
    bool: False,
    int: 0,
    float: 0.0,
    Decimal: Decimal(0),
    str: "",
    bytes: b"",
    UUID: UUID(int=0),
    date: date.min,
    datetime: datetime.min,
    time: time.min,
    timedelta: timedelta(0),
}
_SIZED = (str, bytes, list, tuple, set, frozenset, dict)


def checked_constraints(options: PropOptions, annotation: Any, label: str, check: Callable[[Any], Any]) -> PropOptions:
    """Return the options of a prop of this type, with its choices as values of the type.

    Args:
        options: The options of `prop(...)`.
        annotation: The type of the prop; None for a single reference.
        label: Its name in messages.
        check: Checks a value of the type; raises `InvalidValue`.

    Raises:
        DeclarationError: A constraint that no value, or no value of the type, satisfies.
    """
    members = [] if annotation is None else [item for item in _members(annotation) if item is not NoneType]
    for name, value in _set_limits(options):
        if annotation is None or not any(_applies(name, value, member) for member in members):
            raise _misplaced(name, value, label)
        for member in members:
            if not _applies(name, value, member):
                raise _misplaced(name, value, label_of(member))
    _refuse_contradictions(options, members)
    if options.choices is None:
        return options
    choices = tuple(_checked_choice(options, check, choice) for choice in options.choices)
    if not choices:
        raise DeclarationError("prop(choices=()) leaves no value. Add at least one.")
    return attrs.evolve(options, choices=choices)


def _set_limits(options: PropOptions) -> Iterator[tuple[str, Any]]:
    for name in (*_LIMITS, "min_length", "max_length", "pattern"):
        value = getattr(options, name)
        if value is not None:
            yield name, value


def _misplaced(name: str, value: Any, label: str) -> DeclarationError:
    text = value.pattern if name == "pattern" else value
    return DeclarationError(f"prop({name}={text!r}) does not fit its type {label}. Change one of them.")


def _members(annotation: Any) -> Sequence[Any]:
    annotation = without_constraints(annotation)
    return [without_constraints(member) for member in members_of(annotation)] if is_union(annotation) else [annotation]


# ------------------------------------------------------------------------------------------ one by one


def _applies(name: str, value: Any, member: Any) -> bool:
    """Return whether a constraint applies to values of a type; True for a type whose values are unknown."""
    if is_literal(member):
        return all(_applies(name, value, type(literal)) for literal in get_args(member))
    kind = origin_of(member)
    if name == "pattern":
        return member is str or kind in (Any, object) or _is_unknown(kind)
    if name in ("min_length", "max_length"):
        return kind in _SIZED or hasattr(kind, "__len__") or kind in (Any, object) or _is_protocol(kind)
    if kind in (Any, object):
        return True
    if is_enum(kind):
        return all(_is_comparable(literal, value) for literal in kind)
    if kind is type(value) and kind in _SAMPLES:
        return bool(value == value)
    if kind in _SAMPLES:
        return _is_comparable(_SAMPLES[kind], value)
    if kind in _SIZED:
        return _is_comparable(kind(), value)
    return any(getattr(kind, name, None) is not getattr(object, name) for name in ("__ge__", "__le__"))


def _is_unknown(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, str) and kind is not str and not is_enum(kind)


def _is_protocol(kind: Any) -> bool:
    return bool(getattr(kind, "_is_protocol", False))


def _is_comparable(sample: Any, bound: Any) -> bool:
    try:
        return type(bound >= sample) is bool and bound == bound
    except (TypeError, ArithmeticError):
        return False


def _checked_choice(options: PropOptions, check: Callable[[Any], Any], choice: Any) -> Any:
    try:
        checked = check(choice)
        expected = attrs.evolve(options, choices=None).problem(checked)
    except InvalidValue as invalid:
        expected = "; ".join(problem.expected or problem.reason for problem in invalid.problems)
    else:
        if expected is None:
            return checked
    raise DeclarationError(
        f"prop(choices=...): invalid choice {choice!r}; expected {expected}. Remove it, or change the type."
    )


# --------------------------------------------------------------------------------------------- together


def _refuse_contradictions(options: PropOptions, members: Sequence[Any]) -> None:
    pairs = [
        ("ge", "le", operator.gt),
        ("ge", "lt", operator.ge),
        ("gt", "le", operator.ge),
        ("gt", "lt", operator.ge),
        ("min_length", "max_length", operator.gt),
    ]
    for lower, upper, exclude in pairs:
        low, high = getattr(options, lower), getattr(options, upper)
        if low is None or high is None:
            continue
        try:
            is_empty = bool(exclude(low, high))
        except (TypeError, ArithmeticError):
            raise DeclarationError(
                f"prop({lower}={low!r}, {upper}={high!r}): the bounds are not comparable. Change one of them."
            ) from None
        if is_empty or (members == [int] and (lower, upper) == ("gt", "lt") and _has_no_int(low, high)):
            raise DeclarationError(f"prop({lower}={low!r}, {upper}={high!r}) leaves no value. Change one of them.")


def _has_no_int(low: Any, high: Any) -> bool:
    return bool(math.floor(low) + 1 >= high)
