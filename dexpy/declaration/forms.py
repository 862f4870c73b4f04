"""Forms: all that dexpy knows of one annotation, from the check at construction to JSON and back.

An annotation is read once into a `_Shape`, which says what JSON it becomes and makes its hooks.
One recipe (`_FAMILIES`) puts these hooks into three cattrs converters, one for each way in;
the way out is the unstructuring of the one for stored JSON.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import itertools
import operator
import threading
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum, Flag
from functools import cache, partial
from types import NoneType
from typing import Annotated, Any, ForwardRef, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

import attrs
import cattrs

from dexpy.declaration.converter import (
    SCALARS,
    TOO_DEEP,
    Field,
    Fields,
    Hook,
    Misfit,
    changed,
    copied,
    encode_array,
    encode_dict,
    encode_record,
    encode_tagged,
    encode_tuple,
    encode_union,
    exactly,
    hashed,
    misfit,
    plain_json,
    rebuilt,
    shown,
    step,
    take_array,
    take_dict,
    take_instance,
    take_record,
    take_tagged,
    take_tuple,
    take_union,
    walk_plain,
)
from dexpy.foundation.errors import DeclarationError, NotSerializable, Problem

__all__ = ["Form", "Misfit", "converter", "form_of", "plain_json", "register_type"]

_LIST: type[Any] = list
_KINDS = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
_JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "null": (NoneType,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (float, int),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
}


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
        dexpy.declaration.converter.Misfit: ['due']: wants date, got str '2026-01-31'
    """
    with _lock:
        return _form_of(_hashable(annotation))


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
    if not isinstance(cls, type) or get_origin(cls) is not None:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DeclarationError(f"register_type wants a class, got {shown(cls)}.")
    if cls in SCALARS or cls in (Any, object, list, set, frozenset, tuple, dict):
        raise DeclarationError(f"register_type({cls.__name__}) is not possible: dexpy's own form of it is fixed.")
    with _lock:
        _registered[cls] = _Registration(to_json, from_json)
        _form_of.cache_clear()
        for way in (CONSTRUCTION, STORED, OUTSIDE):
            way.take_up(cls)


# ------------------------------------------------------------------------------------- three ways in


@attrs.define(eq=False)
class _Way:
    """One way in: a cattrs converter and what it takes.

    cattrs looks for the hook of a class along its bases first: `IntEnum` would get the hook of `int`,
    before any factory is asked. So a subclass of such a class is registered by itself when it is met.
    """

    takes_python: bool
    takes_json: bool
    converter: cattrs.Converter = attrs.field(factory=cattrs.Converter)
    _met: set[type] = attrs.field(factory=set[type])

    def __attrs_post_init__(self) -> None:
        for fits, read in reversed(_FAMILIES):
            self.converter.register_structure_hook_factory(fits, partial(self._made, read))
            self.converter.register_unstructure_hook_factory(fits, partial(self._made_encoder, read))
        self.converter.register_structure_hook_factory(_is_wrapped, self.hook)
        self.converter.register_unstructure_hook_factory(_is_wrapped, self.encoder)
        for cls in SCALARS:
            self._register_alone(cls)

    def hook(self, annotation: Any) -> Hook:
        """The hook that takes values of an annotation."""
        return self.converter.get_structure_hook(self._met_alone(annotation))

    def encoder(self, annotation: Any) -> Hook:
        """The hook that makes JSON of values of an annotation."""
        return self.converter.get_unstructure_hook(self._met_alone(annotation))

    def take_up(self, cls: type) -> None:
        """Makes hooks anew, because a class was registered."""
        self._met.clear()
        is_cls = partial(operator.is_, cls)
        self.converter.register_structure_hook_factory(is_cls, partial(self._made, _registered_shape))
        self.converter.register_unstructure_hook_factory(is_cls, partial(self._made_encoder, _registered_shape))

    def containers(self, kind: type) -> tuple[type, ...]:
        """The containers that stand for one kind of array."""
        python = (kind,) if self.takes_python else ()
        return tuple(dict.fromkeys((*python, list))) if self.takes_json else python

    def types_of(self, shape: _Shape) -> Iterator[type]:
        """The types by which values of a shape are known."""
        if self.takes_json:
            yield from itertools.chain.from_iterable(_JSON_TYPES[kind] for kind in shape.kinds)
        if self.takes_python:
            yield from shape.types

    def _met_alone(self, annotation: Any) -> Any:
        annotation = unwrapped(annotation)
        if _is_class(annotation) and annotation not in self._met and issubclass(annotation, _CAUGHT):
            self._register_alone(annotation)
        return annotation

    def _register_alone(self, cls: Any) -> None:
        self._met.add(cls)
        self.converter.register_structure_hook(cls, self._made(_shape_of, cls))
        self.converter.register_unstructure_hook(cls, self._made_encoder(_shape_of, cls))

    def _made(self, read: _Reader, annotation: Any) -> Hook:
        return _tied((self, "in", annotation), lambda: read(annotation).structure(self))

    def _made_encoder(self, read: _Reader, annotation: Any) -> Hook:
        return _tied((self, "out", annotation), lambda: read(annotation).encode(self))


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


