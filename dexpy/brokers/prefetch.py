"""The prefetch limit: a process holds one message for each of its threads, over all of its queues.

Dramatiq's consumer of each queue fetches as many messages as there are threads, or twice as many. Messages without a
free thread would then wait behind a running job while another process is idle.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import attrs
import dramatiq

from dexpy.brokers.queue_gate import QueueGate

MAX_POLL_AGE_S = 0.02
"""A queue that was not polled for this long, in seconds, is polled first; otherwise the one that last had a message."""


class ThreadCount(dramatiq.Middleware):
    """Stores the number of threads of this process's worker; Dramatiq passes a multiple of it to consumers."""

    def __init__(self) -> None:
        self._threads: int | None = None

    def before_worker_boot(self, broker: Any, worker: Any) -> None:
        """Store the number of threads; Dramatiq starts the consumers after this."""
        self._threads = worker.worker_threads

    def capacity(self, prefetch: int) -> int:
        """Return how many messages the process may hold, by Dramatiq's prefetch of one consumer."""
        # Without a worker, Dramatiq's prefetch is two messages for each thread, one of them in reserve.
        return self._threads or max(1, prefetch // 2)


@attrs.define(eq=False)
class PrefetchWaiter:
    """The consumer of one queue, as it waits for a free slot.

    Attributes:
        wake: Called, in any thread, when a slot is free.
        fetched: The number of messages that it has fetched and no thread has started.
        polled_at: The time of its last poll, by `time.monotonic`.
        received_at: The time of its last message.
        is_waiting: Whether it waits for a slot.
        is_empty: Whether a consumer to which the server pushes has no message: then later queues are served.
    """

    wake: Callable[[], None]
    fetched: int = 0
    polled_at: float = 0.0
    received_at: float = 0.0
    is_waiting: bool = False
    is_empty: bool = False


class Prefetch:
    """The slots of one process for the messages of one broker.

    Args:
        gate: The paused queues, and the order of the others.
    """

    def __init__(self, gate: QueueGate | None = None) -> None:
        self._gate = gate or QueueGate()
        self._lock = threading.Lock()
        self._capacity = 1
        self._is_closed = False
        self._reserved = 0
        self._waiters: dict[str, PrefetchWaiter] = {}
        # By identity, because a message may be delivered twice; references keep the ids from being reused.
        self._in_progress: dict[int, Any] = {}

    def register(self, queue: str, capacity: int, wake: Callable[[], None]) -> PrefetchWaiter:
        """Register a consumer, which replaces an earlier one of its queue.

        Args:
            queue: The queue of the consumer.
            capacity: The number of messages of all queues that the process may hold.
            wake: See `PrefetchWaiter`.
        """
        with self._lock:
            self._capacity = capacity
            self._waiters[queue] = waiter = PrefetchWaiter(wake)
            return waiter

    def close(self) -> None:
        """Grant no more slots; messages that have one keep it."""
        with self._lock:
            self._is_closed = True

    def has_free_slot(self, waiter: PrefetchWaiter) -> bool:
        """Return whether a slot is free; if not, the waiter is woken later, in its turn."""
        with self._lock:
            waiter.is_waiting = self._free <= 0
            return not waiter.is_waiting

    def reserve(self, queue: str, count: int) -> int:
        """Reserve slots for a fetch.

        Returns:
            The number of reserved slots, at most `count`.
        """
        with self._lock:
            granted = max(0, min(count, self._free))
            self._reserved += granted
            if granted:
                self._waiters[queue].polled_at = time.monotonic()
            return granted

    def finish_fetch(self, queue: str, granted: int, fetched: int) -> None:
        """Free the reserved slots after a fetch, except one for each fetched message."""
        with self._lock:
            waiter = self._waiters[queue]
            self._reserved -= granted
            waiter.fetched += fetched
            if fetched:
                waiter.received_at = time.monotonic()
        self._wake_next()

    def try_take(self, waiter: PrefetchWaiter, message: Any) -> bool:
        """Take a slot for a message that the server has pushed; return whether one was free."""
        with self._lock:
            waiter.polled_at = waiter.received_at = time.monotonic()
            waiter.is_waiting = self._free <= 0
            if not waiter.is_waiting:
                self._in_progress[id(message)] = message
            return not waiter.is_waiting

    def start(self, waiter: PrefetchWaiter, message: Any) -> None:
        """Record that a fetched message goes to a thread."""
        with self._lock:
            waiter.fetched = max(0, waiter.fetched - 1)
            self._in_progress[id(message)] = message

    def discard(self, waiter: PrefetchWaiter) -> None:
        """Free the slot of a fetched message that is not run."""
        with self._lock:
            waiter.fetched = max(0, waiter.fetched - 1)
        self._wake_next()

    def release(self, message: Any) -> None:
        """Free the slot of a message that has ended or was requeued."""
        with self._lock:
            self._in_progress.pop(id(message), None)
        self._wake_next()

    def waiter_of(self, queue: str) -> PrefetchWaiter | None:
        """Return the consumer of a queue; None if it has not started yet."""
        return self._waiters.get(queue)

    def set_empty(self, queue: str, waiter: PrefetchWaiter, is_empty: bool) -> None:
        """Record whether a consumer has no message; then the consumers of later queues are woken."""
        if waiter.is_empty == is_empty:
            return
        waiter.is_empty = is_empty
        if is_empty and self._gate.is_ordered:
            rank = self._gate.rank(queue)
            with self._lock:
                later = [other for name, other in self._waiters.items() if self._gate.rank(name) > rank]
            for other in later:
                other.wake()

    def yield_turn(self, waiter: PrefetchWaiter) -> None:
        """Let other consumers use a free slot while this one waits for messages."""
        waiter.polled_at = time.monotonic()
        self._wake_next()

    @property
    def _free(self) -> int:
        if self._is_closed:
            return 0
        fetched = sum(waiter.fetched for waiter in self._waiters.values())
        return self._capacity - len(self._in_progress) - self._reserved - fetched

    def _wake_next(self) -> None:
        """Wake the next waiter in turn, so that a queue that is never empty does not starve another."""
        with self._lock:
            # The consumer of a paused queue would not use the slot, and would wake no other one.
            paused = self._gate.paused
            waiting_queues = [
                name for name, waiter in self._waiters.items() if waiter.is_waiting and name not in paused
            ]
            if not waiting_queues or self._free <= 0:
                return
            first = min(map(self._gate.rank, waiting_queues))
            waiting = [self._waiters[queue] for queue in waiting_queues if self._gate.rank(queue) == first]
            chosen = min(waiting, key=lambda waiter: waiter.polled_at)
            if time.monotonic() - chosen.polled_at < MAX_POLL_AGE_S:
                chosen = max(waiting, key=lambda waiter: waiter.received_at)
            chosen.is_waiting = False
        chosen.wake()
