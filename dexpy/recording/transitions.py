"""The state machine of a record, as data, and the one function that moves a row through it.

::

    enqueue   -        > pending          succeed    running > done
    start     -        > running          refuse     running > failed     a business error
    claim     pending  > running          reject     running > failed     a guard
    recover   running  > pending          crash      running > failed     an exception, no attempt left
    expire    pending  > expired          lose       running > failed     its worker died; too often
    discard   pending  > failed           retry      running > pending    an exception, attempts left
    cancel    pending  > cancelled        release    running > pending    shutdown; the attempt does not count
    park      pending  > failed           revive     failed, expired, cancelled > pending
    block     pending  > pending          cancel_running    running > cancelled
    hold, throttle, enter_queue, mark_unpublished, defer_republish, reschedule    pending > pending

Only these transitions write the column `status`, and the insert of a row: ``pending``, or for a synchronous run its
final status, or ``running`` with an idempotency key.
If the status of the row does not allow an event, `apply` changes nothing and returns None.
"""

from __future__ import annotations

from typing import Any, Final

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from dexpy.database.column_types import after, as_of, hide_from_planner, next_count, next_token, seconds_parameter
from dexpy.database.dialects import DIALECTS
from dexpy.database.tables import STANDARD_COLUMNS, records
from dexpy.recording.hook_calls import store_calls
from dexpy.recording.installed_hooks import installed_hooks

PREFIX = "p_"
"""The prefix of bind parameters, because SQLAlchemy reserves the names of the columns."""


def _parameter(column: str) -> sa.BindParameter[Any]:
    return sa.bindparam(PREFIX + column, type_=records.c[column].type)


class _token_of(FunctionElement[int]):  # noqa: N801 - reads as a SQL function
    """A claim token in a comparison, cast to an integer on SQLite, where a column may contain any type."""

    inherit_cache = True
    type = sa.Integer()
    name = "dexpy_token"


@compiles(_token_of)
def _token(element: _token_of, compiler: Any, **options: Any) -> str:
    text: str = compiler.process(element.clauses, **options)
    return text


@compiles(_token_of, "sqlite")
def _token_on_sqlite(element: _token_of, compiler: Any, **options: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **options)} AS INTEGER)"


_ANY_OPERATION: sa.BindParameter[Any] = sa.bindparam(PREFIX + "operation", None, type_=records.c.operation.type)


@attrs.frozen
class Transition:
    """One transition of the state machine.

    Attributes:
        sources: The statuses before it.
        target: The status after it.
        changes: The other columns that it writes, with constants or SQL expressions.
        inputs: The columns whose values the caller passes.
        due: Whether the row must be due and not expired.
        named: Whether the caller may restrict it to one operation.
        fenced: Whether it requires the claim token.
        returned: The columns that `apply` returns; empty for all.
    """

    sources: tuple[str, ...]
    target: str
    changes: dict[str, Any] = attrs.field(factory=dict[str, Any])
    inputs: tuple[str, ...] = ()
    due: bool = False
    named: bool = False
    fenced: bool = False
    returned: tuple[str, ...] = ()

    def columns(self) -> tuple[sa.ColumnElement[Any], ...]:
        """Return the columns that `apply` returns."""
        return tuple(map(_returned, self.returned)) or STANDARD_COLUMNS

    def conditions(self) -> tuple[sa.ColumnElement[bool], ...]:
        """Return the conditions on the row, except the condition on its id."""
        table = records.c
        conditions: list[sa.ColumnElement[bool]] = [sa.or_(*(table.status == source for source in self.sources))]
        if self.due:
            conditions.append(sa.or_(table.scheduled_at.is_(None), table.scheduled_at <= as_of(0)))
            conditions.append(sa.or_(table.expires_at.is_(None), table.expires_at > as_of(0)))
        if self.named:
            conditions.append(table.operation == sa.func.coalesce(_ANY_OPERATION, table.operation))
        if self.fenced:
            conditions.append(_token_of(table.claim_token) == _parameter("claim_token"))
        return tuple(conditions)

    def statement(self) -> sa.Update:
        """Return the compare-and-set update of one row."""
        values = {"status": self.target, "updated_at": after(0), **self.changes}
        values |= {column: _parameter(column) for column in self.inputs}
        row = (records.c.id == _parameter("id"), hide_from_planner(*self.conditions()))
        return sa.update(records).where(*row).values(values)