# -------------------------------------------------------------------------------- annotations, as text and bare

_QUALIFIERS = frozenset({"Required", "NotRequired", "ReadOnly", "Final"})


def unwrapped(annotation: Any) -> Any:
    """The type inside of Annotated, NewType, a type alias, Required and the like."""
    while True:
        inner = _inside(annotation)
        if inner is annotation:
            return _hashable(annotation)
        annotation = inner


def _inside(annotation: Any) -> Any:
    if annotation is None:
        return NoneType
    if isinstance(annotation, str | ForwardRef):
        name = annotation if isinstance(annotation, str) else annotation.__forward_arg__
        raise DeclarationError(f"The annotation {name!r} is still text: give the type itself, or resolve it first.")
    if isinstance(annotation, typing.NewType):
        return annotation.__supertype__
    if isinstance(annotation, TypeVar):
        return Any if annotation.__bound__ is None else annotation.__bound__
    if _is_alias(annotation):
        return _alias_value(annotation)
    if _is_alias(get_origin(annotation)):
        alias = get_origin(annotation)
        return _substituted(_alias_value(alias), dict(zip(alias.__type_params__, get_args(annotation), strict=False)))
    if get_origin(annotation) is Annotated or _special_name(get_origin(annotation)) in _QUALIFIERS:
        return get_args(annotation)[0]
    return str if _special_name(annotation) == "LiteralString" else annotation


def _is_wrapped(annotation: Any) -> bool:
    return _inside(annotation) is not annotation


def _is_alias(annotation: Any) -> bool:
    """True for ``type X = ...``, also as typing_extensions has it before Python 3.12."""
    return type(annotation).__name__ == "TypeAliasType"


def _alias_value(alias: Any) -> Any:
    try:
        return alias.__value__
    except NameError as error:
        raise DeclarationError(f"The type {alias.__name__} refers to {error.name!r}, which is not defined.") from error


def _special_name(annotation: Any) -> str:
    """The name of a special form, whichever of typing and typing_extensions it is from."""
    module, _, name = str(annotation).rpartition(".")
    return name if module in {"typing", "typing_extensions"} else ""


def _hashable(annotation: Any) -> Any:
    """The annotation, without metadata that cannot be hashed (``Annotated[int, []]``) deep inside."""
    try:
        hash(annotation)
    except TypeError:
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        return typing.get_type_hints(holder)["it"]
    return annotation


def _is_class(annotation: Any) -> bool:
    return isinstance(annotation, type) and get_origin(annotation) is None


