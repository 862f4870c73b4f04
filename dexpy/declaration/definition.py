"""The definition of a class: attrs keeps its fields, references become descriptors, and what cannot be is refused."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import attrs

from dexpy.declaration.hints import early_annotation, is_classvar
from dexpy.declaration.options import MARK, PropOptions, is_shared
from dexpy.declaration.refs import reference_kind
from dexpy.foundation.context import keep_secret
from dexpy.foundation.errors import DeclarationError, listed

RESERVED = frozenset(
    """
    acall after_commit async_ call callable check_cancelled clear_once concurrency contract discard_on each encrypt
    errors expires_in explain in_session is_callable lock max_lost on_error on_failure on_lost once parse perform
    record report_progress rescue_from retry_on run_id safe self session step steps timeout transaction unique
    """.split()
)
"""Names that a prop may not have: the methods and policies of an operation, and ``self``."""


def define(cls: type) -> None:
    """Make a class an attrs class of props, and its references descriptors.

    Raises:
        DeclarationError: A prop that cannot be: its name, its default, its place.
    """
    annotations: dict[str, Any] = vars(cls).get("__annotations__") or getattr(cls, "__annotations__", {})
    own = {
        name: early
        for name, annotation in annotations.items()
        if not is_classvar(early := early_annotation(annotation, cls), annotation)
    }
    for name in own:
        _check_name(cls, name)
    _check_bases(cls, own)
    try:
        attrs.define(cls, init=False, repr=False, frozen=True, slots=False, auto_attribs=True, eq=False, kw_only=True)
    except attrs.exceptions.UnannotatedAttributeError as error:
        names = ", ".join(sorted(name for name, value in vars(cls).items() if _is_field(value) and name not in own))
        raise DeclarationError(
            f"{cls.__qualname__}: {names or error} is a prop() without a type. "
            f"Write {names or 'name'}: int = prop(...)."
        ) from None
    for field in attrs.fields(cls):
        if field.name in own and is_shared(field.default):
            raise DeclarationError(
                f"{cls.__qualname__}.{field.name}: the default {field.default!r} would be shared by all operations. "
                f"Write prop(factory={type(field.default).__name__}) or a lambda."
            )
    for name, annotation in own.items():
        kind = reference_kind(annotation)
        if kind is not None:
            setattr(cls, name, kind(name))


def keep_ambient_secrets(cls: type, *, is_encrypted: bool) -> None:
    """Let no ambient value travel that one of the props of a class keeps secret.

    Args:
        cls: The class.
        is_encrypted: Whether it keeps all of them secret.
    """
    for field in attrs.fields(cls):
        options: PropOptions = field.metadata.get(MARK) or PropOptions()
        if options.context is not None and (options.sensitive or is_encrypted):
            keep_secret(options.context or field.name, f"{cls.__qualname__}.{field.name}")


def _is_field(value: object) -> bool:
    return type(value).__name__ == "_CountingAttr"


def _check_bases(cls: type, own: Collection[str]) -> None:
    """Refuse what would be silently ignored: a prop of a class that is no operation, a new value for an old prop."""
    for base in cls.__mro__[1:]:
        if not attrs.has(base):
            for name, value in vars(base).items():
                if _is_field(value):
                    raise DeclarationError(
                        f"{cls.__qualname__}: {base.__qualname__}.{name} is a prop(), and {base.__qualname__} is no "
                        f"Operation, so nobody would read it. Write: class {base.__name__}(Operation)."
                    )
            continue
        for field in attrs.fields(base):
            if field.name in vars(cls) and field.name not in own:
                raise DeclarationError(
                    f"{cls.__qualname__}.{field.name}: it is a prop of {base.__qualname__}, and would stay as it is "
                    f"there. Declare it with its type, {field.name}: ... = ..., or choose another name."
                )


def _check_name(cls: type, name: str) -> None:
    if name.startswith("_"):
        raise DeclarationError(
            f"{cls.__qualname__}.{name}: a prop's name cannot begin with an underscore. Write {name.lstrip('_')!r}, "
            "or ClassVar[...] for what is not a prop."
        )
    if name in RESERVED:
        raise DeclarationError(reserved_name(cls.__qualname__, name, "no prop"))


def reserved_name(owner: str, name: str, what: str) -> str:
    """The message for something that has a reserved name."""
    return (
        f"{owner}.{name}: {name!r} is a name that operations need themselves, so {what} can have it. "
        f"The reserved names are {listed(RESERVED)}. Choose another."
    )
