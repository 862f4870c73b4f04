"""The calls of hooks that are due: rows that are written in the transaction that ends a run.

A process that dies after this commit leaves the row, so that another process calls the hook.
Without hooks nothing is written.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any, Final

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.database.column_types import after, as_of, next_count
from dexpy.database.dialects import dialect_of
from dexpy.database.tables import hook_calls, records
from dexpy.foundation.ids import new_id
from dexpy.foundation.run_end import RunEnd
from dexpy.recording.installed_hooks import installed_hooks

_r, _c = records.c, hook_calls.c
_COPIED: Final = (
    "operation", "status", "failure", "error", "error_message", "queue", "num_attempts", "trace_id", "parent_id",
    "actor_type", "actor_id", "created_at", "started_at", "completed_at",
)  # fmt: skip
# A synchronous call gives its caller the exception; 0 is the limit of such a run.
_IS_IN_BACKGROUND: Final = sa.or_(_r.loss_limit.is_(None), _r.loss_limit != 0)


@functools.cache
def _insertion(is_lost: bool) -> sa.Insert:
    key, hook = (sa.bindparam(name, type_=_c[column].type) for name, column in (("p_key", "id"), ("p_hook", "hook")))
    copied = [_r[name] for name in _COPIED]
    query = sa.select(key, hook, _r.id, *copied).where(_r.id == sa.bindparam("p_id", type_=_r.id.type))
    # The caller of a synchronous call that was lost has died with it.
    if not is_lost:
        query = query.where(_IS_IN_BACKGROUND)
    return sa.insert(hook_calls).from_select(["id", "hook", "record_id", *_COPIED], query)


def store_calls(connection: Connection, event: str, id: str) -> None:
    """Store the calls of the hooks for the end of a run, which this transaction has written.

    Args:
        connection: The connection in the transaction.
        event: The event of the state machine.
        id: The record's id.
    """
    for hook in installed_hooks.called_for(event):
        connection.execute(_insertion(event == "lose"), {"p_key": new_id("hc"), "p_hook": hook, "p_id": id})


def store_call_of(connection: Connection, hook: str, end: RunEnd) -> None:
    """Store the call of a hook for a run that has no record."""
    values = attrs.asdict(end)
    columns = {name: values.get(name) for name in _COPIED}
    columns |= {"num_attempts": end.attempts, "created_at": after(0), "completed_at": after(0)}
    connection.execute(sa.insert(hook_calls).values(id=new_id("hc"), hook=hook, record_id=end.run_id, **columns))


def claim_call(connection: Connection, hooks: Collection[str], lease_s: float) -> Row[Any] | None:
    """Claim the oldest call that is due; None without one.

    Args:
        connection: A connection in a transaction.
        hooks: The hooks that this process has.
        lease_s: How long no other process makes the call, in seconds.
    """
    dialect_of(connection).acquire_write_lock(connection)
    row = connection.execute(_due(hooks).limit(1).with_for_update(skip_locked=True)).first()
    if row is not None:
        leased = {"leased_until": after(lease_s), "calls": next_count(_c.calls)}
        connection.execute(sa.update(hook_calls).where(_c.id == row.id).values(leased))
    return row


def _due(hooks: Collection[str]) -> sa.Select[Any]:
    is_free = sa.or_(_c.leased_until.is_(None), _c.leased_until <= as_of(0))
    return sa.select(hook_calls).where(_c.hook.in_(sorted(hooks)), is_free).order_by(_c.id)


def any_due(hooks: Collection[str]) -> sa.Select[Any]:
    """Return the query that finds out whether a call is due, without a lock."""
    return _due(hooks).with_only_columns(_c.id).limit(1)


def delete_call(connection: Connection, id: str) -> None:
    """Delete a call that was made."""
    connection.execute(sa.delete(hook_calls).where(_c.id == id))


def run_end_of(row: Row[Any]) -> RunEnd:
    """Return the end that a row stores, before its claim was counted."""
    return RunEnd(
        operation=row.operation,
        run_id=row.record_id,
        status=row.status,
        failure=row.failure,
        error=row.error,
        error_message=row.error_message,
        queue=row.queue,
        attempts=row.num_attempts,
        trace_id=row.trace_id,
        parent_id=row.parent_id,
        actor_type=row.actor_type,
        actor_id=row.actor_id,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.completed_at,
        call=row.calls + 1,
    )