def label_of(annotation: Any) -> str:
    """An annotation for messages: ``int``, ``list[date]``, ``int | None``.

    Example:
        >>> from typing import Optional
        >>> label_of(Optional[list[int]])
        'list[int] | None'
    """
    if _is_alias(annotation):
        return str(annotation.__name__)
    annotation = unwrapped(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is NoneType:
        return "None"
    if annotation is Any:
        return "Any"
    if _is_union(annotation):
        return " | ".join(label_of(member) for member in arguments)
    if origin is Literal:
        return f"Literal[{_alternatives(arguments)}]"
    name: str = getattr(origin or annotation, "__name__", None) or repr(annotation).rpartition(".")[2]
    return f"{name}[{', '.join(map(_argument_label, arguments))}]" if arguments else name


def _argument_label(argument: Any) -> str:
    if argument is Ellipsis:
        return "..."
    if type(argument) is _LIST:  # the arguments of a Callable
        return f"[{', '.join(map(_argument_label, argument))}]"
    return label_of(argument)


def _alternatives(values: Iterable[Any]) -> str:
    return ", ".join(str(value) if isinstance(value, Enum) else repr(value) for value in values)


# ------------------------------------------------------------------------------------------- shapes


@attrs.frozen
class _Shape:
    """An annotation as it was read.

    Attributes:
        kinds: JSON kinds that it encodes to.
        structure: Makes the hook for one way in.
        encode: Makes the hook for the way out.
        types: Python types that its values have exactly.
        is_open: Values may be of other types too.
        mutable: The values themselves, not only their parts, can be changed.
        parts: Annotations of what is inside.
    """

    kinds: frozenset[str]
    structure: Callable[[_Way], Hook]
    encode: Callable[[_Way], Hook]
    types: frozenset[type] = frozenset()
    is_open: bool = False
    mutable: bool = False
    parts: tuple[Any, ...] = ()


_Reader: TypeAlias = Callable[[Any], _Shape]


def _shape_reader(annotation: Any) -> _Reader:
    return next(read for fits, read in _FAMILIES if fits(annotation))


def _shape_of(annotation: Any) -> _Shape:
    return _shape_reader(annotation)(annotation)


def _by_way(check: Hook, decode: Hook, parse: Hook) -> Callable[[_Way], Hook]:
    """Chooses among three hooks that need no others."""
    return lambda way: check if not way.takes_json else parse if way.takes_python else decode


def _is_scalar(annotation: Any) -> bool:
    return annotation in SCALARS


def _scalar_shape(annotation: Any) -> _Shape:
    scalar = SCALARS[annotation]
    return _Shape(
        frozenset({scalar.kind}),
        _by_way(scalar.check, scalar.decode, scalar.parse),
        lambda _: scalar.encode,
        scalar.types,
        scalar.is_open,
    )


# Any and object: plain JSON


def _is_anything(annotation: Any) -> bool:
    return annotation is Any or annotation is object


def _anything_shape(annotation: Any) -> _Shape:
    return _Shape(_KINDS, lambda _: copied, lambda _: walk_plain, is_open=True, mutable=True)


# enums and literals: fixed values


def _is_enum(annotation: Any) -> bool:
    return _is_class(annotation) and issubclass(annotation, Enum) and bool(annotation.__members__)


def _enum_shape(annotation: Any) -> _Shape:
    members: list[Enum] = list(annotation.__members__.values())
    by_value = all(type(member.value) in (str, int) for member in members)
    json_of: Callable[[Any], Any] = operator.attrgetter("value" if by_value else "name")
    known = {json_of(member): member for member in members}
    is_flag = by_value and issubclass(annotation, Flag)
    member_of: Callable[[Any], Any] = _flags_reader(annotation) if is_flag else known.get
    label = label_of(annotation)
    wanted = f"sum of some of {_alternatives(known)}" if is_flag else _one_of(known)

    def decode(value: Any, _: Any = None) -> Any:
        member = member_of(value) if type(value) in (str, int) else None
        if member is None:
            raise misfit(wanted, value)
        return member

    def parse(value: Any, _: Any = None) -> Any:
        return value if type(value) is annotation else decode(value)

    def encode(value: Any) -> Any:
        if type(value) is annotation:
            return walk_plain(json_of(value))
        raise changed(value, label)

    kinds = frozenset(_kind_of(json) for json in known)
    return _Shape(
        kinds, _by_way(exactly(annotation, label), decode, parse), lambda _: encode, types=frozenset({annotation})
    )


def _flags_reader(cls: Any) -> Callable[[Any], Any]:
    """Reads combinations too, and none that comes out otherwise than it went in."""

    def read(value: Any) -> Any:
        try:
            flags = cls(value)
        except (ValueError, TypeError):
            return None
        return flags if type(flags) is cls and flags.value == value else None

    return read


def _is_literal(annotation: Any) -> bool:
    return get_origin(annotation) is Literal


def _literal_shape(annotation: Any) -> _Shape:
    label, values = label_of(annotation), get_args(annotation)
    json_of: dict[tuple[Any, Any], Any] = {(type(value), value): _literal_json(label, value) for value in values}
    value_of: dict[tuple[Any, Any], Any] = {(type(json), json): key[1] for key, json in json_of.items()}
    if len(value_of) < len(json_of):
        raise DeclarationError(f"{label} has two values that are the same in JSON. Leave one of them out.")
    python_types: frozenset[type] = frozenset(cls for cls, _ in json_of)
    json_types: frozenset[type] = frozenset(cls for cls, _ in value_of)

    def is_known(value: Any) -> bool:
        return type(value) in python_types and (type(value), value) in json_of

    def check(value: Any, _: Any = None) -> Any:
        if is_known(value):
            return value
        raise misfit(_one_of(values), value)

    def decode(value: Any, _: Any = None) -> Any:
        if type(value) in json_types and (type(value), value) in value_of:
            return value_of[type(value), value]
        raise misfit(_one_of(json_of.values()), value)

    def parse(value: Any, _: Any = None) -> Any:
        return value if is_known(value) else decode(value)

    def encode(value: Any) -> Any:
        if is_known(value):
            return json_of[type(value), value]
        raise changed(value, label)

    kinds = frozenset(_kind_of(json) for json in json_of.values())
    return _Shape(kinds, _by_way(check, decode, parse), lambda _: encode, types=python_types)


def _literal_json(label: str, value: Any) -> Any:
    try:
        return STORED.encoder(type(value))(value)
    except NotSerializable as error:
        raise DeclarationError(f"{label} cannot be: a value of it {error.reason}.") from None


def _kind_of(json_value: Any) -> str:
    return next(kind for kind, classes in _JSON_TYPES.items() if type(json_value) is classes[0])


def _one_of(values: Iterable[Any]) -> str:
    text = _alternatives(values)
    return f"one of {text}" if len(list(values)) > 1 else text


# containers


def _kind_and_arguments(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    return get_origin(annotation) or annotation, get_args(annotation)


def _is_array(annotation: Any) -> bool:
    kind, arguments = _kind_and_arguments(annotation)
    if kind is tuple:
        is_bare = annotation is tuple or _special_name(annotation) == "Tuple"
        return is_bare or (len(arguments) == 2 and arguments[1] is Ellipsis)
    return kind in (list, set, frozenset)


def _array_shape(annotation: Any) -> _Shape:
    kind, arguments = _kind_and_arguments(annotation)
    item = arguments[0] if arguments else Any
    label = label_of(annotation)
    build = None if kind is list else tuple if kind is tuple else hashed(kind, label)

    def structure(way: _Way) -> Hook:
        return take_array(way.hook(item), taken=way.containers(kind), build=build, wanted=label)

    return _Shape(
        frozenset({"array"}),
        structure,
        lambda way: encode_array(way.encoder(item), taken=kind, label=label),
        types=frozenset({kind}),
        mutable=kind in (list, set),
        parts=(item,),
    )


def _is_tuple(annotation: Any) -> bool:
    """True for a tuple with a type for each place; ``tuple[int, *tuple[str, ...]]`` is none."""
    kind, arguments = _kind_and_arguments(annotation)
    return kind is tuple and not any(
        getattr(place, "__unpacked__", False) or _special_name(get_origin(place)) == "Unpack" for place in arguments
    )


def _tuple_shape(annotation: Any) -> _Shape:
    places, label = get_args(annotation), label_of(annotation)

    def structure(way: _Way) -> Hook:
        return take_tuple([way.hook(place) for place in places], taken=way.containers(tuple), wanted=label)

    def encode(way: _Way) -> Hook:
        return encode_tuple([way.encoder(place) for place in places], label=label)

    return _Shape(frozenset({"array"}), structure, encode, types=frozenset({tuple}), parts=places)


def _is_dict(annotation: Any) -> bool:
    return (get_origin(annotation) or annotation) is dict


def _dict_shape(annotation: Any) -> _Shape:
    key, item = get_args(annotation) or (Any, Any)
    label = label_of(annotation)
    return _Shape(
        frozenset({"object"}),
        lambda way: take_dict(way.hook(key), way.hook(item), wanted=label),
        lambda way: encode_dict(way.encoder(item), label=label),
        types=frozenset({dict}),
        mutable=True,
        parts=(key, item),
    )


# classes: attrs, dataclasses, TypedDicts


def _is_typed_dict(annotation: Any) -> bool:
    cls = get_origin(annotation) or annotation
    return isinstance(cls, type) and hasattr(cls, "__required_keys__") and hasattr(cls, "__total__")


def _typed_dict_shape(annotation: Any) -> _Shape:
    fields, label = _typed_dict_fields(annotation), label_of(annotation)

    def structure(way: _Way) -> Hook:
        return take_record(_hooks_of(fields, way), build=None, refuses_unknown=way.takes_python, wanted=label)

    return _Shape(
        frozenset({"object"}),
        structure,
        lambda way: encode_record(_encoders_of(fields, way), taken=dict, label=label, is_dict=True),
        types=frozenset({dict}),
        mutable=True,
        parts=tuple(field.type for field in fields),
    )


def _is_record(annotation: Any) -> bool:
    """True for a class that its fields can build again: one without an `InitVar` or an ``__init__`` of its own."""
    cls = get_origin(annotation) or annotation
    if not isinstance(cls, type) or not (attrs.has(cls) or dataclasses.is_dataclass(cls)):
        return False
    try:
        parameters = inspect.signature(cls).parameters
    except (ValueError, NameError):  # from Python 3.14 on, a name in an annotation may not be there yet
        return True
    keys = {key for _, key, _, _ in _init_fields(cls)}
    of_any_name = {name for name, one in parameters.items() if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
    needed = {name for name, one in parameters.items() if one.default is one.empty} - of_any_name
    return needed <= keys and keys <= parameters.keys()


def _record_shape(annotation: Any) -> _Shape:
    cls: Any = get_origin(annotation) or annotation
    fields, label = _class_fields(annotation), label_of(annotation)

    def structure(way: _Way) -> Hook:
        if not way.takes_json:
            return take_instance(cls, _hooks_of(fields, way), is_mutable=not _is_frozen(cls), wanted=label)
        build = take_record(
            _hooks_of(fields, way), build=rebuilt(cls), refuses_unknown=way.takes_python, wanted=f"object for {label}"
        )
        if not way.takes_python:
            return build
        check = CONSTRUCTION.hook(annotation)

        def parse(value: Any, _: Any = None) -> Any:
            return check(value, None) if type(value) is cls else build(value, None)

        return parse

    return _Shape(
        frozenset({"object"}),
        structure,
        lambda way: encode_record(_encoders_of(fields, way), taken=cls, label=label, is_dict=False),
        types=frozenset({cls}),
        mutable=not _is_frozen(cls),
        parts=tuple(field.type for field in fields),
    )


def _is_frozen(cls: Any) -> bool:
    if attrs.has(cls):
        return cls.__setattr__.__name__ == "_frozen_setattrs"
    return bool(cls.__dataclass_params__.frozen)


def _hooks_of(fields: Iterable[Field], way: _Way) -> Fields:
    return tuple((field, way.hook(field.type)) for field in fields)


def _encoders_of(fields: Iterable[Field], way: _Way) -> Fields:
    return tuple((field, way.encoder(field.type)) for field in fields)


def _class_fields(annotation: Any) -> tuple[Field, ...]:
    cls = get_origin(annotation) or annotation
    hints, arguments = _hints(cls), _type_arguments(annotation)
    return tuple(
        _field(name, key, _substituted(hints.get(name, declared), arguments), required, f".{key}")
        for name, key, declared, required in _init_fields(cls)
    )


def _init_fields(cls: Any) -> Iterator[tuple[str, str, Any, bool]]:
    """Name, name of the argument, type as declared, and whether it is required."""
    if attrs.has(cls):
        for one in attrs.fields(cls):
            if one.init:
                declared = Any if one.type is None else one.type
                yield one.name, one.alias or one.name, declared, one.default is attrs.NOTHING
        return
    for field in dataclasses.fields(cls):
        if field.init:
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            yield field.name, field.name, field.type, required


def _typed_dict_fields(annotation: Any) -> tuple[Field, ...]:
    cls: Any = get_origin(annotation) or annotation
    arguments = _type_arguments(annotation)
    return tuple(
        _field(key, key, _substituted(hint, arguments), _is_required(cls, key, hint), step(key))
        for key, hint in _hints(cls).items()
    )


def _is_required(cls: Any, key: str, hint: Any) -> bool:
    while get_origin(hint) is Annotated or _special_name(get_origin(hint)) in _QUALIFIERS:
        if _special_name(get_origin(hint)) in {"Required", "NotRequired"}:
            return _special_name(get_origin(hint)) == "Required"
        hint = get_args(hint)[0]
    # asked last: it does not know a Required or NotRequired that was text when the class was made
    return key in cls.__required_keys__


def _field(name: str, key: str, annotation: Any, required: bool, path: str) -> Field:
    return Field(name, key, annotation, label_of(annotation), required, path)


def _hints(cls: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except NameError:
        pass
    # a class inside of a function does not find its own name, text not the variables of ``class Box[T]``
    variables = {variable.__name__: variable for variable in getattr(cls, "__type_params__", ())}
    try:
        return typing.get_type_hints(cls, localns={**vars(cls), **variables, cls.__name__: cls}, include_extras=True)
    except NameError as error:
        raise DeclarationError(
            f"{cls.__qualname__} has an annotation with the name {error.name!r}, which does not exist at run time. "
            "Import it outside of `if TYPE_CHECKING:`, or define it at the top of its module."
        ) from error


def _type_arguments(annotation: Any) -> dict[Any, Any]:
    """What the type variables of a generic class and of its bases stand for."""
    cls = get_origin(annotation) or annotation
    arguments = dict(zip(getattr(cls, "__parameters__", ()), get_args(annotation), strict=False))
    for base in getattr(cls, "__orig_bases__", ()):
        inherited = _type_arguments(base).items()
        arguments |= {variable: _substituted(argument, arguments) for variable, argument in inherited}
    return arguments


def _substituted(annotation: Any, arguments: Mapping[Any, Any]) -> Any:
    if isinstance(annotation, TypeVar):
        return arguments.get(annotation, annotation)
    variables = getattr(annotation, "__parameters__", ()) if get_origin(annotation) is not None else ()
    return annotation[tuple(arguments.get(variable, variable) for variable in variables)] if variables else annotation


# unions


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _union_shape(annotation: Any) -> _Shape:
    label = label_of(annotation)
    # an int belongs to int where there is one; what takes everything comes last
    members = sorted(
        ((member, _shape_of(member)) for member in dict.fromkeys(_members(annotation))),
        key=lambda member: (member[0] is float, not member[1].kinds),
    )
    records = [member for member, _ in members if _shape_reader(member) is _record_shape]
    tags = {member: (get_origin(member) or member).__name__ for member in records} if len(records) > 1 else {}
    _refuse_clashes(label, members, tags)
    wanted = " or ".join(label_of(member) for member in _members(annotation))
    or_none = any(member is NoneType for member, _ in members)

    def structure(way: _Way) -> Hook:
        by_type: dict[type, Hook] = {}
        others: list[Hook] = []
        for member, shape in members:
            hook = way.hook(member)
            for cls in way.types_of(shape):
                by_type.setdefault(cls, hook)
            if shape.is_open and way.takes_python:
                others.append(hook)
        if tags and way.takes_json:
            by_type[dict] = take_tagged({tag: way.hook(member) for member, tag in tags.items()})
        return take_union(by_type, others, wanted=wanted, or_none=or_none)

    def encode(way: _Way) -> Hook:
        by_type: dict[type, Hook] = {}
        others: list[tuple[Hook, Hook]] = []
        for member, shape in members:
            hook = way.encoder(member)
            hook = encode_tagged(tags[member], hook) if member in tags else hook
            for cls in shape.types:
                by_type.setdefault(cls, hook)
            if shape.is_open:
                others.append((CONSTRUCTION.hook(member), hook))
        return encode_union(by_type, others, label=label)

    kinds = frozenset[str]().union(*(shape.kinds for _, shape in members))
    return _Shape(kinds, structure, encode, parts=tuple(member for member, _ in members))


def _members(annotation: Any) -> Iterator[Any]:
    for member in map(unwrapped, get_args(annotation)):
        if _is_union(member):
            yield from _members(member)
        else:
            yield member


def _refuse_clashes(label: str, members: list[tuple[Any, _Shape]], tags: Mapping[Any, str]) -> None:
    for (one, one_shape), (other, other_shape) in itertools.combinations(members, 2):
        names = f"{label_of(one)} and {label_of(other)}"
        if one in tags and other in tags:
            if tags[one] == tags[other]:
                raise DeclarationError(
                    f"{label} cannot be: the classes {names} have the same name, which tells them apart in JSON. "
                    "Rename one of them."
                )
            continue
        shared = _without_ints(one_shape.kinds) & _without_ints(other_shape.kinds) - {"null"}
        if shared and {one, other} != {int, float}:
            raise DeclarationError(
                f"{label} cannot be: {names} can both be a JSON {min(shared)}, so a stored value could be either. "
                "Use one type, or wrap one of them in a class (attrs or dataclass)."
            )


def _without_ints(kinds: frozenset[str]) -> frozenset[str]:
    return kinds - {"integer"} | {"number"} if "integer" in kinds else kinds


# registered types, and all that has no JSON form


@attrs.frozen
class _Registration:
    to_json: Callable[[Any], Any]
    from_json: Callable[[Any], Any]


_registered: dict[type, _Registration] = {}
_lock = threading.RLock()


def _is_registered(annotation: Any) -> bool:
    return annotation in _registered


def _registered_shape(annotation: Any) -> _Shape:
    registration, label = _registered[annotation], label_of(annotation)

    def check(value: Any, _: Any = None) -> Any:
        if isinstance(value, annotation):
            return value
        raise misfit(label, value)

    def decode(value: Any, _: Any = None) -> Any:
        try:
            made = registration.from_json(value)
        except Exception as error:
            raise misfit(f"{label} as JSON", value) from error
        return check(made)

    def parse(value: Any, _: Any = None) -> Any:
        return value if isinstance(value, annotation) else decode(value)

    def encode(value: Any) -> Any:
        if not isinstance(value, annotation):
            raise changed(value, label)
        return _made_json(label, registration.to_json, value)

    return _Shape(
        _KINDS - {"null"}, _by_way(check, decode, parse), lambda _: encode, frozenset({annotation}), is_open=True
    )


def _made_json(label: str, to_json: Callable[[Any], Any], value: Any) -> Any:
    try:
        made = plain_json(to_json(value))
    except NotSerializable as error:
        raise NotSerializable(f"has no plain JSON form: in what to_json of {label} gives, {error}") from None
    except Exception as error:
        raise NotSerializable(f"has no JSON form: to_json of {label} raised {type(error).__name__}") from error
    if made is None:
        raise NotSerializable(f"has no JSON form: to_json of {label} gives None, which stands for no value")
    return made


def _is_opaque(annotation: Any) -> bool:
    return True


def _opaque_shape(annotation: Any) -> _Shape:
    cls: Any = get_origin(annotation) or annotation
    if not isinstance(cls, type) and not _special_name(annotation):
        raise DeclarationError(
            f"{shown(annotation)} is not a type. Annotate with a class (int) or a typing form (list[int])."
        )
    label = label_of(annotation)
    cls = cls if _can_be_asked(cls) else object

    def check(value: Any, _: Any = None) -> Any:
        if isinstance(value, cls):
            return value
        raise misfit(label, value)

    def decode(value: Any, _: Any = None) -> Any:
        raise misfit(f"nothing, because {label} has no JSON form", value)

    def encode(value: Any) -> Any:
        raise NotSerializable(f"is declared as {label}, which has no JSON form: {_remedy(cls)}")

    return _Shape(frozenset(), _by_way(check, decode, check), lambda _: encode, is_open=True)


def _can_be_asked(cls: Any) -> bool:
    """True for a class whose isinstance is to be trusted: no file is a `typing.IO`."""
    try:
        isinstance(None, cls)
    except TypeError:
        return False
    return bool(cls.__module__ != "typing")


def _remedy(cls: type) -> str:
    if cls.__module__ == "collections.abc" and issubclass(cls, collections.abc.Iterable):
        return "declare a type with one, such as list[int], tuple[int, ...] or dict[str, int]"
    return "pass an id or a path, or give it one with dexpy.register_type"


# ---------------------------------------------------------------------------------------- the recipe

_FAMILIES: tuple[tuple[Callable[[Any], bool], _Reader], ...] = (
    (_is_registered, _registered_shape),
    (_is_scalar, _scalar_shape),
    (_is_anything, _anything_shape),
    (_is_enum, _enum_shape),
    (_is_literal, _literal_shape),
    (_is_union, _union_shape),
    (_is_array, _array_shape),
    (_is_tuple, _tuple_shape),
    (_is_dict, _dict_shape),
    (_is_typed_dict, _typed_dict_shape),
    (_is_record, _record_shape),
    (_is_opaque, _opaque_shape),
)
"""What an annotation can be, the first that fits wins; the same for all three converters."""

STORED = _Way(takes_python=False, takes_json=True)
CONSTRUCTION = _Way(takes_python=True, takes_json=False)
OUTSIDE = _Way(takes_python=True, takes_json=True)

converter = STORED.converter
"""The cattrs converter of stored JSON: ``structure`` and ``unstructure`` as jobs use them."""


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


def _all_inside(annotation: Any) -> tuple[list[_Shape], bool]:
    """The shapes of an annotation and of all inside it, and whether values may nest without end.

    Made before any hook, so that what cannot work is refused before cattrs has kept a part of it.
    """
    met: dict[Any, _Shape] = {}
    waiting, is_deep = [unwrapped(annotation)], False
    while waiting:
        current = waiting.pop()
        if current in met:
            is_deep = is_deep or bool(met[current].parts)
            continue
        met[current] = shape = _shape_of(current)
        is_deep = is_deep or _is_anything(current)
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
