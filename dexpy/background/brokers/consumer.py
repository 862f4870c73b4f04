"""The consumer of the SQL broker: it waits for messages of one queue, and hands them to Dramatiq's worker."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

import dramatiq

from dexpy.background.brokers.claimed import Claim, ClaimedMessage
from dexpy.background.brokers.hiccups import as_broker_errors
from dexpy.background.brokers.leases import Leases

if TYPE_CHECKING:
    from dexpy.background.brokers.sql import SqlBroker

LIVELY_S = 1.0
"""How long after its last message a consumer polls at the quicker pace, in seconds."""


class Consumer(dramatiq.Consumer):
    """What Dramatiq's consumer thread of one queue reads from."""

    def __init__(self, broker: SqlBroker, leases: Leases, queue: str, *, capacity: int, timeout_s: float) -> None:
        self.queue = queue
        self.capacity = capacity
        self.more_expected = False
        self.served_at = 0.0
        self._wake = threading.Event()
        self._timeout_s = timeout_s
        self._poll_s = broker.poll_s
        self._idle_poll_s = broker.idle_poll_s
        self._leases = leases
        self._arrived: deque[Claim] = deque()
        self._active_at = time.monotonic()

    def __next__(self) -> ClaimedMessage | None:
        # Cleared before looking, so that a ring while looking is not slept over.
        self._wake.clear()
        if not self._arrived and not self._fetch():
            self._wake.wait(self._pause_s())
        while self._arrived:
            if message := self._leases.open(self._arrived.popleft()):
                return message
        return None

    def _fetch(self) -> bool:
        # Without room it looks all the same, once: an acknowledgement brings along what is known to be there.
        if self.more_expected and self._leases.room(self) <= 0:
            return False
        with as_broker_errors():
            return self._leases.fetch(self)

    def _pause_s(self) -> float:
        if self.more_expected and self._leases.room(self) <= 0:
            # An acknowledgement wakes it.
            return self._timeout_s
        lively = time.monotonic() - self._active_at < LIVELY_S
        return min(self._timeout_s, self._poll_s if lively else self._idle_poll_s)

    def receive(self, claims: Sequence[Claim]) -> None:
        """Take in what was claimed for this consumer, in any thread."""
        self._arrived.extend(claims)
        if claims:
            self.served_at = time.monotonic()
        self.touch()

    def touch(self) -> None:
        """Something happened in this queue: look soon, and often for a while."""
        self._active_at = time.monotonic()
        self._wake.set()

    def ack(self, message: dramatiq.MessageProxy) -> None:
        """See `ClaimedMessage.ack`."""
        cast(ClaimedMessage, message).ack()

    def nack(self, message: dramatiq.MessageProxy) -> None:
        """See `ClaimedMessage.nack`."""
        cast(ClaimedMessage, message).nack()

    def requeue(self, messages: Iterable[dramatiq.MessageProxy]) -> None:
        """Free messages that Dramatiq's worker was given and has not begun."""
        with as_broker_errors():
            self._leases.give_back([cast(ClaimedMessage, message).claim for message in messages])

    def close(self) -> None:
        """Give back what has not reached the worker; what runs stays held until it is acknowledged."""
        self._leases.leave(self)
        left, self._arrived = list(self._arrived), deque()
        with as_broker_errors():
            self._leases.give_back(left)
