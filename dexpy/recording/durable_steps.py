"""`operation_steps`: the finished durable steps of a run, from which its next attempt continues.

A row is written in the transaction of the step's effects, under the run's claim: both are committed or neither.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dexpy.database.column_types import after, hide_from_planner
from dexpy.database.deletes import DeleteByKey
from dexpy.database.dialects import dialect_of
from dexpy.database.tables import records, steps
from dexpy.recording.checkpoints import Checkpoint

_BY_RECORD: Final = steps.c.record_id == sa.bindparam("p_id")
_INSERT: Final = sa.insert(steps).values(updated_at=after(0))
_UPDATE: Final = (
    sa.update(steps)
    .where(_BY_RECORD, steps.c.position == sa.bindparam("p_position"))
    .values(
        finished=sa.bindparam("p_finished"),
        cursor=sa.bindparam("p_cursor", type_=steps.c.cursor.type),
        claim_token=sa.bindparam("p_token"),
        updated_at=after(0),
    )
)
_LOCK_CLAIM: Final = (
    sa.select(records.c.id)
    .where(
        records.c.id == sa.bindparam("p_id"),
        hide_from_planner(records.c.claim_token == sa.bindparam("p_token"), records.c.status == "running"),
    )
    .with_for_update()
)
# A worker that freezes before the commit must not hold the row's lock without end.
_LOCK_CLAIM_WITH_TIMEOUT: Final = _LOCK_CLAIM.add_columns(
    sa.func.set_config("idle_in_transaction_session_timeout", "10s", True)
)


def holds_claim(connection: Connection, record_id: str, claim_token: int) -> bool:
    """Lock a claim until the transaction ends, and return whether it is in force."""
    # Without the write lock another transaction could end the claim before the first write of this one.
    dialect_of(connection).acquire_write_lock(connection)
    query = _LOCK_CLAIM_WITH_TIMEOUT if dialect_of(connection).ends_idle_transactions else _LOCK_CLAIM
    return connection.execute(query, {"p_id": record_id, "p_token": claim_token}).first() is not None


def write_checkpoint(connection: Connection, record_id: str, claim_token: int, checkpoint: Checkpoint) -> None:
    """Write the state of a step, in the transaction of its effects."""
    if checkpoint.is_new:
        values = {
            "record_id": record_id,
            "position": checkpoint.position,
            "name": checkpoint.name,
            "finished": checkpoint.finished,
            "cursor": checkpoint.cursor,
            "value": checkpoint.value,
            "claim_token": claim_token,
        }
        connection.execute(_INSERT, values)
        return
    connection.execute(
        _UPDATE,
        {
            "p_id": record_id,
            "p_position": checkpoint.position,
            "p_finished": checkpoint.finished,
            "p_cursor": checkpoint.cursor,
            "p_token": claim_token,
        },
    )


def delete_steps(connection: Connection, record_id: str) -> None:
    """Delete the steps of a run that starts again with its first step."""
    connection.execute(DeleteByKey(steps).where(_BY_RECORD), {"p_id": record_id})
