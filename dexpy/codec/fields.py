"""Fields of attrs classes and dataclasses, and keys of TypedDicts, which are treated alike."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Self, cast, get_args, get_origin

import attrs

from dexpy.codec.annotated_metadata import constraints_of, is_prop
from dexpy.codec.annotations import is_qualified, origin_of, special_name
from dexpy.codec.attrs_fields import OWN_FIELDS
from dexpy.codec.constraints import MARK
from dexpy.codec.generics import arguments_of, substituted
from dexpy.codec.hints import class_annotations, resolve_annotation
from dexpy.codec.problems import path_segment
from dexpy.foundation.errors import DeclarationError


@attrs.frozen
class Field:
    """One field of a class or key of a TypedDict.

    Attributes:
        name: The attribute or key in Python.
        key: The key in JSON: the name of the argument of ``__init__``.
        type: Its annotation.
        required: Whether it has no default.
        path: Its part of a path.
        converts: Whether the class has a converter for it.
        options: The constraints of a ``prop(...)`` on its values.
    """

    name: str
    key: str
    type: Any
    required: bool
    path: str
    converts: bool = False
    options: Any = None


def has_fields(cls: Any) -> bool:
    """Return whether the fields of a class are the arguments of its ``__init__``: no `InitVar`, no custom one."""
    if not isinstance(cls, type) or OWN_FIELDS in vars(cls):  # an operation is not a value
        return False
    if not (attrs.has(cls) or dataclasses.is_dataclass(cls) or is_named_tuple(cls)):
        return False
    try:
        parameters = inspect.signature(cast(Any, cls)).parameters
    except (ValueError, NameError):  # from Python 3.14 on, a name in an annotation may be undefined
        return True
    keys = {field.key for field in _declared_fields(cls)}
    variadic = {
        name
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    required = {name for name, parameter in parameters.items() if parameter.default is parameter.empty} - variadic
    return required <= keys and keys <= parameters.keys()


def fields_of(annotation: Any) -> tuple[Field, ...]:
    """Return the fields of an attrs class, dataclass or NamedTuple that are arguments of its ``__init__``."""
    cls = origin_of(annotation)
    return tuple(
        attrs.evolve(field, type=_with_options(field, _hint(annotation, cls, field))) for field in _declared_fields(cls)
    )


def _hint(annotation: Any, cls: Any, field: Field) -> Any:
    owner = next((base for base in cls.__mro__ if field.name in class_annotations(base)), None)
    if owner is None:
        return field.type
    where = f"{owner.__qualname__}.{field.name}"
    hint = resolve_annotation(class_annotations(owner)[field.name], owner, where)
    return substituted(hint, {Self: annotation, **arguments_of(annotation, owner)})


def _with_options(field: Field, hint: Any) -> Any:
    """Return the type of a field, with the constraints of a ``prop(...)`` in an attrs class."""
    return hint if field.options is None else Annotated[hint, field.options]


def _declared_fields(cls: Any) -> Iterator[Field]:
    """Yield the fields with their declared types, which may be text."""
    if attrs.has(cls):
        for attribute in attrs.fields(cls):
            if attribute.init:
                key = attribute.alias or attribute.name
                declared = Any if attribute.type is None else attribute.type
                yield Field(
                    attribute.name,
                    key,
                    declared,
                    attribute.default is attrs.NOTHING,
                    f".{key}",
                    converts=attribute.converter is not None,
                    options=_options_of(cls, attribute),
                )
    elif is_named_tuple(cls):
        for name in cls._fields:
            _refuse_prop(cls, name, cls._field_defaults.get(name))
            yield Field(name, name, Any, name not in cls._field_defaults, f".{name}")
    else:
        for field in dataclasses.fields(cls):
            _refuse_prop(cls, field.name, field.default)
            if field.init:
                required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
                yield Field(field.name, field.name, field.type, required, f".{field.name}")


def _refuse_prop(cls: Any, name: str, default: object) -> None:
    if is_prop(default):
        raise DeclarationError(
            f"{cls.__qualname__}.{name}: prop() is only for operations and attrs classes. "
            f"Write {name}: Annotated[..., prop(...)]."
        )


def _options_of(cls: Any, field: attrs.Attribute[Any]) -> Any:
    """Return the constraints of a ``prop(...)`` in an attrs class."""
    options = field.metadata.get(MARK)
    if options is None:
        return None
    try:
        constraints = constraints_of([attrs.field(metadata=field.metadata)])
    except DeclarationError as error:
        raise DeclarationError(f"{cls.__qualname__}.{field.name}: {error}") from None
    return constraints[0] if constraints else None


def is_named_tuple(cls: Any) -> bool:
    """Return whether a class is a typing.NamedTuple or collections.namedtuple."""
    return isinstance(cls, type) and issubclass(cls, tuple) and "_field_defaults" in dir(cast(Any, cls))


def comparison_of(cls: Any, name: str) -> tuple[bool, Callable[[Any], Any] | None]:
    """Return whether ``==`` compares a field, and the key function of its comparison, if there is one."""
    if attrs.has(cls):
        # The stubs of attrs lack `eq_key`.
        attribute: Any = attrs.fields_dict(cls)[name]
        return bool(attribute.eq), attribute.eq_key
    if is_named_tuple(cls):
        return True, None
    return next(field.compare for field in dataclasses.fields(cls) if field.name == name), None


def keys_of(annotation: Any) -> tuple[Field, ...]:
    """Return the keys of a TypedDict."""
    cls = origin_of(annotation)
    fields: list[Field] = []
    for key, declared in cls.__annotations__.items():
        owner = _owner_of_key(cls, key)
        hint = resolve_annotation(declared, owner, f"{owner.__qualname__}[{key!r}]")
        hint = substituted(hint, {Self: annotation, **arguments_of(annotation, owner)})
        fields.append(Field(key, key, hint, _is_required(cls, key, hint), path_segment(key)))
    return tuple(fields)


def _owner_of_key(cls: Any, key: str) -> Any:
    """Return the TypedDict that declares a key; only ``__orig_bases__`` has the bases."""
    for base in cast("tuple[Any, ...]", cls.__dict__.get("__orig_bases__", ())):
        origin = origin_of(base)
        if key in getattr(origin, "__annotations__", {}) and hasattr(origin, "__total__"):
            return _owner_of_key(origin, key)
    return cls


def _is_required(cls: Any, key: str, hint: Any) -> bool:
    while is_qualified(hint):
        name = special_name(get_origin(hint))
        if name in {"Required", "NotRequired"}:
            return name == "Required"
        hint = get_args(hint)[0]
    # Last, because it ignores a Required or NotRequired that was text when the class was created.
    return key in cls.__required_keys__
