"""The state machine of a record, as data, and the one function that moves a row through it.

::

    enqueue   -        > pending          succeed    running > done
    start     -        > running          refuse     running > failed     a business error
    claim     pending  > running          reject     running > failed     a guard
    rescue    running  > pending          crash      running > failed     an exception, no attempt left
    expire    pending  > expired          lose       running > failed     its worker died; too often
    discard   pending  > failed           retry      running > pending    an exception, attempts left
    cancel    pending  > expired          abandon    running > expired    cancelled
    park      pending  > failed           give_back  running > pending    shutdown; the attempt does not count
    block     pending  > pending          revive     failed, expired > pending
    owe, put_off, reschedule    pending > pending

Nothing else writes the column `status`, but for the insert of a row that is born `pending` or, for a synchronous run,
in its final state; with an idempotency key `running`.
An event that does not fit the row's state changes nothing, and `apply` says so with None.
"""

from __future__ import annotations

from typing import Any, Final

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.recording.metadata import after, as_of, of_this_row, seconds_parameter
from dexpy.recording.tables import records

PREFIX = "p_"
"""Of every bind parameter: SQLAlchemy takes a bind named like a column for the column's own."""


def _given(column: str) -> sa.BindParameter[Any]:
    return sa.bindparam(PREFIX + column, type_=records.c[column].type)


@attrs.frozen
class Transition:
    """One line of the state machine.

    Attributes:
        sources: The states that it leaves.
        target: The state that it enters.
        changes: What else it writes; a value is a constant or a SQL expression.
        given: Columns whose values the caller hands over.
        due: Whether the row must be due, and not too late.
        fenced: Whether only the holder of the claim may do it.
    """

    sources: tuple[str, ...]
    target: str
    changes: dict[str, Any] = attrs.field(factory=dict[str, Any])
    given: tuple[str, ...] = ()
    due: bool = False
    fenced: bool = False

    def conditions(self) -> tuple[sa.ColumnElement[bool], ...]:
        """What must hold of the row, apart from its id."""
        table = records.c
        found: list[sa.ColumnElement[bool]] = [sa.or_(*(table.status == source for source in self.sources))]
        if self.due:
            found.append(sa.or_(table.scheduled_at.is_(None), table.scheduled_at <= as_of(0)))
            found.append(sa.or_(table.expires_at.is_(None), table.expires_at > as_of(0)))
        if self.fenced:
            found.append(table.claim_token == _given("claim_token"))
        return tuple(found)

    def statement(self) -> sa.Update:
        """The compare-and-set of one row."""
        values = {"status": self.target, "updated_at": after(0), **self.changes}
        values |= {column: _given(column) for column in self.given}
        row = (records.c.id == _given("id"), of_this_row(*self.conditions()))
        return sa.update(records).where(*row).values(values)


_NO_ERROR: Final = {"error": None, "failure": None, "error_message": None, "error_details": None}
_ERROR: Final = ("error", "failure", "error_message", "error_details")
_RELEASED: Final = {"claimed_by": None}
_LOST: Final = {"num_lost": records.c.num_lost + 1}
# A key that is unique for a length of time outlives its run; one that never began gives it back all the same.
_ENDED: Final = {
    "completed_at": after(0),
    "unique_key": sa.case((records.c.unique_expires_at.is_not(None), records.c.unique_key)),
}
# A key for replay stays with what is replayed: results and business errors. Everything else frees it.
_KEYS_FREED: Final = {"once_key": None}
_ENDED_WAITING: Final = {"completed_at": after(0), "unique_key": None, "blocked_key": None} | _KEYS_FREED
_STARTED: Final[sa.ColumnClause[str]] = sa.literal_column("'started'")
_UNTIL_STARTED: Final = sa.case((records.c.unique_until == _STARTED, None), else_=records.c.unique_key)
# What the row was made with; those of a row that was made without are as they were.
_KEYS_CLAIMED: Final = {
    "once_key": sa.func.coalesce(records.c.once_digest, records.c.once_key),
    "unique_key": sa.func.coalesce(records.c.unique_digest, records.c.unique_key),
}
# Set by whoever will send, null while the relay owes a send: it looks for rows that are due and have none.
_SENT: Final = {"enqueued_at": sa.case((sa.bindparam("p_sent", type_=sa.Boolean()), after(0)), else_=None)}
_AGAIN: Final = {"scheduled_at": after(seconds_parameter("p_wait_s"))} | _SENT

