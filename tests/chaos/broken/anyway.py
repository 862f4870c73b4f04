"""The state machine with one transition that has no conditions."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dexpy.database.tables import STATUSES, records
from dexpy.recording.transitions import PREFIX, TRANSITIONS, apply, is_applied


def apply_anyway(module: ModuleType, event: str, without: tuple[str, ...] = ()) -> None:
    """Let a module apply an event in any status and under any claim.

    Args:
        module: A module of dexpy that applies events.
        event: The name of the event.
        without: The columns that the event no longer writes.

    Raises:
        AttributeError: The module does not apply events, so that nothing would be disabled.
    """
    named = TRANSITIONS[event]
    changes = {column: value for column, value in named.changes.items() if column not in without}
    update = attrs.evolve(named, sources=STATUSES, fenced=False, changes=changes).statement()
    query = sa.select(records).where(records.c.id == sa.bindparam("of"))

    def is_applied_anyway(connection: Connection, applied_event: str, id: str, **values: Any) -> bool:
        if applied_event != event:
            return is_applied(connection, applied_event, id, **values)
        parameters = {f"{PREFIX}{name}": value for name, value in (values | {"id": id}).items()}
        return connection.execute(update, parameters).rowcount > 0

    def applied_anyway(connection: Connection, applied_event: str, id: str, **values: Any) -> Any:
        if applied_event != event:
            return apply(connection, applied_event, id, **values)
        if not is_applied_anyway(connection, applied_event, id, **values):
            return None
        return connection.execute(query, {"of": id}).first()

    ways = {"apply": applied_anyway, "is_applied": is_applied_anyway}
    used = [name for name in ways if hasattr(module, name)]
    if not used:
        raise AttributeError(
            f"{module.__name__} has no function {' or '.join(ways)}, so no guarantee can be disabled in it."
        )
    for name in used:
        setattr(module, name, ways[name])
