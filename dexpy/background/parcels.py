"""Parcels: operations made ready for the background, with nothing stored or sent yet.

Whatever can be refused is refused here, so that of many at once either all are stored or none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import dramatiq

from dexpy.background.keyed import KeyedInsert, claim_for, made_of
from dexpy.background.payload import DirectPayload, RecordPayload, direct_message, record_message
from dexpy.background.plan import Plan
from dexpy.declaration.contract import Contract
from dexpy.declaration.policies import AsyncOptions
from dexpy.declaration.values import encoded
from dexpy.foundation.errors import (
    ConfigurationError,
    DeclarationError,
    OptionsError,
    SensitiveInTransit,
    listed,
)
from dexpy.foundation.ids import new_id
from dexpy.foundation.trace import current_frame
from dexpy.recording.ambient import Ambient
from dexpy.recording.fate import Fate
from dexpy.recording.recorder import identity
from dexpy.recording.sealing import sealed
from dexpy.recording.sessions import GivenConnection
from dexpy.recording.store import Store
from dexpy.recording.ticket import Ticket

Place = Ambient | GivenConnection | None
"""What an enqueue is part of; None for a transaction of its own."""


@attrs.frozen(eq=False)
class Parcel:
    """One operation on its way.

    Attributes:
        ticket: Of its run; that of an earlier run, once it has turned out that this one has the key.
        plan: Where and when it goes.
        message: What the broker gets.
        facts: The columns of its row, without those of `row`; None where nothing is recorded before the end.
        keyed: Stores the row where it wants keys.
    """

    ticket: Ticket[Any]
    plan: Plan
    message: dramatiq.Message[Any]
    facts: Mapping[str, Any] | None = None
    keyed: KeyedInsert | None = None

    def row(self, moment: Callable[[float], Any], *, is_sent: bool, is_searched: bool) -> dict[str, Any]:
        """The columns of its row.

        Args:
            moment: Seconds from now to a moment, for the row.
            is_sent: Whether its message goes right after the commit, or with it.
            is_searched: Whether the relay is to find it, which looks for what is due since some moment.
        """
        plan = self.plan
        scheduled_at: Any = plan.at if plan.wait_s is None else moment(plan.wait_s)
        return {
            **(self.facts or {}),
            "scheduled_at": moment(0) if is_searched and scheduled_at is None else scheduled_at,
            "expires_at": None if plan.expires_in_s is None else moment(plan.expires_in_s),
            "enqueued_at": moment(0) if is_sent else None,
            "send_count": int(is_sent),
        }


def tell_which(error: Exception, number: int, of: int) -> None:
    """Note on an exception which one of many it is about, where *number* counts from 0."""
    error.add_note(f"It is number {number + 1} of {of}; nothing of them was stored or sent.")


class Packing:
    """Makes parcels of operations.

    Args:
        store: Where records go; None when nothing is recorded.
        joins: Whether what is written for a place is part of a transaction that somebody else commits.
    """

    def __init__(self, store: Store | None, joins: Callable[[Place], bool]) -> None:
        self._store = store
        self._joins = joins

    def pack(self, operation: Any, options: AsyncOptions, place: Place, token: str | None, fate: Fate) -> Parcel:
        """Make one ready; see `Dispatcher.enqueue` for what is refused."""
        contract: Contract = operation.contract
        owner = contract.cls.__qualname__
        if contract.unreachable is not None:
            raise DeclarationError(
                f"{owner} cannot go to the background: {contract.unreachable}. call() works as it is."
            )
        params = sealed(contract, encoded(owner, contract.props, operation.__dict__))
        plan = made_of(lambda made, of: Plan.of(made, of, options), operation, contract, self._store, place)
        run_id = new_id("op")
        frame = current_frame().child(run_id, contract.name)
        if self._store is None or contract.record is None or not contract.record.params:
            _check_needs_no_record(contract, plan, token)
            payload = DirectPayload(contract.name, params, frame.to_dict(), run_id)
            return Parcel(Ticket(run_id, contract.name, None, None), plan, direct_message(payload, plan.queue))
        facts = {"id": run_id, "name": contract.name, "status": "pending", "params": params}
        ticket = Ticket[Any](run_id, contract.name, self._store, {**facts, "scheduled_at": plan.due_at}, fate)
        claim = claim_for(operation, contract, token, self._store, place)
        keyed = None
        if claim is not None:
            keyed = KeyedInsert(self._store, contract, claim, ticket, self._joins(place))
        columns = {
            **identity(contract, run_id, frame),
            "params": params,
            "status": "pending",
            "queue": plan.queue,
            "priority": plan.priority,
            "max_lost": contract.loss_limit,
        }
        if contract.concurrency is not None:
            columns["concurrency_key"] = made_of(contract.concurrency.key, operation, contract, self._store, place)
        message = record_message(RecordPayload(contract.name, run_id, frame.trace_id), plan.queue, plan.priority)
        return Parcel(ticket, plan, message, columns, keyed)


def _check_needs_no_record(contract: Contract, plan: Plan, token: str | None) -> None:
    """Refuse what is kept in the record of a run, where there is none before the end."""
    owner = contract.cls.__qualname__
    if contract.once is not None or contract.unique is not None or contract.concurrency is not None:
        raise ConfigurationError(
            f"{owner} has a key, which is kept in the record of a run, and nothing is recorded here. "
            "Name a database: dexpy.configure(database=...)."
        )
    if readable := [name for name in contract.sensitive_props if name not in contract.sealed_props]:
        raise SensitiveInTransit(
            f"{owner} would go to the broker with {listed(readable)} in the clear: it has no record that keeps "
            "its params. Turn recording on, record = True and dexpy.configure(database=...), or encrypt it: "
            "prop(encrypted=True)."
        )
    if token is not None:
        raise OptionsError(
            f"{owner}: idempotence_token is kept in the record of a run, and this one would have none. "
            "Leave it out, or turn recording on: record = True, dexpy.configure(database=...)."
        )
    if plan.expires_in_s is not None:
        raise OptionsError(
            f"{owner}.async_: expires_in is kept in the record of a run, and this one would have none before "
            "it ends. Leave expires_in out, or turn recording on: record = True, dexpy.configure(database=...)."
        )
