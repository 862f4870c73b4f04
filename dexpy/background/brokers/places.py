"""Places: how many messages a process holds of a server, over all of its queues: one for each of its threads.

Dramatiq has a consumer for each queue, and each takes as many messages as there are threads, or twice as many. What has
no thread then lies behind a running job, for as long as that takes, while another process idles.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import attrs
import dramatiq

LOOK_EVERY_S = 0.02
"""A queue that was not looked at for so long comes first, in seconds; before that, the one that last had something."""


class ThreadCount(dramatiq.Middleware):
    """Learns how many threads the worker of this process has; consumers are told a multiple of it, or a setting."""

    def __init__(self) -> None:
        self._threads: int | None = None

    def before_worker_boot(self, broker: Any, worker: Any) -> None:
        """A worker begins, and its consumers after this."""
        self._threads = worker.worker_threads

    def places(self, prefetch: int) -> int:
        """How many messages a process may hold, of which a consumer is asked to fetch so many ahead."""
        # Without a worker: Dramatiq's would ask for two messages a thread, one to run and one in reserve.
        return self._threads or max(1, prefetch // 2)


@attrs.define(eq=False)
class Seeker:
    """A consumer of one queue, as far as places are concerned.

    Attributes:
        wake: Called, in any thread, when there is a place for it.
        fetched: How many messages it has been sent and has not handed on.
        looked_at: When it last looked, by `time.monotonic`.
        found_at: When it last found something.
        is_waiting: For a place.
    """

    wake: Callable[[], None]
    fetched: int = 0
    looked_at: float = 0.0
    found_at: float = 0.0
    is_waiting: bool = False


class Places:
    """The places of one process for the messages of one broker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._capacity = 1
        self._reserved = 0
        self._seekers: dict[str, Seeker] = {}
        # By identity, as one message may come twice: the objects are kept, so that none gets the id of another one.
        self._in_hand: dict[int, Any] = {}

    def enter(self, queue: str, capacity: int, wake: Callable[[], None]) -> Seeker:
        """A consumer begins, in the place of an earlier one of its queue.

        Args:
            queue: That it reads.
            capacity: How many messages the process may hold, of all queues.
            wake: See `Seeker`.
        """
        with self._lock:
            self._capacity = capacity
            self._seekers[queue] = seeker = Seeker(wake)
            return seeker

    def is_free(self, seeker: Seeker) -> bool:
        """Whether there is a place; if not, the seeker is woken when it is its turn."""
        with self._lock:
            seeker.is_waiting = self._free <= 0
            return not seeker.is_waiting

    def reserve(self, queue: str, wanted: int) -> int:
        """Set places aside for what is being fetched.

        Returns:
            How many, at most as many as wanted.
        """
        with self._lock:
            granted = max(0, min(wanted, self._free))
            self._reserved += granted
            if granted:
                self._seekers[queue].looked_at = time.monotonic()
            return granted

    def settle(self, queue: str, granted: int, found: int) -> None:
        """Say what came of a fetch for which places were reserved."""
        with self._lock:
            seeker = self._seekers[queue]
            self._reserved -= granted
            seeker.fetched += found
            if found:
                seeker.found_at = time.monotonic()
        self._wake_next()

    def take(self, seeker: Seeker, message: Any) -> bool:
        """Take a place for a message that was pushed here; whether there was one."""
        with self._lock:
            seeker.looked_at = seeker.found_at = time.monotonic()
            seeker.is_waiting = self._free <= 0
            if not seeker.is_waiting:
                self._in_hand[id(message)] = message
            return not seeker.is_waiting

    def hand_on(self, seeker: Seeker, message: Any) -> None:
        """A message that was fetched goes to a thread."""
        with self._lock:
            seeker.fetched = max(0, seeker.fetched - 1)
            self._in_hand[id(message)] = message

    def let_go(self, message: Any) -> None:
        """A message is over, or was put back."""
        with self._lock:
            self._in_hand.pop(id(message), None)
        self._wake_next()

    def pass_on(self, seeker: Seeker) -> None:
        """A seeker has looked, and waits for what comes: a place that is left is for another one meanwhile."""
        seeker.looked_at = time.monotonic()
        self._wake_next()

    @property
    def _free(self) -> int:
        fetched = sum(seeker.fetched for seeker in self._seekers.values())
        return self._capacity - len(self._in_hand) - self._reserved - fetched

    def _wake_next(self) -> None:
        """Wake the one whose turn it is, so that a queue that is never empty keeps no other from being looked at."""
        with self._lock:
            waiting = [seeker for seeker in self._seekers.values() if seeker.is_waiting]
            if not waiting or self._free <= 0:
                return
            chosen = min(waiting, key=lambda seeker: seeker.looked_at)
            if time.monotonic() - chosen.looked_at < LOOK_EVERY_S:
                chosen = max(waiting, key=lambda seeker: seeker.found_at)
            chosen.is_waiting = False
        chosen.wake()
