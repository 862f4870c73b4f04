"""Props: the typed inputs of an operation, and the construction, parsing, copying and encoding of their values.

Props are resolved at first use: models are often declared after the operations that refer to them.
The constructor is not that of attrs, because it reports all problems at once.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, cast

import attrs

from dexpy.codec.annotated_metadata import is_prop, merge_metadata, options_of, split_metadata
from dexpy.codec.attrs_fields import check_field
from dexpy.codec.codecs import Codec, InvalidValue, codec_at
from dexpy.codec.constraint_checks import checked_constraints
from dexpy.codec.constraints import OWN_NAME, PropOptions
from dexpy.codec.generics import arguments_of, substituted
from dexpy.codec.hints import class_annotations, resolve_annotation
from dexpy.codec.problems import invalid_value, shorten
from dexpy.declaration.class_definition import READ, refuse_qualifiers
from dexpy.declaration.misused_attributes import check_constructor
from dexpy.declaration.refs import Reference, mentions_reference, reference_kind, reference_of
from dexpy.foundation.context import current_context, forbid_propagation
from dexpy.foundation.errors import (
    SENSITIVE,
    DeclarationError,
    NotSerializable,
    Problem,
    PropsError,
    Undecodable,
    did_you_mean,
    listed,
)

MAX_HINTS = 10
"""The maximum number of unknown keys that are compared with the names of the props for a hint."""


def _check_of(prop: Prop) -> Callable[[Any], Any]:
    """Return the check of the values of a prop, including its constraints."""
    check, options = prop.codec.check, prop.options
    if not options.bounded:
        return check

    def checked(value: Any) -> Any:
        value = check(value)
        expected = options.problem(value)
        if expected is not None:
            raise invalid_value(expected, value)
        return value

    return checked


@attrs.frozen
class Prop:
    """A resolved prop of an operation.

    Attributes:
        name: Its name.
        type: Its annotation, resolved.
        codec: The codec that checks and encodes its values.
        options: The options of `prop(...)`.
        required: Whether it has no default.
        reference: The reference, if it is a `Ref`, `OptRef` or `Refs`.
        where: The place of its declaration, for messages.
        check: A function that returns a value as the operation stores it; raises `InvalidValue` with all problems.
    """

    name: str
    type: Any
    codec: Codec
    options: PropOptions
    required: bool
    reference: Reference | None
    where: str
    _default: Any
    check: Callable[[Any], Any] = attrs.field(
        init=False, repr=False, eq=False, default=attrs.Factory(_check_of, takes_self=True)
    )

    @property
    def key_name(self) -> str:
        """Its name in keys: the earliest one, so that keys do not change when it is renamed."""
        return next(iter(self.options.aliases), self.name)

    @property
    def has_factory(self) -> bool:
        """Whether a factory makes its default."""
        return isinstance(self._default, attrs.Factory)  # type: ignore[arg-type]

    def default(self) -> Any:
        """Return the checked default.

        Raises:
            DeclarationError: The default is invalid.
        """
        value, source = self._default, "default"
        if self.has_factory:
            value, source = value.factory(), "factory"
        try:
            return self.check(value)
        except InvalidValue as invalid:
            problems = (problem.hidden() if self.options.sensitive else problem for problem in invalid.problems)
            text = "; ".join(str(problem.under("." + self.name)) for problem in problems)
            raise DeclarationError(
                f"{self.where}: invalid {source}: {text}. Change the {source} or the type."
            ) from None

    def comparison_value(self, value: Any) -> Any:
        """Return a value for comparison: a reference as its key, and a value without a JSON form unchanged."""
        if self.reference is not None:
            return self.reference.comparison_value(value)
        try:
            return (json.dumps(self.codec.key(value), sort_keys=True),)
        except NotSerializable:
            return value

    def to_redacted_json(self, value: Any) -> Any:
        """Return a value as redacted JSON for people; as text if it has no JSON form."""
        if self.options.sensitive:
            return SENSITIVE
        try:
            return self.codec.encode(value)
        except NotSerializable:
            return self.display(value)

    def display(self, value: Any) -> str:
        """Return the text of a value for people, without secrets and without a query."""
        if self.options.sensitive:
            return SENSITIVE
        if self.reference is None or value is None:
            return repr(value)
        items = value if self.reference.many else [value]
        keys = [self.reference.display(item) for item in items]
        return f"[{', '.join(keys)}]" if self.reference.many else keys[0]


def resolve(cls: type) -> tuple[Prop, ...]:
    """Return the props of a class with resolved annotations.

    Raises:
        DeclarationError: A name in an annotation is undefined, a type is invalid, or a declaration does not fit its
            type.
    """
    check_constructor(cls)
    fields: tuple[attrs.Attribute[Any], ...] = attrs.fields(cls)
    props = tuple(_resolve_one(cls, field) for field in fields)
    _refuse_shared_names(cls.__qualname__, props)
    return props


def _resolve_one(cls: type, field: attrs.Attribute[Any]) -> Prop:
    owner = next(base for base in cls.__mro__ if field.name in class_annotations(base))
    where = f"{owner.__qualname__}.{field.name}"
    annotation = resolve_annotation(class_annotations(owner)[field.name], owner, where)
    refuse_qualifiers(annotation, where)
    annotation, early_metadata = split_metadata(annotation)
    annotation, late_metadata = split_metadata(substituted(annotation, {Self: cls, **arguments_of(cls, owner)}))
    # The class statement has read the metadata around the annotation, but not that of the type of a type variable.
    metadata = late_metadata if READ in field.metadata else [*late_metadata, *early_metadata]
    options, default = options_of(field), field.default
    if metadata:
        for item in filter(is_prop, metadata):
            check_field(item, where)
        options, default = merge_metadata(metadata, attrs.field(default=default, metadata=field.metadata), where)
    if options.context == OWN_NAME:
        options = attrs.evolve(options, context=field.name)
    reference = None
    if (kind := reference_kind(cast(object, annotation))) is not None:
        reference = reference_of(field.name, annotation, options.lock, owner.__qualname__, options.execution_options)
        codec = reference.form()
        descriptor: object = inspect.getattr_static(cls, field.name, None)
        if reference_kind(cast(object, type(descriptor))) is None:
            # It was unknown before: an alias declared below the class, or a type variable.
            # type.__setattr__, because the metaclass refuses changes to props.
            type.__setattr__(cls, field.name, kind(field.name))
    else:
        codec = _codec_of(annotation, options, where)
    options = attrs.evolve(options, sensitive=options.sensitive or codec.sensitive)
    if options.context is not None and options.sensitive:
        forbid_propagation(options.context, where)
    constrained_type = annotation if reference is None else list if reference.many else None
    try:
        options = checked_constraints(options, constrained_type, codec.label, codec.check)
    except DeclarationError as error:
        raise DeclarationError(f"{where}: {error}") from None
    resolved = Prop(field.name, annotation, codec, options, default is attrs.NOTHING, reference, where, default)
    if not resolved.required and not resolved.has_factory:
        resolved.default()
    return resolved


def _codec_of(annotation: Any, options: PropOptions, where: str) -> Codec:
    if (reference_class := mentions_reference(annotation)) is not None:
        raise DeclarationError(
            f"{where}: {reference_class.__name__}[...] is not supported inside another type. "
            "Write OptRef[Customer] for an optional reference, Refs[Customer] for a list."
        )
    if options.lock:
        raise DeclarationError(f"{where}: prop(lock=True) is only for references. Remove it, or write Ref[...].")
    if options.execution_options:
        raise DeclarationError(
            f"{where}: prop(execution_options=) is only for references. Remove it, or write Ref[...]."
        )
    return codec_at(annotation, where)


def _refuse_shared_names(owner: str, props: Sequence[Prop]) -> None:
    """Refuse an alias that is a name of another prop: a stored value would be ambiguous."""
    owners = {prop.name: prop.name for prop in props}
    for prop in props:
        for alias in prop.options.aliases:
            other = owners.setdefault(alias, prop.name)
            if other != prop.name:
                raise DeclarationError(
                    f"{owner}.{prop.name}: its alias {alias!r} is a name of the prop {other!r}. Remove the alias."
                )


def construct(owner: str, props: tuple[Prop, ...], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked values of the props of an operation.

    Raises:
        PropsError: Props are invalid; lists all problems.
    """
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    num_used = 0
    for prop in props:
        name = prop.name
        try:
            if name in arguments:
                num_used += 1
                values[name] = prop.check(arguments[name])
            elif (key := prop.options.context) is not None and key in (context := current_context()):
                values[name] = _from_context(prop, key, context[key])
            elif prop.required:
                problems.append(Problem("." + name, prop.codec.label, reason="missing"))
            else:
                values[name] = prop.default()
        except InvalidValue as invalid:
            problems += _prop_problems(prop, invalid)
    if num_used != len(arguments):
        problems += _unknown_problems(props, arguments)
    if problems:
        raise PropsError(owner, problems)
    return values


