"""The filters of a query over records, as SQL conditions.

Each raises `OptionsError` for an invalid value.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, cast

import sqlalchemy as sa

from dexpy.codec.codecs import InvalidValue
from dexpy.database.column_types import as_of
from dexpy.database.tables import records
from dexpy.foundation.errors import OptionsError, did_you_mean, listed
from dexpy.foundation.safe_text import class_path, is_plain_text, shortened
from dexpy.policies.options import check_in_utc
from dexpy.recording.json_members import LARGEST, member_is

ERRORS_MODULE = "dexpy.errors."
_LONGEST = timedelta(days=365 * 3000)


def is_operation(operation: Any) -> sa.ColumnElement[bool]:
    """Return the condition for runs of an operation class, under all of its names, or of one name."""
    if isinstance(operation, str):
        return text_is("operation", operation, "operation")
    contract = getattr(operation, "contract", None)
    if contract is None:
        raise OptionsError(f"where(operation=): expected an operation class or its name, got {shortened(operation)}.")
    names = (contract.name, *contract.aliases)
    return records.c.operation == names[0] if len(names) == 1 else records.c.operation.in_(names)


def text_is(column: str, value: object, filter_name: str) -> sa.ColumnElement[bool]:
    """Return the condition for runs with a text in a column, which is false for text that no database stores."""
    if not isinstance(value, str):
        raise OptionsError(f"where({filter_name}=): expected a str, got {type(value).__name__} {shortened(value)}.")
    return records.c[column] == value if is_plain_text(value) else sa.false()


def error_is(error: str | type[BaseException]) -> sa.ColumnElement[bool]:
    """Return the condition for runs with an error code or an exception class."""
    path = class_path(error) if isinstance(error, type) else error
    condition = text_is("error", path, "error")
    if not path.startswith(ERRORS_MODULE):
        return condition
    # Rows of earlier versions name these classes as members of `dexpy`.
    return sa.or_(condition, text_is("error", f"dexpy.{path.removeprefix(ERRORS_MODULE)}", "error"))


def actor_is(actor: Mapping[str, Any] | str) -> list[sa.ColumnElement[bool]]:
    """Return the conditions for the runs of an actor, by its type, or by type and id."""
    by_type: Any = {"type": actor} if isinstance(actor, str) else actor
    if not isinstance(by_type, Mapping):
        raise OptionsError(
            f"where(actor=): expected a type, or a mapping with 'type' and 'id', got {shortened(actor)}."
        )
    description = cast("Mapping[str, Any]", by_type)
    conditions = [text_is("actor_type", str(description.get("type")), "actor")]
    if description.get("id") is not None:
        conditions.append(text_is("actor_id", str(description["id"]), "actor"))
    return conditions


def check_attempts(value: object, filter_name: str) -> int:
    """Return a checked number of attempts."""
    if type(value) is not int or not -(2**31) <= value < 2**31:
        raise OptionsError(f"where({filter_name}=): expected an int below 2147483648, got {shortened(value)}.")
    return value


def check_choices(value: str | Collection[str], known: tuple[str, ...], filter_name: str) -> list[str]:
    """Return one choice or several, checked."""
    is_collection = isinstance(value, Collection) and not isinstance(value, (str, bytes))  # pyright: ignore[reportUnnecessaryIsInstance]
    choices: list[Any] = [*value] if is_collection else [value]
    for choice in choices:
        if choice not in known:
            raise OptionsError(
                f"where({filter_name}=): unknown {filter_name} {shortened(choice)}; expected one of {listed(known)}."
                f"{did_you_mean(choice, known)}"
            )
    return choices


def check_moment(value: datetime | timedelta, filter_name: str) -> Any:
    """Return an aware datetime unchanged, and for a timedelta the time that long ago by the database's clock."""
    if isinstance(value, timedelta):
        if abs(value) >= _LONGEST:
            raise OptionsError(f"where({filter_name}=): expected a timedelta of less than 3000 years, got {value!r}.")
        return as_of(-value.total_seconds())
    if not isinstance(value, datetime):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionsError(
            f"where({filter_name}=): expected an aware datetime, or a timedelta back from now, got {shortened(value)}."
        )
    if value.tzinfo is None or value.utcoffset() is None:
        raise OptionsError(
            f"where({filter_name}=): expected an aware datetime, got naive {value!r}. "
            "Give it a time zone, or pass a timedelta."
        )
    check_in_utc(value, f"where({filter_name}")
    return value


def param_is(operation: Any, name: str, value: Any) -> sa.ColumnElement[bool]:
    """Return the condition for runs with a value of a prop."""
    contract = getattr(operation, "contract", None)
    if contract is not None:
        props = {prop.name: prop for prop in contract.props}
        if name not in props:
            raise OptionsError(
                f"where(params=): {contract.name}: unknown prop {shortened(name)}.{did_you_mean(name, props)}"
            )
        if name in contract.encrypted_props:
            raise OptionsError(
                f"where(params=): {contract.name}.{name} is encrypted, so the database cannot compare it. "
                "Filter by a prop that is not encrypted."
            )
        try:
            value = props[name].codec.encode(props[name].codec.parse(value))
        except InvalidValue as invalid:
            problems = "; ".join(str(problem.under("." + name)) for problem in invalid.problems)
            raise OptionsError(f"where(params=): {contract.name}: invalid params: {problems}.") from None
    if not is_plain_text(name) or (isinstance(value, str) and not is_plain_text(value)):
        # No database stores this text.
        return sa.false()
    if isinstance(value, (int, float)) and not abs(value) <= LARGEST:
        return sa.false()
    # The column is JSON, but its comparator is typed as that of any column.
    stored: Any = records.c.params[name]
    condition: sa.ColumnElement[bool]
    if value is None:
        condition = stored.as_string().is_(None)
    elif isinstance(value, (bool, int, float)):
        condition = member_is(stored, value)
    elif isinstance(value, str):
        condition = stored.as_string() == value
    else:
        raise OptionsError(
            f"where(params={{{name!r}: ...}}): expected text, a number, a boolean, None or a key, "
            f"got {type(value).__name__}."
        )
    return condition
