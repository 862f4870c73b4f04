"""The definition of a class: its props become attrs fields, its references become descriptors."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import InitVar
from typing import Annotated, Any, Final, get_args, get_origin

import attrs

from dexpy.codec.annotated_metadata import is_prop, merge_metadata, split_metadata
from dexpy.codec.annotations import origin_of, special_name
from dexpy.codec.attrs_fields import OWN_FIELDS, check_field
from dexpy.codec.constraints import MARK, PropOptions, is_shared
from dexpy.codec.hints import class_annotations, early_annotation, is_classvar
from dexpy.declaration.misused_attributes import check_decorators, check_default, check_methods
from dexpy.declaration.refs import reference_kind
from dexpy.foundation.context import forbid_propagation
from dexpy.foundation.errors import DeclarationError, listed
from dexpy.policies.rate import Rate

POLICIES = frozenset(
    """
    async_ concurrency discard_on encrypt errors fair lock max_lost once record rescue_from retry_on pipeline schedule
    timeout transaction unique
    """.split()
)
"""The policies of a class, which are declared by a value; an annotation of one does not declare a prop."""

RATE = "rate"
"""The policy whose name a prop may have, such as an exchange rate; its class then has no rate limit."""

RESERVED = POLICIES | frozenset(
    """
    acall after_commit call callable check_cancelled clear_once contract each expires_in explain in_session is_callable
    on_error on_failure parse perform previous_scheduled_for replace report_progress run_id safe scheduled_for self
    session step to_dict
    """.split()
)
"""Names that a prop may not have: the methods and policies of an operation, and ``self``."""

READ = "dexpy.read"
"""Marks a field whose annotation could be read in full at the class statement."""
_FROM_BASE = ("__setattr__", "__delattr__", "__replace__")


def define(cls: type) -> None:
    """Make a class an attrs class of props, and its references descriptors.

    Raises:
        DeclarationError: The name, default or place of a prop is invalid.
    """
    check_decorators(cls)
    check_methods(cls)
    early = {name: early_annotation(annotation, cls) for name, annotation in class_annotations(cls).items()}
    prop_annotations = {
        name: annotation
        for name, (annotation, _) in early.items()
        if not (is_classvar(annotation, class_annotations(cls)[name]) or _is_policy(cls, name, annotation))
    }
    for name, annotation in prop_annotations.items():
        _check_name(cls, name)
        refuse_qualifiers(annotation, f"{cls.__qualname__}.{name}")
    _check_bases(cls, prop_annotations)
    untyped = ", ".join(
        sorted(name for name, value in vars(cls).items() if is_prop(value) and name not in prop_annotations)
    )
    if untyped:
        raise DeclarationError(
            f"{cls.__qualname__}: prop() without a type: {untyped}. Write {untyped}: int = prop(...)."
        )
    fields = {name: _field(cls, name, *early[name]) for name in prop_annotations}
    for name in fields:
        if name in vars(cls):
            delattr(cls, name)
    attrs.define(cls, these=fields, init=False, repr=False, frozen=True, slots=False, eq=False, kw_only=True)
    setattr(cls, OWN_FIELDS, attrs.fields(cls))
    for method in _FROM_BASE:
        # Otherwise the methods of attrs would hide those of `Operation`.
        if method in vars(cls):
            delattr(cls, method)
    for name, annotation in prop_annotations.items():
        kind = reference_kind(split_metadata(annotation)[0])
        if kind is not None:
            setattr(cls, name, kind(name))


def why_no_contract(cls: type, base: type) -> str:
    """Return why a class has no contract: it is `Operation`, or an `__init_subclass__` does not call super().

    Args:
        cls: The class.
        base: `Operation`.
    """
    if cls is base:
        return f"{cls.__qualname__} is the base class of all operations and has no contract."
    bases = cls.__mro__[1 : cls.__mro__.index(base)]
    hooks = [base_class.__qualname__ for base_class in bases if "__init_subclass__" in vars(base_class)]
    return (
        f"{cls.__qualname__}: the class was not registered, because "
        f"{' or '.join(f'{base_class}.__init_subclass__' for base_class in hooks) or 'an __init_subclass__'} does not "
        "call super(). Write super().__init_subclass__(**keywords) in it."
    )


def _field(cls: type, name: str, annotation: Any, is_complete: bool) -> Any:
    """Return the attrs field of a prop, from its annotation and its value in the class body."""
    where = f"{cls.__qualname__}.{name}"
    value = vars(cls).get(name, attrs.NOTHING)
    check_default(value, where)
    field = value if is_prop(value) else attrs.field(default=value)
    metadata = split_metadata(annotation)[1] if is_complete else []
    for item in (field, *filter(is_prop, metadata)):
        check_field(item, where)
    options, default = merge_metadata(metadata, field, where)
    if is_shared(default):
        raise DeclarationError(
            f"{where}: the default {default!r} would be shared by all operations. "
            f"Write prop(factory={type(default).__name__}), or pass a lambda."
        )
    prop_metadata = {MARK: options, READ: True} if is_complete else {MARK: options}
    return attrs.field(default=default, kw_only=True, metadata={**field.metadata, **prop_metadata})


def refuse_qualifiers(annotation: Any, where: str) -> None:
    """Refuse qualifiers that are for fields of other kinds of classes and have no meaning for a prop."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    name = "InitVar" if annotation is InitVar or type(annotation) is InitVar else special_name(origin_of(annotation))
    remedy = {
        "InitVar": "Declare a plain prop: every prop is an argument of the constructor",
        "Required": "Remove it: a prop without a default is required",
        "NotRequired": "Give the prop a default",
        "ReadOnly": "Remove it: every prop is read-only",
    }.get(name)
    if name == "Final" and annotation is Final:
        remedy = "Write Final[int] with a type, or ClassVar[int] for an attribute that is not a prop"
    if remedy is not None:
        raise DeclarationError(f"{where}: {name} has no meaning for a prop. {remedy}.")


