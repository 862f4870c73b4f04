"""The columns of the application in the table of records: their definition, their values and their filters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, timezone
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.types import TypeEngine

from dexpy.database.column_types import UtcDateTime
from dexpy.database.table_layout import own_columns
from dexpy.database.tables import Key, records
from dexpy.declaration.contract import Contract
from dexpy.declaration.props import encode_props
from dexpy.foundation.context import current_context, secret_owner
from dexpy.foundation.errors import SENSITIVE, ConfigurationError, NotSerializable, OptionsError, did_you_mean, listed
from dexpy.foundation.safe_text import is_plain_text, shortened
from dexpy.policies.record_column import RecordColumn

MAX_INTEGER = 2**63 - 1
_SQL_TYPES: Mapping[type[object], type[TypeEngine[Any]]] = {
    int: sa.BigInteger,
    bool: sa.Boolean,
    date: sa.Date,
    datetime: UtcDateTime,
}


class _NoValueError(ValueError):
    """A value that does not fit into its column."""


def check_columns(columns: Sequence[RecordColumn], reserved: Collection[str]) -> tuple[RecordColumn, ...]:
    """Return the columns of ``configure(record_columns=...)``, checked.

    Args:
        columns: The columns.
        reserved: Names that records or their filters have already.

    Raises:
        ConfigurationError: A column is invalid, or its name is taken.
    """
    own = {column.name for column in own_columns()}
    taken = {*reserved, *(column.name for column in records.c)} - own
    for column in columns:
        if not isinstance(column, RecordColumn):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"configure(record_columns=...): expected RecordColumn objects, got {shortened(column)}."
            )
        if column.name in taken:
            raise ConfigurationError(
                f"RecordColumn({column.name!r}): records already have this name, or it is used twice. "
                f"Rename it, for example to 'app_{column.name}'."
            )
        taken.add(column.name)
    return tuple(columns)


def table_columns(columns: Sequence[RecordColumn]) -> tuple[sa.Column[Any], ...]:
    """Return new columns of SQLAlchemy."""
    return tuple(sa.Column(column.name, _sql_type(column), info={"has_index": column.index}) for column in columns)


def _sql_type(column: RecordColumn) -> Any:
    if column.type is str:
        return Key(column.length)
    if column.type is UUID:
        # MariaDB and MySQL differ, and a driver's name does not tell which one it is.
        return sa.Uuid(native_uuid=False).with_variant(sa.Uuid(), "postgresql")
    return _SQL_TYPES[column.type]()


def column_values(
    columns: Sequence[RecordColumn],
    owner: str,
    contract: Contract,
    params: Mapping[str, Any],
    context: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the values of the application's columns for a run.

    Args:
        columns: The columns.
        owner: The name of the class, for errors.
        contract: The contract of the class.
        params: Its props as JSON, not encrypted.
        context: The context values; None for the current ones.

    Raises:
        OptionsError: A value does not fit, or belongs to a sensitive prop.
    """
    values: dict[str, Any] = {}
    context = current_context() if context is None else context
    for column in columns:
        name = column.prop or column.name
        is_secret, secret = name in contract.sensitive_props or name in contract.encrypted_props, f"{owner}.{name}"
        if name in params:
            value = params[name]
        else:
            name = column.context or column.name
            value, secret = context.get(name), secret_owner(name)
            is_secret = value is not None and secret != ""
        if is_secret and not column.sensitive:
            raise OptionsError(
                f"{owner}: column {column.name!r} would store the value of {secret}, which is sensitive, unencrypted. "
                f"Pass another source to RecordColumn({column.name!r}), or sensitive=True to allow it."
            )
        try:
            values[column.name] = converted(column, value)
        except _NoValueError:
            shown = SENSITIVE if is_secret or column.sensitive else shortened(value)
            raise OptionsError(
                f"{owner}: column {column.name!r}: expected {column.expected}, got {shown}. Nothing was stored."
            ) from None
    return values


