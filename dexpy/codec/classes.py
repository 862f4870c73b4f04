"""Attrs classes, dataclasses and TypedDicts, which are objects with known keys in JSON."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import attrs

from dexpy.codec.annotations import label_of, origin_of
from dexpy.codec.base import DICT, Conversion, Hook, Shape
from dexpy.codec.fields import Field, comparison_of, fields_of, has_fields, is_named_tuple, keys_of
from dexpy.codec.problems import InvalidValue, changed, invalid_value, short_repr, shorten
from dexpy.foundation.errors import NotSerializable, Problem, listed

_MAX_ERROR_LENGTH = 200

# ------------------------------------------------------------------------------------------- reading


def is_typed_dict(annotation: Any) -> bool:
    """Return True for a TypedDict of typing or typing_extensions."""
    cls = origin_of(annotation)
    return isinstance(cls, type) and hasattr(cls, "__required_keys__") and hasattr(cls, "__total__")


def typed_dict_shape(annotation: Any) -> Shape:
    """Return the shape of a TypedDict."""
    keys, label = keys_of(annotation), label_of(annotation)

    def structure(conversion: Conversion) -> Hook:
        return _decode_object(
            _hooks(conversion.hook, keys), build=None, refuses_unknown=conversion.takes_python, expected=label
        )

    return Shape(
        frozenset({"object"}),
        structure,
        lambda conversion: _encode_typed_dict(_hooks(conversion.encoder, keys), label=label),
        types=frozenset({dict}),
        mutable=True,
        nested_annotations=tuple(key.type for key in keys),
    )


def is_record(annotation: Any) -> bool:
    """Return True for an attrs class or a dataclass that can be rebuilt from its fields."""
    return has_fields(origin_of(annotation))


def record_shape(annotation: Any) -> Shape:
    """Return the shape of an attrs class or a dataclass."""
    cls = origin_of(annotation)
    fields, label, is_mutable = fields_of(annotation), label_of(annotation), not _is_frozen(cls)

    def structure(conversion: Conversion) -> Hook:
        if not conversion.takes_json:
            return _decode_instance(cls, _hooks(conversion.hook, fields), is_mutable=is_mutable, expected=label)
        build = _decode_object(
            _hooks(conversion.hook, fields),
            build=_instance_builder(
                cls, conversion.checker(annotation) if any(field.converts for field in fields) else None
            ),
            refuses_unknown=conversion.takes_python,
            expected=f"object for {label}",
        )
        if not conversion.takes_python:
            return build
        check = conversion.checker(annotation)

        def parse(value: Any, _: Any = None) -> Any:
            return check(value, None) if type(value) is cls else build(value, None)

        return parse

    return Shape(
        frozenset({"object"}),
        structure,
        lambda conversion: _encode_instance(cls, _hooks(conversion.encoder, fields), label=label),
        types=frozenset({cls}),
        mutable=is_mutable,
        nested_annotations=tuple(field.type for field in fields),
        tag=cls.__name__,
        key=lambda conversion: _encode_instance(cls, _key_hooks(cls, fields, conversion), label=label),
    )


def _is_frozen(cls: Any) -> bool:
    if is_named_tuple(cls):
        return True
    if attrs.has(cls):
        return cls.__setattr__.__name__ == "_frozen_setattrs"
    return bool(cls.__dataclass_params__.frozen)


_Hooks: TypeAlias = Sequence[tuple[Field, Hook]]


def _hooks(hook_of: Callable[[Any], Hook], fields: Iterable[Field]) -> _Hooks:
    return tuple((field, hook_of(field.type)) for field in fields)


def _key_hooks(cls: Any, fields: Iterable[Field], conversion: Conversion) -> _Hooks:
    """Return the hooks of the fields by which instances are compared."""
    hooks: list[tuple[Field, Hook]] = []
    for field in fields:
        is_compared, key_function = comparison_of(cls, field.name)
        if is_compared:
            hooks.append(
                (field, conversion.encoder(field.type) if key_function is None else _key_of(key_function, conversion))
            )
    return hooks


def _key_of(key_function: Callable[[Any], Any], conversion: Conversion) -> Hook:
    """Return a hook for a field that is compared by the result of a function."""

    def encode(value: Any) -> Any:
        key_value = key_function(value)
        return conversion.encoder(type(key_value))(key_value)

    return encode


# -------------------------------------------------------------------------------------------- decoding


def _decode_instance(cls: type, fields: _Hooks, *, is_mutable: bool, expected: str) -> Hook:
    """Return a hook for an instance of a class: it checks the fields, and copies mutable values."""

    kind: Any = cls

    def check(value: Any, _: Any = None) -> Any:
        if type(value) is not kind:
            raise invalid_value(expected, value, cls)
        copies: dict[str, Any] = {}
        problems: list[Problem] = []
        for field, hook in fields:
            try:
                field_value = getattr(value, field.name)
                checked = hook(field_value, None)
            except InvalidValue as error:
                problems += error.under(field.path)
            except AttributeError:
                problems.append(Problem(field.path, label_of(field.type), reason="missing in the instance"))
            else:
                if checked is not field_value:
                    copies[field.name] = checked
        if problems:
            raise InvalidValue(problems)
        if not is_mutable and not copies:
            return value
        if is_named_tuple(cls):
            return value._replace(**copies)
        copied = copy.copy(value)
        for name, checked in copies.items():
            object.__setattr__(copied, name, checked)  # for frozen classes too
        return copied

    return check


def _decode_object(
    fields: _Hooks, *, build: Callable[[dict[str, Any]], Any] | None, refuses_unknown: bool, expected: str
) -> Hook:
    """Return a hook for a dict with known keys; `build` makes an instance from it, None keeps the dict."""
    keys = frozenset(field.key for field, _ in fields)

    def structure(value: Any, _: Any = None) -> Any:
        if type(value) is not DICT:
            raise invalid_value(expected, value)
        result: dict[str, Any] = {}
        problems: list[Problem] = []
        for field, hook in fields:
            if field.key in value:
                try:
                    result[field.key] = hook(value[field.key], None)
                except InvalidValue as error:
                    if field.converts and build is not None:
                        result[field.key] = value[field.key]  # the converter of the class may accept it
                    else:
                        problems += error.under(field.path)
            elif field.required:
                problems.append(Problem(field.path, label_of(field.type), reason="missing"))
        if refuses_unknown and not value.keys() <= keys:
            unknown = ", ".join(short_repr(key) for key in value if key not in keys)
            problems.append(Problem("", f"only the keys {listed(keys)}", shorten(unknown)))
        if problems:
            raise InvalidValue(problems)
        return result if build is None else build(result)

    return structure


def _instance_builder(cls: type, check: Hook | None) -> Callable[[dict[str, Any]], Any]:
    """Return a function that makes an instance by its ``__init__``, with converters and validators, and checks it."""

    def build(arguments: dict[str, Any]) -> Any:
        try:
            instance = cls(**arguments)
        except Exception as error:
            # A validator may raise anything; each exception means an invalid value.
            # attrs puts more than the message into args, so that str() would return a tuple.
            text = error.args[0] if error.args and type(error.args[0]) is str else short_repr(error)
            got = shorten(f"{type(error).__name__}: {text}", _MAX_ERROR_LENGTH)
            raise InvalidValue([Problem("", got=got, reason=f"{cls.__name__} refuses the values")]) from error
        return instance if check is None else check(instance, None)

    return build


# ------------------------------------------------------------------------------------------- encoding


def _encode_instance(cls: type[Any], fields: _Hooks, *, label: str) -> Hook:
    """Return a hook that makes a JSON object of an instance."""

    def encode(value: Any) -> dict[str, Any]:
        if type(value) is not cls:
            raise changed(value, label, cls)
        result: dict[str, Any] = {}
        for field, hook in fields:
            try:
                result[field.key] = hook(getattr(value, field.name))
            except NotSerializable as error:
                described = error.about(f"the field {cls.__name__}.{field.name}")
                raise described.under(field.path) from error.__cause__
            except AttributeError:
                raise NotSerializable(f"has no value for the field {field.name}", path=field.path) from None
        return result

    return encode


def _encode_typed_dict(keys: _Hooks, *, label: str) -> Hook:
    """Return a hook that makes a JSON object of a dict with known keys."""
    allowed = {key.name for key, _ in keys}
    required = {key.name for key, _ in keys if key.required}

    def encode(value: Any) -> dict[str, Any]:
        if type(value) is not DICT:
            raise changed(value, label)
        if not required <= value.keys() <= allowed:
            raise NotSerializable(f"does not have the keys that {label} declares")
        result: dict[str, Any] = {}
        for key, hook in keys:
            if key.name in value:
                try:
                    result[key.name] = hook(value[key.name])
                except NotSerializable as error:
                    raise error.about(f"the key {label}[{key.name!r}]").under(key.path) from error.__cause__
        return result

    return encode
