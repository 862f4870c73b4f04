"""The SQL that compares a member of a JSON column with a value, for each dialect."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

LARGEST = 2**63 - 1
"""The largest integer that each database compares."""


class number_is(FunctionElement[bool]):  # noqa: N801 - reads as a SQL function
    """Whether a member of a JSON column equals a number or a boolean; compares by type, or on PostgreSQL as text.

    Other records may have a text under the same name, which PostgreSQL fails to cast.
    """

    inherit_cache = True
    type = sa.Boolean()
    name = "dexpy_number_is"


def member_is(member: Any, value: float | bool) -> sa.ColumnElement[bool]:
    """Return the condition that a member of a JSON column equals a number or a boolean."""
    if isinstance(value, int) and not isinstance(value, bool):
        # As text, because a cast to a number reads "5x" as 5, or fails.
        condition: sa.ColumnElement[bool] = sa.cast(member.as_string(), sa.Text) == str(value)
        return condition
    typed = (member.as_boolean() if isinstance(value, bool) else member.as_float()) == value
    return number_is(typed, member.as_string() == json.dumps(value))


@compiles(number_is)
def _as_typed(element: Any, compiler: Any, **options: Any) -> str:
    typed, _ = element.clauses
    return f"({compiler.process(typed, **options)})"


@compiles(number_is, "postgresql")
def _as_text(element: Any, compiler: Any, **options: Any) -> str:
    _, text = element.clauses
    return f"({compiler.process(text, **options)})"