TRANSITIONS: Final[dict[str, Transition]] = {
    "claim": Transition(
        ("pending",),
        "running",
        {
            "claim_token": records.c.claim_token + 1,
            "num_attempts": records.c.num_attempts + 1,
            "started_at": after(0),
            "completed_at": None,
            "unique_key": _UNTIL_STARTED,
            "blocked_key": None,
        },
        given=("claimed_by",),
        due=True,
    ),
    "succeed": Transition(("running",), "done", _NO_ERROR | _ENDED | _RELEASED, given=("result",), fenced=True),
    "refuse": Transition(("running",), "failed", _ENDED | _RELEASED, given=_ERROR, fenced=True),
    "reject": Transition(("running",), "failed", _ENDED | _RELEASED | _KEYS_FREED, given=_ERROR, fenced=True),
    "crash": Transition(("running",), "failed", _ENDED | _RELEASED | _KEYS_FREED, given=_ERROR, fenced=True),
    "retry": Transition(("running",), "pending", _AGAIN | _RELEASED, given=(*_ERROR, "retry_counts"), fenced=True),
    "abandon": Transition(("running",), "expired", _ENDED | _RELEASED | _KEYS_FREED, given=_ERROR, fenced=True),
    "give_back": Transition(
        ("running",),
        "pending",
        _RELEASED | _SENT | {"num_attempts": records.c.num_attempts - 1, "started_at": None, "scheduled_at": after(0)},
        fenced=True,
    ),
    "rescue": Transition(("running",), "pending", _AGAIN | _RELEASED | _LOST, given=_ERROR, fenced=True),
    "lose": Transition(("running",), "failed", _ENDED | _RELEASED | _LOST | _KEYS_FREED, given=_ERROR, fenced=True),
    "expire": Transition(("pending",), "expired", _ENDED_WAITING, given=_ERROR),
    "cancel": Transition(("pending",), "expired", _ENDED_WAITING, given=_ERROR),
    "discard": Transition(("pending",), "failed", _ENDED_WAITING, given=_ERROR),
    "park": Transition(("pending",), "failed", _ENDED_WAITING, given=_ERROR),
    "reschedule": Transition(("pending",), "pending", _SENT | {"blocked_key": None}, given=("scheduled_at",)),
    # Without a message, and without a moment at which it is due: nobody looks at it until there is a slot.
    "block": Transition(
        ("pending",),
        "pending",
        {"blocked_key": records.c.concurrency_key, "enqueued_at": None, "scheduled_at": None},
        due=True,
    ),
    "owe": Transition(
        ("pending",),
        "pending",
        {"enqueued_at": None, "scheduled_at": sa.func.coalesce(records.c.scheduled_at, after(0))},
    ),
    # Its message waits elsewhere until then, and nobody is to take it for lost.
    "put_off": Transition(
        ("pending",),
        "pending",
        {"enqueued_at": sa.case((records.c.enqueued_at.is_not(None), after(seconds_parameter("p_wait_s"))))},
    ),
    "revive": Transition(
        ("failed", "expired"),
        "pending",
        _NO_ERROR
        | _SENT
        | _KEYS_CLAIMED
        | {
            "scheduled_at": after(0),
            "started_at": None,
            "completed_at": None,
            "expires_at": None,
            "num_attempts": 0,
            "num_lost": 0,
            # 0 is that of a call in place, which ends with its process; a worker may run it again.
            "max_lost": sa.func.nullif(records.c.max_lost, 0),
            "retry_counts": None,
        },
    ),
}
"""Event to transition."""

_STATEMENTS: Final = {event: transition.statement() for event, transition in TRANSITIONS.items()}
_RETURNING: Final = {event: statement.returning(*records.c) for event, statement in _STATEMENTS.items()}
# A worker that freezes between this statement and the commit holds the row that its successor wants. Its session is
# ended then; where that is not allowed, the server ends it by itself. In the same statement, for a round trip less.
_ARMED: Final = sa.func.set_config("idle_in_transaction_session_timeout", "10s", True)
_SUCCEED_ARMED: Final = _STATEMENTS["succeed"].returning(_ARMED)
_READ: Final = sa.select(records).where(records.c.id == _given("id"))


def apply(connection: Connection, event: str, id: str, **values: Any) -> Row[Any] | None:
    """Move one row through the state machine.

    Args:
        connection: In a transaction; the caller commits it.
        event: A key of `TRANSITIONS`.
        id: The record's id.
        values: What the transition wants given; ``claim_token`` for a fenced one; ``wait_s`` for a retry;
            ``sent`` where a row becomes pending again: whether its message goes with this transaction.

    Returns:
        The row as it now is, or None if its state does not allow the event: nothing was changed then.
    """
    if connection.dialect.update_returning:
        return connection.execute(_RETURNING[event], _parameters(id, values)).first()
    if not is_applied(connection, event, id, **values):
        return None
    return connection.execute(_READ, {PREFIX + "id": id}).first()


def is_applied(connection: Connection, event: str, id: str, **values: Any) -> bool:
    """Move one row as `apply` does, without asking for it; whether it was moved. The arguments are the same."""
    parameters = _parameters(id, values)
    if event == "succeed" and connection.dialect.name == "postgresql":
        return connection.execute(_SUCCEED_ARMED, parameters).first() is not None
    return connection.execute(_STATEMENTS[event], parameters).rowcount > 0


def _parameters(id: str, values: dict[str, Any]) -> dict[str, Any]:
    return {PREFIX + name: value for name, value in values.items()} | {PREFIX + "id": id}