def readable_params(operation: Any, contract: Contract) -> Mapping[str, Any]:
    """Return those props of an operation as JSON that have a JSON form; a synchronous run accepts others too."""
    params: dict[str, Any] = {}
    for prop in contract.props:
        with suppress(NotSerializable):
            params |= encode_props(contract.cls.__qualname__, (prop,), operation.__dict__)
    return params


def values_or_null(
    columns: Sequence[RecordColumn], contract: Contract, params: Mapping[str, Any], context: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values for a run that was enqueued before; null for a value that does not fit."""
    values: dict[str, Any] = {}
    for column in columns:
        try:
            values |= column_values((column,), contract.name, contract, params, context)
        except OptionsError:
            values[column.name] = None
    return values


def converted(column: RecordColumn, value: Any) -> Any:
    """Return a value of a prop in JSON, or a Python value, as the value of a column.

    Raises:
        ValueError: The value does not fit.
    """
    if value is None:
        return None
    try:
        result = _parsed(column.type, value)
    except (ValueError, OverflowError):
        raise _NoValueError from None
    if type(result) is not column.type:
        raise _NoValueError
    if isinstance(result, str) and (len(result) > column.length or not is_plain_text(result)):
        raise _NoValueError
    if isinstance(result, int) and not -MAX_INTEGER <= result <= MAX_INTEGER:
        raise _NoValueError
    return result


def _parsed(kind: type[Any], value: Any) -> Any:
    if isinstance(value, datetime) and kind is datetime:
        if value.utcoffset() is None:
            raise _NoValueError
        return value.astimezone(timezone.utc)
    if not isinstance(value, str):
        return value
    if kind is datetime:
        return _parsed(kind, datetime.fromisoformat(value))
    if kind is date:
        return date.fromisoformat(value)
    # A subclass of str, such as a member of StrEnum, is text.
    return UUID(value) if kind is UUID else str.__str__(value)


def as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a row in which those of the application are JSON."""
    own = {column.name: row[column.name] for column in own_columns() if column.name in row}
    texts = {name: value.isoformat() for name, value in own.items() if isinstance(value, date)}
    return {**row, **texts, **{name: str(value) for name, value in own.items() if isinstance(value, UUID)}}


def from_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a row that `as_json` returned, without those that this process does not declare."""
    values = {name: value for name, value in row.items() if name in records.c}
    for column in own_columns():
        text = values.get(column.name)
        kind: Any = datetime if isinstance(column.type, UtcDateTime) else column.type.python_type
        if isinstance(text, str) and kind is not str:
            values[column.name] = UUID(text) if kind is UUID else kind.fromisoformat(text)
    return values


def column_filters(
    columns: Sequence[RecordColumn], values: Mapping[str, Any], known: Collection[str]
) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of ``records.where(tenant="acme")``.

    Args:
        columns: The columns of the application.
        values: The values by name; None for rows without a value, a list or tuple for several values.
        known: The names of the other filters, for a suggestion.

    Raises:
        OptionsError: No column has the name, or the value has another type.
    """
    by_name = {column.name: column for column in columns}
    conditions: list[sa.ColumnElement[bool]] = []
    for name, value in values.items():
        column = by_name.get(name)
        if column is None:
            names = [*known, *by_name]
            raise OptionsError(
                f"where({name}=): unknown filter; expected one of {listed(names)}.{did_you_mean(name, names)}"
            )
        several: list[Any] = [*value] if isinstance(value, (list, tuple, set, frozenset)) else [value]
        try:
            wanted = [converted(column, each) for each in several]
        except _NoValueError:
            raise OptionsError(f"where({name}=): expected {column.expected}, got {shortened(several)}.") from None
        stored = records.c[name]
        is_any = stored.in_([each for each in wanted if each is not None])
        conditions.append(sa.or_(is_any, stored.is_(None)) if None in wanted else is_any)
    return conditions
