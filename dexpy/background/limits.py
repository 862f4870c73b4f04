"""Limits: runs that want a slot of their key, and what follows when one is free."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import attrs
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import DBAPIError

from dexpy.background.dispatch import Dispatcher
from dexpy.declaration import registry
from dexpy.declaration.concurrency import Concurrency
from dexpy.foundation.checkpoint import checkpoint
from dexpy.foundation.errors import UnknownOperation
from dexpy.foundation.log import line
from dexpy.recording import slots
from dexpy.recording.codes import is_locked
from dexpy.recording.store import Store
from dexpy.recording.transitions import apply

MANY = 100
"""So many are let go at once where a class has taken its limit back."""


@attrs.frozen
class Taken:
    """What a delivery of a limited row comes to.

    Attributes:
        row: To run now, claimed; None for none.
        is_settled: Whether the row that the message is for waits for a slot now, or was discarded.
        is_more_free: Whether there is another slot for one that waits.
    """

    row: Row[Any] | None = None
    is_settled: bool = False
    is_more_free: bool = False


class Limits:
    """The slots of limited operations.

    Args:
        store: Where the rows are.
        dispatcher: Sends those whose turn it is.
    """

    def __init__(self, store: Store, dispatcher: Dispatcher) -> None:
        self._store = store
        self._dispatcher = dispatcher

    def take(
        self,
        connection: Connection,
        own: Row[Any],
        concurrency: Concurrency,
        claim: Callable[[str], Row[Any] | None],
    ) -> Taken:
        """Answer a delivery with the row of the key whose turn it is, if there is a slot.

        Args:
            connection: In a transaction, that has locked no record yet.
            own: The row that the message is for, as `slots.own` has it.
            concurrency: Of its class.
            claim: Claims a row by its id.
        """
        key = own.concurrency_key
        if own.status == "pending" and not own.is_due:
            # Too early, or too late: it keeps its message.
            return Taken()
        slots.enter(connection, key)
        checkpoint("gate_entered")
        row, free = None, concurrency.limit - slots.running(connection, key)
        if free > 0:
            wanted = self._in_order(connection, own, concurrency)
            row = next((found for one in wanted if (found := claim(one)) is not None), None)
        if not own.is_due or (row is not None and row.id == own.id):
            return Taken(row)
        if concurrency.on_conflict == "discard":
            settled = apply(connection, "discard", own.id, **_discarded(concurrency))
        else:
            settled = apply(connection, "block", own.id)
        if settled is not None:
            event = "discarded" if concurrency.on_conflict == "discard" else "blocked"
            line(logging.INFO, event, operation=own.name, run=own.id, limit=concurrency.limit)
        return Taken(row, settled is not None, row is not None and free > 1)

    def _in_order(self, connection: Connection, own: Row[Any], concurrency: Concurrency) -> list[str]:
        """Whom to try: the one whose turn it is, and the delivery's own row."""
        mine = [own.id] if own.is_due else []
        if concurrency.on_conflict == "discard":
            return mine
        first = slots.first(connection, own.concurrency_key)
        if first is not None and not registry.is_known(first.name):
            first = slots.first(connection, own.concurrency_key, registry.names())
        if first is None or first.id == own.id:
            return mine
        return [*mine, first.id] if mine and _rank(own) < _rank(first) else [first.id, *mine]

    def offer(self, key: str, name: str, *, waits: bool = True) -> int:
        """Send those whose turn it is, after a run of a key has ended.

        Args:
            key: As the records have it.
            name: Of an operation that has it.
            waits: Whether to wait for whoever counts the slots of the key at this moment.

        Returns:
            How many were sent.
        """
        sent = self._dispatcher.transactional
        with self._store.begin() as connection:
            rows = slots.offer(connection, key, _limit_of(name), waits=waits)
            if sent:
                for row in rows:
                    self._dispatcher.send(connection, row)
        checkpoint("slot_offered")
        if not rows:
            return 0
        if sent:
            self._dispatcher.ring()
        else:
            refused = [row for row in rows if not self._dispatcher.deliver_row(row)]
            if refused:
                self._dispatcher.owe(refused)
        return len(rows)

    def mend(self) -> int:
        """Offer every slot that is free although somebody waits: whoever should have done it has died.

        Returns:
            How many were sent.
        """
        with self._store.begin() as connection:
            keys = slots.waited_for(connection)
        return sum(self._mend(one.key, one.name) for one in keys if one.running < _limit_of(one.name))

    def _mend(self, key: str, name: str) -> int:
        try:
            return self.offer(key, name, waits=False)
        except DBAPIError as error:
            if not is_locked(error):
                raise
            # Whoever is inside sees to the key, or is frozen there: then the next look finds it free.
            return 0


def limit_of(class_name: str) -> Concurrency | None:
    """The limit of an operation; None without one, or where nobody knows it."""
    try:
        found: Concurrency | None = registry.find(class_name).contract.concurrency
    except UnknownOperation:
        return None
    return found


def _limit_of(name: str) -> int:
    if not registry.is_known(name):
        # One at a time is right whatever its class says.
        return 1
    concurrency = limit_of(name)
    return MANY if concurrency is None else concurrency.limit


def _rank(row: Row[Any]) -> tuple[int, str]:
    return -row.priority, row.id


def _discarded(concurrency: Concurrency) -> dict[str, Any]:
    return {
        "error": None,
        "failure": "discarded",
        "error_message": f"{concurrency.limit} of its key ran already, and its class discards what finds no slot.",
        "error_details": None,
    }