def _from_context(prop: Prop, key: str, value: Any) -> Any:
    try:
        return prop.check(value)
    except InvalidValue as invalid:
        where = f" as the context value {key!r}"
        raise InvalidValue(
            attrs.evolve(problem, expected=(problem.expected or "a valid value") + where)
            for problem in invalid.problems
        ) from None


def parse_props(owner: str, props: tuple[Prop, ...], data: Mapping[str, Any]) -> dict[str, Any]:
    """Parse the props in an external JSON object to Python values.

    Raises:
        PropsError: Props are invalid or unknown; lists all problems.
    """
    if not isinstance(data, Mapping):
        raise PropsError(owner, (), advice=f"parse() expected a mapping of props, got {type(data).__name__}.")
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for prop in props:
        try:
            if prop.name in data:
                values[prop.name] = prop.codec.parse(data[prop.name])
                prop.check(values[prop.name])
            elif prop.required and prop.options.context not in current_context():
                problems.append(Problem("." + prop.name, prop.codec.label, reason="missing"))
        except InvalidValue as invalid:
            problems += _prop_problems(prop, invalid)
    problems += _unknown_problems(props, data)
    if problems:
        raise PropsError(owner, problems)
    return values


def copy_props(owner: str, props: tuple[Prop, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the values of these props, with new containers.

    Raises:
        PropsError: A container was changed and contains an invalid item.
    """
    copies: dict[str, Any] = {}
    problems: list[Problem] = []
    for prop in props:
        try:
            copies[prop.name] = prop.codec.check(values[prop.name])
        except InvalidValue as invalid:
            problems += _prop_problems(prop, invalid)
    if problems:
        raise PropsError(owner, problems)
    return copies


def encode_props(owner: str, props: tuple[Prop, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    """Encode the props as a JSON object.

    Raises:
        NotSerializable: A prop has no JSON form; the error has its path.
    """
    data: dict[str, Any] = {}
    for prop in props:
        try:
            data[prop.name] = prop.codec.encode(values[prop.name])
        except NotSerializable as error:
            raise error.under("." + prop.name).of(owner) from None
    return data


def encode_key_props(owner: str, props: tuple[Prop, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    """Encode the props as JSON that is the same for equal values, by their names in keys.

    Raises:
        NotSerializable: A prop has no JSON form; the error has its path.
    """
    data: dict[str, Any] = {}
    for prop in props:
        try:
            data[prop.key_name] = prop.codec.key(values[prop.name])
        except NotSerializable as error:
            raise error.under("." + prop.name).of(owner) from None
    return data


def decode_props(owner: str, props: tuple[Prop, ...], data: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Decode the props in stored params to Python values; also return the keys that are not props.

    A missing key gets the prop's default.

    Raises:
        Undecodable: The stored params do not match the props.
    """
    if not isinstance(data, Mapping):
        raise Undecodable(owner, [Problem("", "a JSON object", type(data).__name__)])
    stored = cast("Mapping[str, Any]", data)
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    used: set[str] = set()
    for prop in props:
        key = prop.name
        if key not in stored:
            # The params may contain an earlier name.
            known = [alias for alias in prop.options.aliases if alias in stored]
            if not known:
                continue
            key = known[0]
        used.add(key)
        try:
            values[prop.name] = prop.codec.decode(stored[key])
        except InvalidValue as invalid:
            problems += _prop_problems(prop, invalid)
    if problems:
        raise Undecodable(owner, problems)
    return values, tuple(sorted(set(stored) - used))


def _prop_problems(prop: Prop, invalid: InvalidValue) -> list[Problem]:
    if prop.options.sensitive:
        # Without the path, because the keys of a dict are part of the value.
        return [attrs.evolve(problem.hidden(), path="." + prop.name) for problem in invalid.problems]
    return list(invalid.under("." + prop.name))


def _unknown_problems(props: tuple[Prop, ...], arguments: Mapping[str, Any]) -> list[Problem]:
    known = [prop.name for prop in props]
    expected = f"one of {listed(known)}" if known else ""
    reason = "unknown prop" if known else "unknown prop; the operation has no props"
    names = [name for name in arguments if name not in known]
    # Comparing names is slow, so that only the first keys get a hint.
    hints = [did_you_mean(str(name), known) for name in names[:MAX_HINTS]] + [""] * (len(names) - MAX_HINTS)
    return [
        Problem("." + shorten(str(name)), f"{expected}.{hint}" if hint else expected, reason=reason)
        for name, hint in zip(names, hints, strict=True)
    ]
