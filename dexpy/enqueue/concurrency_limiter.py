"""Concurrency limits: claim a slot of a key for a run, and offer free slots to waiting runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from sqlalchemy.engine import Connection, Row

from dexpy.database.error_codes import is_locked
from dexpy.database.errors import is_away
from dexpy.declaration import registry
from dexpy.enqueue.dispatcher import Dispatcher
from dexpy.foundation.failpoints import failpoint
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.policies.concurrency import Concurrency
from dexpy.recording import concurrency_slots
from dexpy.recording.batches import log_refused_row
from dexpy.recording.pauses import HELD
from dexpy.recording.store import Store
from dexpy.recording.transitions import apply

SLOTS_WITHOUT_LIMIT = 100
"""The limit of a key whose class no longer declares one."""


@attrs.frozen
class SlotClaim:
    """The result of delivering the message of a limited record.

    Attributes:
        row: The claimed row to run now; None if there is none.
        is_settled: Whether the row of the message was blocked or discarded.
        has_free_slots: Whether there is another slot for a waiting run.
    """

    row: Row[Any] | None = None
    is_settled: bool = False
    has_free_slots: bool = False


class ConcurrencyLimiter:
    """The slots of limited operations.

    Args:
        store: The store of the records.
        dispatcher: Publishes the messages of runs that get a slot.
    """

    def __init__(self, store: Store, dispatcher: Dispatcher) -> None:
        self._store = store
        self._dispatcher = dispatcher

    def claim_slot(
        self,
        connection: Connection,
        delivered: Row[Any],
        concurrency: Concurrency,
        claim: Callable[[str], Row[Any] | None],
    ) -> SlotClaim:
        """Claim the next row of a key for a delivery, if there is a free slot.

        Args:
            connection: In a transaction that has locked no record yet.
            delivered: The row of the message, from `concurrency_slots.own`.
            concurrency: The limit of its class.
            claim: Claims a row by its id.
        """
        key = delivered.concurrency_key
        if delivered.status == "pending" and not delivered.is_due:
            # Not due yet, or expired: the message stays.
            return SlotClaim()
        concurrency_slots.lock_key(connection, key)
        failpoint("concurrency_key_locked")
        row, num_free = None, concurrency.limit - concurrency_slots.count_running(connection, key)
        if num_free > 0:
            candidates = self._candidates(connection, delivered, concurrency)
            row = next((claimed for record_id in candidates if (claimed := claim(record_id)) is not None), None)
        if not delivered.is_due or (row is not None and row.id == delivered.id):
            return SlotClaim(row)
        if concurrency.on_conflict == "discard":
            updated = apply(connection, "discard", delivered.id, **_discard_columns(concurrency))
        else:
            updated = apply(connection, "block", delivered.id)
        if updated is not None:
            event = LogEvent.RUN_DISCARDED if concurrency.on_conflict == "discard" else LogEvent.RUN_BLOCKED
            log_event(event, operation=delivered.operation, run_id=delivered.id, limit=concurrency.limit)
        return SlotClaim(row, updated is not None, row is not None and num_free > 1)

    def _candidates(self, connection: Connection, delivered: Row[Any], concurrency: Concurrency) -> list[str]:
        """Return the ids to try in order: the next waiting row and the delivered one."""
        delivered_ids = [delivered.id] if delivered.is_due else []
        if concurrency.on_conflict == "discard":
            return delivered_ids
        next_row = concurrency_slots.next_waiting(connection, delivered.concurrency_key)
        paused = self._store.pauses.current().stored_operations
        if next_row is not None and (next_row.operation in paused or not registry.is_known(next_row.operation)):
            names = [name for name in registry.names() if name not in paused]
            next_row = concurrency_slots.next_waiting(connection, delivered.concurrency_key, names)
        if next_row is None or next_row.id == delivered.id:
            return delivered_ids
        return (
            [*delivered_ids, next_row.id]
            if delivered_ids and _rank(delivered) < _rank(next_row)
            else [next_row.id, *delivered_ids]
        )

    def offer_slots(self, key: str, name: str, *, waits: bool = True) -> int:
        """Publish the next waiting runs of a key, after a run of it has ended.

        Args:
            key: The stored concurrency key.
            name: The name of an operation with the key.
            waits: Whether to wait for the lock on the key.

        Returns:
            How many runs were published.
        """
        is_transactional = self._dispatcher.transactional
        with self._store.begin() as connection:
            rows = concurrency_slots.fill_free_slots(connection, key, _limit_of(name), waits=waits)
            if is_transactional:
                for row in rows:
                    self._dispatcher.publish_with(connection, row)
        failpoint("slots_filled")
        if not rows:
            return 0
        if is_transactional:
            self._dispatcher.wake_workers()
        else:
            refused = [row for row in rows if not self._dispatcher.publish_row(row)]
            if refused:
                self._dispatcher.mark_unpublished(refused)
        return len(rows)

    def refill_slots(self) -> int:
        """Offer every free slot of a key with blocked runs, because the process that should do it may have died.

        Returns:
            How many runs were published.
        """
        with self._store.begin() as connection:
            keys = concurrency_slots.blocked_keys(connection)
        return sum(
            self._refill_key(key_count.key, key_count.operation)
            for key_count in keys
            if not str(key_count.key).startswith(HELD) and key_count.running < _limit_of(key_count.operation)
        )

    def _refill_key(self, key: str, name: str) -> int:
        try:
            return self.offer_slots(key, name, waits=False)
        except Exception as error:
            if not is_locked(error):
                if is_away(error):
                    raise
                # One row of this key may be the cause: continue with the other keys.
                log_refused_row("offer_slot", error, operation=name, concurrency_key=key)
            # The holder of the lock offers the slots; if it hangs, a later refill does.
            return 0


def limit_of(class_name: str) -> Concurrency | None:
    """Return the limit of an operation; None without a limit, or if this process does not know the operation."""
    contract = registry.contract_of(class_name)
    return None if contract is None else contract.concurrency


def _limit_of(name: str) -> int:
    if not registry.is_known(name):
        # One at a time is within every limit that the class may declare.
        return 1
    concurrency = limit_of(name)
    return SLOTS_WITHOUT_LIMIT if concurrency is None else concurrency.limit


def _rank(row: Row[Any]) -> tuple[int, str]:
    return -row.priority, row.id


def _discard_columns(concurrency: Concurrency) -> dict[str, Any]:
    return {
        "error": None,
        "failure": "discarded",
        "error_message": f"Discarded: all {concurrency.limit} slots of its concurrency key were in use.",
        "error_details": None,
    }
