"""Concurrency limits: free slots of a key are offered to waiting runs."""

from __future__ import annotations

from dexpy.database.error_codes import is_locked
from dexpy.database.errors import is_away
from dexpy.declaration import registry
from dexpy.enqueue.dispatcher import Dispatcher
from dexpy.foundation.failpoints import failpoint
from dexpy.policies.concurrency import Concurrency
from dexpy.recording import concurrency_slots
from dexpy.recording.batches import log_refused_row
from dexpy.recording.pauses import HELD
from dexpy.recording.store import Store

SLOTS_WITHOUT_LIMIT = 100
"""The limit of a key whose class no longer declares one."""


class ConcurrencyLimiter:
    """The slots of limited operations.

    Args:
        store: The store of the records.
        dispatcher: Publishes the messages of runs that get a slot.
    """

    def __init__(self, store: Store, dispatcher: Dispatcher) -> None:
        self._store = store
        self._dispatcher = dispatcher

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
        self._dispatcher.publish_rows(rows)
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
            if not (key_count.is_rate or str(key_count.key).startswith(HELD))
            and key_count.running < _limit_of(key_count.operation)
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