_NO_ERROR: Final = {"error": None, "failure": None, "error_message": None, "error_details": None}
_ERROR: Final = ("error", "failure", "error_message", "error_details")
_CLAIM_ENDED: Final = {"claimed_by": None}
_LOST: Final = {"num_lost": next_count(records.c.num_lost)}
_UNCOUNTED_ATTEMPT: Final = sa.case((records.c.num_attempts > 0, records.c.num_attempts - 1), else_=0)
# A key that is unique for a length of time outlives its run, unless the run never started.
_ENDED: Final = {
    "completed_at": after(0),
    "unique_key": sa.case((records.c.unique_expires_at.is_not(None), records.c.unique_key)),
}
# Results and business errors are replayed, so they keep the idempotency key; all other ends release it.
_KEYS_RELEASED: Final = {"once_key": None}
_NOT_WAITING: Final = {"blocked_key": None, "fair_queue": None}
# Due in its queue, where the runs of a fair key start in turn.
_IN_QUEUE: Final = {"blocked_key": None, "fair_queue": sa.case((records.c.fair_key.is_not(None), records.c.queue))}
_ENDED_WAITING: Final = {"completed_at": after(0), "unique_key": None} | _NOT_WAITING | _KEYS_RELEASED
_STARTED: Final[sa.ColumnClause[str]] = sa.literal_column("'started'")
_UNTIL_STARTED: Final = sa.case((records.c.unique_until == _STARTED, None), else_=records.c.unique_key)
# The keys that the row was created with; a row that was created without keys keeps its columns.
_KEYS_CLAIMED: Final = {
    "once_key": sa.func.coalesce(records.c.once_digest, records.c.once_key),
    "unique_key": sa.func.coalesce(records.c.unique_digest, records.c.unique_key),
}
# Null until a message is published; the relay publishes due rows without this time.
_PUBLISHED: Final = {"enqueued_at": sa.case((sa.bindparam("p_sent", type_=sa.Boolean()), after(0)), else_=None)}
_RETRIED: Final = {"scheduled_at": after(seconds_parameter("p_wait_s"))} | _PUBLISHED

# Without a message and a due time, nothing polls the row until a limit allows its start.
_UNTIL_OFFERED: Final = {"enqueued_at": None, "scheduled_at": None, "fair_queue": None}

_UNDECODED: Final = ("run_at", "previous_run_at", "run_zone")
"""Columns that are returned as the driver reads them: most runs do not use them."""


def _returned(name: str) -> sa.ColumnElement[Any]:
    column = records.c[name]
    return sa.type_coerce(column, sa.types.NullType()).label(name) if name in _UNDECODED else column


# Only columns that a worker needs, because each one is decoded.
_CLAIMED: Final = (
    "id",
    "operation",
    "params",
    "trace",
    "trace_id",
    "priority",
    "num_attempts",
    "retry_counts",
    "claimed_by",
    "claim_token",
    "concurrency_key",
    "run_at",
    "previous_run_at",
    "run_zone",
    "batch_id",
)

