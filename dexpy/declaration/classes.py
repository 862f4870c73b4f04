"""Attrs classes, dataclasses and TypedDicts, which are objects with known keys in JSON."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import attrs

from dexpy.declaration.annotations import label_of, origin_of
from dexpy.declaration.fields import Field, fields_of, has_fields, keys_of
from dexpy.declaration.misfits import Misfit, changed, cut, misfit, short
from dexpy.declaration.shapes import DICT, Hook, Shape, Way
from dexpy.foundation.errors import NotSerializable, Problem, listed

_SAID_LENGTH = 200

# ------------------------------------------------------------------------------------------- reading


def is_typed_dict(annotation: Any) -> bool:
    """True for a TypedDict, whichever of typing and typing_extensions it is from."""
    cls = origin_of(annotation)
    return isinstance(cls, type) and hasattr(cls, "__required_keys__") and hasattr(cls, "__total__")


def typed_dict_shape(annotation: Any) -> Shape:
    """The shape of a TypedDict."""
    keys, label = keys_of(annotation), label_of(annotation)

    def structure(way: Way) -> Hook:
        return _take_object(_hooks(way.hook, keys), build=None, refuses_unknown=way.takes_python, wanted=label)

    return Shape(
        frozenset({"object"}),
        structure,
        lambda way: _encode_typed_dict(_hooks(way.encoder, keys), label=label),
        types=frozenset({dict}),
        mutable=True,
        parts=tuple(key.type for key in keys),
    )


def is_record(annotation: Any) -> bool:
    """True for an attrs class or a dataclass that its fields can build again."""
    return has_fields(origin_of(annotation))


def record_shape(annotation: Any) -> Shape:
    """The shape of an attrs class or a dataclass."""
    cls = origin_of(annotation)
    fields, label, is_mutable = fields_of(annotation), label_of(annotation), not _is_frozen(cls)

    def structure(way: Way) -> Hook:
        if not way.takes_json:
            return _take_instance(cls, _hooks(way.hook, fields), is_mutable=is_mutable, wanted=label)
        build = _take_object(
            _hooks(way.hook, fields),
            build=_rebuilt(cls),
            refuses_unknown=way.takes_python,
            wanted=f"object for {label}",
        )
        if not way.takes_python:
            return build
        check = way.checker(annotation)

        def parse(value: Any, _: Any = None) -> Any:
            return check(value, None) if type(value) is cls else build(value, None)

        return parse

    return Shape(
        frozenset({"object"}),
        structure,
        lambda way: _encode_instance(cls, _hooks(way.encoder, fields), label=label),
        types=frozenset({cls}),
        mutable=is_mutable,
        parts=tuple(field.type for field in fields),
        tag=cls.__name__,
    )


def _is_frozen(cls: Any) -> bool:
    if attrs.has(cls):
        return cls.__setattr__.__name__ == "_frozen_setattrs"
    return bool(cls.__dataclass_params__.frozen)


_Hooks: TypeAlias = Sequence[tuple[Field, Hook]]


def _hooks(hook_of: Callable[[Any], Hook], fields: Iterable[Field]) -> _Hooks:
    return tuple((field, hook_of(field.type)) for field in fields)


# -------------------------------------------------------------------------------------------- way in


def _take_instance(cls: type, fields: _Hooks, *, is_mutable: bool, wanted: str) -> Hook:
    """A hook for an instance of a class: its fields are checked; of what could be changed later it makes a copy."""

    def check(value: Any, _: Any = None) -> Any:
        if type(value) is not cls:
            raise misfit(wanted, value)
        own: dict[str, Any] = {}
        problems: list[Problem] = []
        for field, inner in fields:
            held = getattr(value, field.name)
            try:
                taken = inner(held, None)
            except Misfit as error:
                problems += error.under(field.path)
            else:
                if taken is not held:
                    own[field.name] = taken
        if problems:
            raise Misfit(problems)
        if not is_mutable and not own:
            return value
        made = copy.copy(value)
        for name, taken in own.items():
            object.__setattr__(made, name, taken)  # a frozen one too
        return made

    return check


def _take_object(
    fields: _Hooks, *, build: Callable[[dict[str, Any]], Any] | None, refuses_unknown: bool, wanted: str
) -> Hook:
    """A hook for a dict with known keys; `build` makes an instance of it, None leaves the dict."""
    keys = frozenset(field.key for field, _ in fields)

    def structure(value: Any, _: Any = None) -> Any:
        if type(value) is not DICT:
            raise misfit(wanted, value)
        made: dict[str, Any] = {}
        problems: list[Problem] = []
        for field, inner in fields:
            if field.key in value:
                try:
                    made[field.key] = inner(value[field.key], None)
                except Misfit as error:
                    problems += error.under(field.path)
            elif field.required:
                problems.append(Problem(field.path, f"{label_of(field.type)}, nothing was given"))
        if refuses_unknown and not value.keys() <= keys:
            unknown = ", ".join(short(key) for key in value if key not in keys)
            problems.append(Problem("", f"only the keys {listed(keys)}", cut(unknown)))
        if problems:
            raise Misfit(problems)
        return made if build is None else build(made)

    return structure


def _rebuilt(cls: type) -> Callable[[dict[str, Any]], Any]:
    """Makes an instance through its ``__init__``, so that converters and validators run."""

    def build(arguments: dict[str, Any]) -> Any:
        try:
            return cls(**arguments)
        except Exception as error:
            # a validator may raise anything; whatever it is, the value does not fit
            # attrs puts more than the message into args, and str() of that is a tuple
            said = error.args[0] if error.args and type(error.args[0]) is str else short(error)
            got = cut(f"{type(error).__name__}: {said}", _SAID_LENGTH)
            raise Misfit([Problem("", f"values that {cls.__name__} takes", got)]) from error

    return build


# ------------------------------------------------------------------------------------------- way out


def _encode_instance(cls: type[Any], fields: _Hooks, *, label: str) -> Hook:
    """A hook that makes a JSON object of an instance."""

    def encode(value: Any) -> dict[str, Any]:
        if type(value) is not cls:
            raise changed(value, label)
        made: dict[str, Any] = {}
        for field, inner in fields:
            try:
                made[field.key] = inner(getattr(value, field.name))
            except NotSerializable as error:
                raise error.under(field.path) from error.__cause__
        return made

    return encode


def _encode_typed_dict(keys: _Hooks, *, label: str) -> Hook:
    """A hook that makes a JSON object of a dict with known keys."""
    known = {key.name for key, _ in keys}
    required = {key.name for key, _ in keys if key.required}

    def encode(value: Any) -> dict[str, Any]:
        if type(value) is not DICT:
            raise changed(value, label)
        if not required <= value.keys() <= known:
            raise NotSerializable(f"has other keys than {label} declares")
        made: dict[str, Any] = {}
        for key, inner in keys:
            if key.name in value:
                try:
                    made[key.name] = inner(value[key.name])
                except NotSerializable as error:
                    raise error.under(key.path) from error.__cause__
        return made

    return encode
