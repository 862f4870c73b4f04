"""Filters of a query over records: what was given, checked, as conditions of the database.

Each refuses what cannot be with an `OptionsError`.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from dexpy.declaration.forms import Misfit
from dexpy.foundation.errors import OptionsError, did_you_mean, listed
from dexpy.recording.metadata import as_of
from dexpy.recording.tables import records


def is_operation(operation: Any) -> sa.ColumnElement[bool]:
    """Runs of an operation class, under all of its names, or of one name."""
    if isinstance(operation, str):
        return records.c.name == operation
    contract = getattr(operation, "contract", None)
    if contract is None:
        raise OptionsError(f"where(operation={operation!r}) wants an operation class or its name.")
    names = (contract.name, *contract.aliases)
    return records.c.name == names[0] if len(names) == 1 else records.c.name.in_(names)


def words(given: str | Collection[str], known: tuple[str, ...], filter_name: str) -> list[str]:
    """One word or several, of those that there are."""
    found = [given] if isinstance(given, str) else list(given)
    for word in found:
        if word not in known:
            raise OptionsError(
                f"where({filter_name}={word!r}): there is no such {filter_name}. They are {listed(known)}."
                f"{did_you_mean(word, known)}"
            )
    return found


def moment(given: datetime | timedelta, filter_name: str) -> Any:
    """An aware moment, or the one so long before now by the database's clock."""
    if isinstance(given, timedelta):
        return as_of(-given.total_seconds())
    if not isinstance(given, datetime):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionsError(f"where({filter_name}={given!r}) wants an aware datetime, or a timedelta back from now.")
    if given.tzinfo is None:
        raise OptionsError(f"where({filter_name}={given!r}) is naive. Say which zone, or give a timedelta.")
    return given


def param_is(operation: Any, name: str, value: Any) -> sa.ColumnElement[bool]:
    """Runs that were given this value for this prop."""
    contract = getattr(operation, "contract", None)
    if contract is not None:
        props = {one.name: one for one in contract.props}
        if name not in props:
            raise OptionsError(f"where(params=): {contract.name} has no prop {name!r}.{did_you_mean(name, props)}")
        if name in contract.sealed_props:
            raise OptionsError(
                f"where(params=): {contract.name}.{name} is stored encrypted, so that no database can compare it. "
                "Give a prop that is not, or idempotence tokens and keys of your own."
            )
        try:
            value = props[name].form.encode(props[name].form.parse(value))
        except Misfit as misfit:
            wanted = "; ".join(str(problem.under("." + name)) for problem in misfit.problems)
            raise OptionsError(f"where(params=): {contract.name} has no run with such params: {wanted}.") from None
    # The column is JSON, and the comparator of JSON is typed as that of any column.
    stored: Any = records.c.params[name]
    same: sa.ColumnElement[bool]
    if value is None:
        same = stored.as_string().is_(None)
    elif isinstance(value, bool):
        same = stored.as_boolean() == value
    elif isinstance(value, int):
        same = stored.as_integer() == value
    elif isinstance(value, float):
        same = stored.as_float() == value
    elif isinstance(value, str):
        same = stored.as_string() == value
    else:
        raise OptionsError(
            f"where(params={{{name!r}: ...}}) compares text, numbers, booleans, None and keys, "
            f"not {type(value).__name__}."
        )
    return same