TRANSITIONS: Final[dict[str, Transition]] = {
    "claim": Transition(
        ("pending",),
        "running",
        {
            "claim_token": next_token(records.c.claim_token),
            "num_attempts": next_count(records.c.num_attempts),
            "started_at": after(0),
            "completed_at": None,
            "unique_key": _UNTIL_STARTED,
        }
        | _NOT_WAITING,
        inputs=("claimed_by",),
        due=True,
        named=True,
        returned=_CLAIMED,
    ),
    "succeed": Transition(("running",), "done", _NO_ERROR | _ENDED | _CLAIM_ENDED, inputs=("result",), fenced=True),
    "refuse": Transition(("running",), "failed", _ENDED | _CLAIM_ENDED, inputs=_ERROR, fenced=True),
    "reject": Transition(("running",), "failed", _ENDED | _CLAIM_ENDED | _KEYS_RELEASED, inputs=_ERROR, fenced=True),
    "crash": Transition(("running",), "failed", _ENDED | _CLAIM_ENDED | _KEYS_RELEASED, inputs=_ERROR, fenced=True),
    "retry": Transition(
        ("running",), "pending", _RETRIED | _CLAIM_ENDED, inputs=(*_ERROR, "retry_counts"), fenced=True
    ),
    "cancel_running": Transition(
        ("running",), "cancelled", _ENDED | _CLAIM_ENDED | _KEYS_RELEASED, inputs=_ERROR, fenced=True
    ),
    "release": Transition(
        ("running",),
        "pending",
        _CLAIM_ENDED
        | _PUBLISHED
        | _IN_QUEUE
        | {"num_attempts": _UNCOUNTED_ATTEMPT, "started_at": None, "scheduled_at": after(0)},
        fenced=True,
    ),
    "recover": Transition(("running",), "pending", _RETRIED | _CLAIM_ENDED | _LOST, inputs=_ERROR, fenced=True),
    "lose": Transition(
        ("running",), "failed", _ENDED | _CLAIM_ENDED | _LOST | _KEYS_RELEASED, inputs=_ERROR, fenced=True
    ),
    "expire": Transition(("pending",), "expired", _ENDED_WAITING, inputs=_ERROR),
    "cancel": Transition(("pending",), "cancelled", _ENDED_WAITING, inputs=_ERROR),
    "discard": Transition(("pending",), "failed", _ENDED_WAITING, inputs=_ERROR),
    "park": Transition(("pending",), "failed", _ENDED_WAITING, inputs=_ERROR),
    "reschedule": Transition(("pending",), "pending", _PUBLISHED | _NOT_WAITING, inputs=("scheduled_at",)),
    "block": Transition(
        ("pending",),
        "pending",
        {"blocked_key": records.c.concurrency_key} | _UNTIL_OFFERED,
        due=True,
    ),
    # The due time of a run has come.
    "enter_queue": Transition(("pending",), "pending", _IN_QUEUE, due=True),
    "throttle": Transition(
        ("pending",),
        "pending",
        {"blocked_key": records.c.rate_key} | _UNTIL_OFFERED,
        due=True,
    ),
    # Of a paused queue or operation: `blocked_key` names the pause, and nothing republishes the row until its end.
    "hold": Transition(("pending",), "pending", {"fair_queue": None}, inputs=("blocked_key",), due=True),
    "mark_unpublished": Transition(
        ("pending",),
        "pending",
        {"enqueued_at": None, "scheduled_at": sa.func.coalesce(records.c.scheduled_at, after(0))},
    ),
    # The broker delays its message until then, so the relay must not republish it.
    "defer_republish": Transition(
        ("pending",),
        "pending",
        {"enqueued_at": sa.case((records.c.enqueued_at.is_not(None), after(seconds_parameter("p_wait_s"))))},
    ),
    "revive": Transition(
        ("failed", "expired", "cancelled"),
        "pending",
        _NO_ERROR
        | _PUBLISHED
        | _KEYS_CLAIMED
        | _IN_QUEUE
        | {
            "scheduled_at": after(0),
            "started_at": None,
            "completed_at": None,
            "expires_at": None,
            "num_attempts": 0,
            "num_lost": 0,
            # 0 is the limit of a synchronous run, which is not recovered; workers may recover the retried run.
            "loss_limit": sa.func.nullif(records.c.loss_limit, 0),
            "retry_counts": None,
        },
    ),
}
"""The transitions by event."""

_STATEMENTS: Final = {event: transition.statement() for event, transition in TRANSITIONS.items()}
_RETURNING: Final = {
    event: statement.returning(*TRANSITIONS[event].columns()) for event, statement in _STATEMENTS.items()
}
# A worker that freezes before the commit blocks its successor. Recovery ends its session; without the privilege, the
# server does after this timeout, which the same statement sets to save a round trip.
_WITH_TIMEOUT: Final = sa.func.set_config("idle_in_transaction_session_timeout", "10s", True)
_SUCCEED_WITH_TIMEOUT: Final = _STATEMENTS["succeed"].returning(_WITH_TIMEOUT)
_READ: Final = {
    event: sa.select(*transition.columns()).where(records.c.id == _parameter("id"))
    for event, transition in TRANSITIONS.items()
}


def apply(connection: Connection, event: str, id: str, **values: Any) -> Row[Any] | None:
    """Apply an event to one row.

    Args:
        connection: A connection in a transaction, which the caller commits.
        event: A key of `TRANSITIONS`.
        id: The record's id.
        values: The transition's inputs; ``operation`` to claim a row of that operation only; ``claim_token`` for a
            fenced transition; ``wait_s`` for a retry; ``sent`` if the row becomes pending again: whether its message
            is published with this transaction.

    Returns:
        The updated row, for a claim with the columns that a worker needs; None if its status does not allow the event,
        and nothing was changed.
    """
    if connection.dialect.update_returning:
        row = connection.execute(_RETURNING[event], _parameters(id, values)).first()
        if row is not None and installed_hooks.names:
            store_calls(connection, event, id)
        return row
    if not is_applied(connection, event, id, **values):
        return None
    return connection.execute(_READ[event], {PREFIX + "id": id}).first()


def is_applied(connection: Connection, event: str, id: str, **values: Any) -> bool:
    """Apply an event as `apply` does, and return whether the row was changed; the arguments are the same."""
    parameters = _parameters(id, values)
    if event == "succeed" and DIALECTS[connection.dialect.name].ends_idle_transactions:
        is_changed = connection.execute(_SUCCEED_WITH_TIMEOUT, parameters).first() is not None
    else:
        is_changed = connection.execute(_STATEMENTS[event], parameters).rowcount > 0
    if is_changed and installed_hooks.names:
        store_calls(connection, event, id)
    return is_changed


def _parameters(id: str, values: dict[str, Any]) -> dict[str, Any]:
    parameters = {PREFIX + "id": id}
    for name, value in values.items():
        parameters[PREFIX + name] = value
    return parameters