def forbid_secret_propagation(cls: type, *, is_encrypted: bool) -> None:
    """Refuse to propagate context values that a prop of a class declares as secret.

    Args:
        cls: The class.
        is_encrypted: Whether the class encrypts all of its props.
    """
    for field in attrs.fields(cls):
        options: PropOptions = field.metadata.get(MARK) or PropOptions()
        if options.context is not None and (options.sensitive or is_encrypted):
            forbid_propagation(options.context or field.name, f"{cls.__qualname__}.{field.name}")


def _check_bases(cls: type, prop_names: Collection[str]) -> None:
    """Refuse declarations without effect: a prop of a class that is not an operation, a new value without a type."""
    for base in cls.__mro__[1:]:
        if not attrs.has(base):
            for name, value in vars(base).items():
                if is_prop(value):
                    raise DeclarationError(
                        f"{cls.__qualname__}: {base.__qualname__}.{name} is a prop() outside of an Operation, "
                        f"and would be ignored. Write class {base.__name__}(Operation)."
                    )
            continue
        for field in attrs.fields(base):
            if field.name in vars(cls) and field.name not in prop_names:
                raise DeclarationError(
                    f"{cls.__qualname__}.{field.name}: overrides a prop of {base.__qualname__} without a type, and "
                    f"would be ignored. Write {field.name}: ... = ..., or choose another name."
                )


def _is_policy(cls: type, name: str, annotation: Any) -> bool:
    """Return whether an annotation is for a policy: it has the name of one, and a value."""
    if name == RATE:
        return isinstance(vars(cls).get(name), Rate)
    if name not in POLICIES or name not in vars(cls):
        return False
    return not any(is_prop(item) for item in (vars(cls)[name], *split_metadata(annotation)[1]))


def _check_name(cls: type, name: str) -> None:
    if name.startswith("_"):
        raise DeclarationError(
            f"{cls.__qualname__}.{name}: invalid name of a prop; names must not begin with an underscore. "
            f"Write {name.lstrip('_')!r}, or ClassVar[...] for an attribute that is not a prop."
        )
    if name in RESERVED:
        raise DeclarationError(reserved_name(cls.__qualname__, name, "prop"))


def reserved_name(owner: str, name: str, kind: str) -> str:
    """Return the message for a prop, guard, callback or parameter that has a reserved name."""
    return (
        f"{owner}.{name}: a {kind} cannot have the reserved name {name!r}. Choose another name; the reserved ones are "
        f"{listed(RESERVED)}."
    )
