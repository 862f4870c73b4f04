"""Metadata in `Annotated`: a `prop(...)`, or constraints of annotated_types.

Metadata of other libraries is ignored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from types import NoneType
from typing import Annotated, Any, Optional, get_args, get_origin

import attrs

from dexpy.codec.attrs_fields import check_field
from dexpy.codec.constraints import MARK, PropOptions, prop
from dexpy.codec.generics import is_union
from dexpy.foundation.errors import DeclarationError

_BOUNDS_OF: Mapping[str, tuple[str, ...]] = {
    "Ge": ("ge",),
    "Gt": ("gt",),
    "Le": ("le",),
    "Lt": ("lt",),
    "Interval": ("ge", "gt", "le", "lt"),
    "MinLen": ("min_length",),
    "MaxLen": ("max_length",),
    "Len": ("min_length", "max_length"),
}
"""The constraints of annotated_types that dexpy supports."""
_WHOLE_PROP_OPTIONS = ("lock", "aliases", "context", "encrypted", "execution_options")
_IGNORED = frozenset({"DocInfo", "Unit"})


def is_prop(value: object) -> bool:
    """Return whether a value is the result of `prop(...)` or ``attrs.field(...)``."""
    return type(value).__name__ == "_CountingAttr"


def constraints_of(metadata: Iterable[Any]) -> list[PropOptions]:
    """Return the constraints in the metadata of a type inside a prop, a field or a result.

    Raises:
        DeclarationError: An option that is valid for a whole prop only, or unsupported metadata.
    """
    constraints: list[PropOptions] = []
    for item in metadata:
        options = read_options(item)
        if options is None:
            continue
        if is_prop(item):
            check_field(item, "Annotated[...]")
            _refuse_inside(item, options)
        if options.bounded or options.sensitive:
            constraints.append(options)
    return constraints


def _refuse_inside(marker: Any, options: PropOptions) -> None:
    misplaced = [name for name, _ in _explicit_options(options) if name in _WHOLE_PROP_OPTIONS]
    if marker._default is not attrs.NOTHING:
        misplaced.insert(0, "default")
    if misplaced:
        raise DeclarationError(
            f"prop({misplaced[0]}=...): valid for a whole prop only, not inside a type. "
            f"Write name: ... = prop({misplaced[0]}=...)."
        )


def read_options(item: Any) -> PropOptions | None:
    """Return the options in one piece of metadata; None for metadata of another library.

    Raises:
        DeclarationError: A constraint that dexpy does not support.
    """
    if isinstance(item, PropOptions):
        return item
    if is_prop(item):
        return options_of(item)
    if (
        item is prop
        or any(item is function for function in (attrs.field, dataclasses.field))
        or isinstance(item, dataclasses.Field)
    ):
        raise DeclarationError(f"Annotated[..., {item!r}]: not supported in a prop. Write the result of prop(...).")
    module, name = (type(item).__module__ or "").partition(".")[0], type(item).__name__
    if module == "annotated_types":
        if name in _BOUNDS_OF:
            bounds = {bound: getattr(item, bound) for bound in _BOUNDS_OF[name]}
            if bounds.get("min_length") == 0:
                del bounds["min_length"]
            return PropOptions(**bounds)
        if name in _IGNORED:
            return None
    elif module not in ("pydantic", "dexpy", "attr"):
        doc = getattr(item, "documentation", None) if name == "Doc" else None
        return PropOptions(desc=doc) if isinstance(doc, str) else None
    if module == "dexpy":
        raise DeclarationError(f"Annotated[..., {item!r}]: not supported in a prop. Write the result of prop(...).")
    raise DeclarationError(
        f"Annotated[..., {item!r}]: a constraint of {module} that dexpy does not support. "
        "Write prop(ge=..., pattern=..., choices=...) or a guard, or use a pydantic model."
    )


def options_of(field: Any) -> PropOptions:
    """Return the options of a `prop(...)`; the defaults for an ``attrs.field()``."""
    options: PropOptions = field.metadata.get(MARK) or PropOptions()
    return options


# ------------------------------------------------------------------------------------------- of a prop


def split_metadata(annotation: Any) -> tuple[Any, list[Any]]:
    """Return the type of a prop and its metadata: in Annotated, also behind an alias or beside None."""
    metadata: list[Any] = []
    if get_origin(annotation) is Annotated:
        wrapped, *metadata = get_args(annotation)
        annotation, inner_metadata = split_metadata(wrapped)
        return annotation, [*inner_metadata, *metadata]
    if type(annotation).__name__ == "TypeAliasType":
        value = _value_of(annotation)
        return split_metadata(value) if get_origin(value) is Annotated else (annotation, [])
    if is_union(annotation):
        members = [member for member in get_args(annotation) if member is not NoneType]
        if len(members) == 1:
            wrapped, metadata = split_metadata(members[0])
            return (_or_none(wrapped), metadata) if metadata else (annotation, [])
    return annotation, []


def _or_none(inner: Any) -> Any:
    return Optional[inner]  # noqa: UP045 - not every typing form has an operator


def _value_of(alias: Any) -> Any:
    try:
        return alias.__value__
    except Exception:  # noqa: BLE001 - reported when the alias is read as a type
        return None


def merge_metadata(metadata: Iterable[Any], field: Any, where: str) -> tuple[PropOptions, Any]:
    """Return the options and the default of a prop, from its metadata and its ``= prop(...)``.

    Raises:
        DeclarationError: An option or the default is declared twice.
    """
    options, default = PropOptions(), attrs.NOTHING
    for item in (*metadata, field):
        try:
            item_options = read_options(item)
        except DeclarationError as error:
            raise DeclarationError(f"{where}: {error}") from None
        if item_options is None:
            continue
        options = _merge_options(options, item_options, where)
        item_default = item._default if is_prop(item) else attrs.NOTHING
        if item_default is not attrs.NOTHING:
            if default is not attrs.NOTHING:
                raise DeclarationError(
                    f"{where}: its default is declared twice, in Annotated and at the prop. Remove one of them."
                )
            default = item_default
    return options, default


def _merge_options(first: PropOptions, second: PropOptions, where: str) -> PropOptions:
    values = dict(_explicit_options(first))
    for name, value in _explicit_options(second):
        if name in values and values[name] != value and name != "desc":
            raise DeclarationError(
                f"{where}: {name} is declared twice, as {values[name]!r} and as {value!r}. Remove one of them."
            )
        values[name] = value
    return PropOptions(**values)


def _explicit_options(options: PropOptions) -> Iterator[tuple[str, Any]]:
    for field in attrs.fields(PropOptions):
        value = getattr(options, field.name)
        if value is not field.default and value != field.default:
            yield field.name, value
