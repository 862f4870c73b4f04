"""The prefetch limit: a process holds one message for each of its threads, over all of its queues.

Dramatiq has a consumer for each queue, and each takes as many messages as there are threads, or twice as many. Messages
without a free thread then wait behind a running job while another process idles.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import attrs
import dramatiq

MAX_POLL_AGE_S = 0.02
"""A queue that was not polled for so long comes first, in seconds; before that, the one that last had a message."""


class ThreadCount(dramatiq.Middleware):
    """Stores how many threads the worker of this process has; Dramatiq passes consumers a multiple of it."""

    def __init__(self) -> None:
        self._threads: int | None = None

    def before_worker_boot(self, broker: Any, worker: Any) -> None:
        """Store the number of threads; Dramatiq starts the consumers after this."""
        self._threads = worker.worker_threads

    def capacity(self, prefetch: int) -> int:
        """Return how many messages the process may hold, given Dramatiq's prefetch for one consumer."""
        # Without a worker: Dramatiq's prefetch is two messages for a thread, one to run and one in reserve.
        return self._threads or max(1, prefetch // 2)


@attrs.define(eq=False)
class PrefetchWaiter:
    """The consumer of one queue, which waits for free slots.

    Attributes:
        wake: Called, in any thread, when a slot is free.
        fetched: How many messages it has fetched that no thread has begun.
        polled_at: When it last polled, by `time.monotonic`.
        received_at: When it last received a message.
        is_waiting: Whether it waits for a slot.
    """

    wake: Callable[[], None]
    fetched: int = 0
    polled_at: float = 0.0
    received_at: float = 0.0
    is_waiting: bool = False


class Prefetch:
    """The slots of one process for the messages of one broker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._capacity = 1
        self._reserved = 0
        self._waiters: dict[str, PrefetchWaiter] = {}
        # By identity, as one message may come twice; the objects are kept, so that no id is reused.
        self._in_progress: dict[int, Any] = {}

    def register(self, queue: str, capacity: int, wake: Callable[[], None]) -> PrefetchWaiter:
        """Register a consumer; it replaces an earlier one of its queue.

        Args:
            queue: The queue that it reads.
            capacity: How many messages the process may hold, of all queues.
            wake: See `PrefetchWaiter`.
        """
        with self._lock:
            self._capacity = capacity
            self._waiters[queue] = waiter = PrefetchWaiter(wake)
            return waiter

    def has_free_slot(self, waiter: PrefetchWaiter) -> bool:
        """Return whether a slot is free; if not, the waiter is woken when it is its turn."""
        with self._lock:
            waiter.is_waiting = self._free <= 0
            return not waiter.is_waiting

    def reserve(self, queue: str, count: int) -> int:
        """Reserve slots for a fetch.

        Returns:
            How many, at most `count`.
        """
        with self._lock:
            granted = max(0, min(count, self._free))
            self._reserved += granted
            if granted:
                self._waiters[queue].polled_at = time.monotonic()
            return granted

    def finish_fetch(self, queue: str, granted: int, fetched: int) -> None:
        """Return reserved slots after a fetch; each fetched message takes one."""
        with self._lock:
            waiter = self._waiters[queue]
            self._reserved -= granted
            waiter.fetched += fetched
            if fetched:
                waiter.received_at = time.monotonic()
        self._wake_next()

    def try_take(self, waiter: PrefetchWaiter, message: Any) -> bool:
        """Take a slot for a message that was pushed; return whether one was free."""
        with self._lock:
            waiter.polled_at = waiter.received_at = time.monotonic()
            waiter.is_waiting = self._free <= 0
            if not waiter.is_waiting:
                self._in_progress[id(message)] = message
            return not waiter.is_waiting

    def start(self, waiter: PrefetchWaiter, message: Any) -> None:
        """A fetched message goes to a thread."""
        with self._lock:
            waiter.fetched = max(0, waiter.fetched - 1)
            self._in_progress[id(message)] = message

    def discard(self, waiter: PrefetchWaiter) -> None:
        """A fetched message is not run: free its slot."""
        with self._lock:
            waiter.fetched = max(0, waiter.fetched - 1)
        self._wake_next()

    def release(self, message: Any) -> None:
        """Free the slot of a message that has ended or was requeued."""
        with self._lock:
            self._in_progress.pop(id(message), None)
        self._wake_next()

    def yield_turn(self, waiter: PrefetchWaiter) -> None:
        """A consumer has polled and waits for messages: another one may use a free slot meanwhile."""
        waiter.polled_at = time.monotonic()
        self._wake_next()

    @property
    def _free(self) -> int:
        fetched = sum(waiter.fetched for waiter in self._waiters.values())
        return self._capacity - len(self._in_progress) - self._reserved - fetched

    def _wake_next(self) -> None:
        """Wake the waiter whose turn it is, so that a queue that is never empty does not starve another."""
        with self._lock:
            waiting = [waiter for waiter in self._waiters.values() if waiter.is_waiting]
            if not waiting or self._free <= 0:
                return
            chosen = min(waiting, key=lambda waiter: waiter.polled_at)
            if time.monotonic() - chosen.polled_at < MAX_POLL_AGE_S:
                chosen = max(waiting, key=lambda waiter: waiter.received_at)
            chosen.is_waiting = False
        chosen.wake()
