"""The runs that wait for a rate limit: published as soon as their key allows starts again."""

from __future__ import annotations

import dramatiq
from sqlalchemy.engine import Connection

from dexpy.database.error_codes import is_locked
from dexpy.database.errors import is_away
from dexpy.declaration import registry
from dexpy.enqueue.dispatcher import Dispatcher
from dexpy.enqueue.wakeups import Wakeups
from dexpy.foundation.failpoints import failpoint
from dexpy.policies.rate import Rate
from dexpy.recording import concurrency_slots, rate_limits
from dexpy.recording.batches import log_refused_row
from dexpy.recording.store import Store

MOST_AT_ONCE = 100
"""How many waiting runs of a key are published in one transaction."""
SHORTEST_PAUSE_S = 0.05
"""The shortest pause between two checks of a key in one process, in seconds."""
RESERVED_PAUSE_S = 1.0
"""The pause while published messages reserve all allowed starts, in seconds; a claim of the key ends it."""
LONGEST_PAUSE_S = 60.0
"""The longest pause, in seconds: the clock of the database may differ from that of this machine, or change."""


class RateLimiter(dramatiq.Middleware):
    """Publishes the runs that wait for the starts of a rate key.

    Each process that has made a run wait checks its key when the next start is allowed. The relays check all keys from
    time to time, because such a process may have died.

    Args:
        store: The store of the records.
        dispatcher: Publishes the messages of runs that may start.
    """

    def __init__(self, store: Store, dispatcher: Dispatcher) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._wakeups = Wakeups("rates", self._check)

    def after_worker_boot(self, broker: object, worker: object) -> None:
        """Check keys at their times, in a thread that starts with the first one."""
        self._wakeups.open()

    def before_worker_shutdown(self, broker: object, worker: object) -> None:
        """Stop the thread."""
        self._wakeups.close()

    def schedule(self, key: str, operation: str, wait_s: float = 0.0) -> None:
        """Check a key after some seconds, in a worker.

        Args:
            key: The rate key in the records.
            operation: The name of an operation with the key.
            wait_s: The seconds from now.
        """
        self._wakeups.schedule((key, operation), min(max(wait_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S))

    def _check(self, key: tuple[str, str]) -> None:
        rate_key, operation = key
        try:
            _, wait_s = self.offer_starts(rate_key, operation, waits=False)
        except Exception as error:
            if not is_locked(error):
                raise
            # Another process starts or offers runs of the key.
            wait_s = SHORTEST_PAUSE_S
        if wait_s is not None:
            self.schedule(rate_key, operation, wait_s)

    def offer_starts(self, key: str, operation: str, *, waits: bool = True) -> tuple[int, float | None]:
        """Publish the next waiting runs of a key, as many as may start now.

        Args:
            key: The rate key in the records.
            operation: The name of an operation with the key.
            waits: Whether to wait for the lock on the key.

        Returns:
            How many runs were published, and the seconds until the next check; None if no run waits without a message.
        """
        contract = registry.contract_of(operation)
        if contract is None:
            # Its limit is unknown here: a worker that declares the class checks the key.
            return 0, None
        is_transactional = self._dispatcher.transactional
        with self._store.begin() as connection:
            free, wait_s = self._count_allowed(connection, key, contract.rate, waits=waits)
            rows = concurrency_slots.offer_waiting(connection, key, free) if free > 0 else ()
            if is_transactional:
                for row in rows:
                    self._dispatcher.publish_with(connection, row)
            has_waiting = concurrency_slots.has_unpublished(connection, key)
        failpoint("starts_offered")
        if rows:
            self._dispatcher.publish_rows(rows)
        pause_s = RESERVED_PAUSE_S if free > 0 and not rows else SHORTEST_PAUSE_S
        return len(rows), (wait_s or pause_s) if has_waiting else None

    def _count_allowed(
        self, connection: Connection, key: str, rate: Rate | None, *, waits: bool
    ) -> tuple[int, float | None]:
        state = rate_limits.lock_key(connection, key, waits=waits)
        if rate is None:
            # The class no longer has a limit.
            return MOST_AT_ONCE, 0.0
        return rate_limits.count_allowed(connection, state, rate.limit, rate.per_s, MOST_AT_ONCE)

    def refill(self) -> int:
        """Publish the waiting runs of every key that may start now, and schedule the next check of each key.

        Returns:
            How many runs were published.
        """
        with self._store.begin() as connection:
            keys = [row for row in concurrency_slots.blocked_keys(connection) if row.is_rate]
        return sum(self._refill_key(row.key, row.operation) for row in keys)

    def _refill_key(self, key: str, operation: str) -> int:
        try:
            num_published, wait_s = self.offer_starts(key, operation, waits=False)
        except Exception as error:
            if not is_locked(error):
                if is_away(error):
                    raise
                # One row of this key may be the cause: continue with the other keys.
                log_refused_row("offer_start", error, operation=operation, rate_key=key)
            return 0
        if wait_s is not None:
            self.schedule(key, operation, wait_s)
        return num_published
