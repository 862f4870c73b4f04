"""The state machine with one transition that looks at nothing: no compare, only set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dexpy.recording.tables import STATUSES, records
from dexpy.recording.transitions import PREFIX, TRANSITIONS, apply


def applying_anyway(event: str, without: tuple[str, ...] = ()) -> Callable[..., Any]:
    """`apply`, with one event that every row allows, in any state and under any claim.

    Args:
        event: Of the state machine.
        without: Columns that it does not write any more.
    """
    named = TRANSITIONS[event]
    changes = {column: value for column, value in named.changes.items() if column not in without}
    update = attrs.evolve(named, sources=STATUSES, fenced=False, changes=changes).statement()
    read = sa.select(records).where(records.c.id == sa.bindparam("of"))

    def apply_anyway(connection: Connection, asked: str, id: str, **values: Any) -> Any:
        if asked != event:
            return apply(connection, asked, id, **values)
        changed = connection.execute(
            update, {f"{PREFIX}{name}": value for name, value in (values | {"id": id}).items()}
        )
        return connection.execute(read, {"of": id}).first() if changed.rowcount else None

    return apply_anyway
