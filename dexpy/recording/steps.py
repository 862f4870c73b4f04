"""`operation_steps`: what a run has behind it, for its next attempt to go on from.

A row is written in the transaction whose effects it stands for, under the run's claim: both stay, or neither.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dexpy.foundation.errors import SENSITIVE
from dexpy.recording.deletion import DeleteByKey
from dexpy.recording.metadata import after, of_this_row
from dexpy.recording.sealing import is_sealed
from dexpy.recording.sqlite import take_write_lock
from dexpy.recording.tables import records, steps

if TYPE_CHECKING:
    from dexpy.recording.store import Store


@attrs.frozen
class KeptStep:
    """A step of a run, as it is kept.

    Attributes:
        name: The method's name, or the one that ``self.each`` was given.
        position: From 0, in the order in which the run came to them.
        finished: Whether it is over; a loop that is under way is not.
        cursor: How far a loop has come, as JSON; None for a step, and for a loop over nothing.
        value: What the step returned, as JSON.
        claim_token: Of the attempt that wrote it.
        updated_at: When.
    """

    name: str
    position: int
    finished: bool
    cursor: Any
    value: Any
    claim_token: int
    updated_at: datetime


@attrs.frozen
class Milestone:
    """What a run is about to have behind it.

    Attributes:
        name: Of the step.
        position: Of the step.
        is_new: Whether nothing is kept of it yet.
        finished: Whether it is over with this.
        cursor: An envelope with how far a loop has come; None where there is no cursor.
        value: An envelope with what the step returned; None for nothing.
    """

    name: str
    position: int
    is_new: bool
    finished: bool = True
    cursor: Any = None
    value: Any = None


_OF: Final = steps.c.record_id == sa.bindparam("p_id")
_INSERT: Final = sa.insert(steps).values(updated_at=after(0))
_UPDATE: Final = (
    sa.update(steps)
    .where(_OF, steps.c.position == sa.bindparam("p_position"))
    .values(
        finished=sa.bindparam("p_finished"),
        cursor=sa.bindparam("p_cursor", type_=steps.c.cursor.type),
        claim_token=sa.bindparam("p_token"),
        updated_at=after(0),
    )
)
_HELD: Final = (
    sa.select(records.c.id)
    .where(
        records.c.id == sa.bindparam("p_id"),
        of_this_row(records.c.claim_token == sa.bindparam("p_token"), records.c.status == "running"),
    )
    .with_for_update()
)
# As at the end of a run: a worker that freezes before the commit must not hold the row for ever.
_HELD_ARMED: Final = _HELD.add_columns(sa.func.set_config("idle_in_transaction_session_timeout", "10s", True))


def holds_claim(connection: Connection, record_id: str, claim_token: int) -> bool:
    """Whether a claim is in force, and stays so until the transaction ends: nobody takes it away meanwhile."""
    # Read under the write lock, or it may be gone before the first write of this transaction.
    take_write_lock(connection)
    query = _HELD_ARMED if connection.dialect.name == "postgresql" else _HELD
    return connection.execute(query, {"p_id": record_id, "p_token": claim_token}).first() is not None


def keep(connection: Connection, record_id: str, claim_token: int, milestone: Milestone) -> None:
    """Write what a run has behind it, in the transaction that it stands for."""
    if milestone.is_new:
        values = {
            "record_id": record_id,
            "position": milestone.position,
            "name": milestone.name,
            "finished": milestone.finished,
            "cursor": milestone.cursor,
            "value": milestone.value,
            "claim_token": claim_token,
        }
        connection.execute(_INSERT, values)
        return
    connection.execute(
        _UPDATE,
        {
            "p_id": record_id,
            "p_position": milestone.position,
            "p_finished": milestone.finished,
            "p_cursor": milestone.cursor,
            "p_token": claim_token,
        },
    )


def kept_of(store: Store, record_id: str) -> list[KeptStep]:
    """The steps that are kept of a run, in order; cursors and values are in their envelopes."""
    query = sa.select(steps).where(steps.c.record_id == record_id).order_by(steps.c.position)
    return [
        KeptStep(row.name, row.position, row.finished, row.cursor, row.value, row.claim_token, row.updated_at)
        for row in store.rows(query)
    ]


def shown_of(store: Store, record_id: str) -> list[KeptStep]:
    """The steps that are kept of a run, for people: what is encrypted is not shown."""
    return [
        attrs.evolve(step, cursor=_shown(step.cursor), value=_shown(step.value)) for step in kept_of(store, record_id)
    ]


def _shown(envelope: Any) -> Any:
    if is_sealed(envelope):
        return SENSITIVE
    return envelope.get("value") if isinstance(envelope, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]


def forget(connection: Connection, record_id: str) -> None:
    """Take back all that a run has behind it: it begins with its first step again."""
    connection.execute(DeleteByKey(steps).where(_OF), {"p_id": record_id})
