"""Claims on rows of the SQL broker's table, and the inbox in which they wait for a consumer."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

import attrs


@attrs.define(eq=False)
class Claim:
    """One row that this process holds; *inbox* is None if no consumer waits for it."""

    id: int
    queue: str
    priority: int
    payload: str
    inbox: Inbox | None
    is_ended: bool = False


class Inbox:
    """The messages that are claimed for the consumer of one queue and have not reached the worker.

    Args:
        queue: The name of the queue.
        capacity: The number of messages of all queues that the process may hold at once.
    """

    def __init__(self, queue: str, capacity: int) -> None:
        self.queue = queue
        self.capacity = capacity
        self.may_have_more = False
        self.last_claimed_at = 0.0
        self.last_active_at = time.monotonic()
        self.wake = threading.Event()
        self.claimed: deque[Claim] = deque()

    def add(self, claims: Sequence[Claim]) -> None:
        """Add claims of this queue; may be called in any thread."""
        self.claimed.extend(claims)
        if claims:
            self.last_claimed_at = time.monotonic()
        self.wake_consumer()

    def wake_consumer(self) -> None:
        """Make the consumer poll now, and then at the short interval for a while."""
        self.last_active_at = time.monotonic()
        self.wake.set()
