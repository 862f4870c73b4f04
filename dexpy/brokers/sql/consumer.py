"""The consumer of the SQL broker: it waits for messages of one queue and passes them to Dramatiq's worker."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import cast

import dramatiq

from dexpy.brokers.sql.inbox import Inbox
from dexpy.brokers.sql.leases import ClaimedMessage, Leases, broker_errors

FAST_POLL_FOR_S = 1.0
"""How long after its last message a consumer polls at the short interval, in seconds."""


class Consumer(dramatiq.Consumer):
    """The source that Dramatiq's consumer thread of one queue reads from.

    Args:
        leases: Claims messages and ends them.
        inbox: The inbox of the queue.
        timeout_s: The longest wait of one read, in seconds.
        poll_s: Seconds between two polls of a queue that had messages recently.
        idle_poll_s: Seconds between two polls of any other queue.
    """

    def __init__(self, leases: Leases, inbox: Inbox, *, timeout_s: float, poll_s: float, idle_poll_s: float) -> None:
        self._leases = leases
        self._inbox = inbox
        self._timeout_s = timeout_s
        self._poll_s = poll_s
        self._idle_poll_s = idle_poll_s

    def __next__(self) -> ClaimedMessage | None:
        # Clear before the poll, so that a wake-up during the poll is not lost.
        self._inbox.wake.clear()
        if not self._inbox.claimed and not self._fetch():
            self._inbox.wake.wait(self._pause_s())
        while self._inbox.claimed:
            if message := self._leases.open(self._inbox.claimed.popleft()):
                return message
        return None

    def _fetch(self) -> bool:
        # Poll once even without free capacity: an acknowledgement claims only for queues known to have messages.
        if self._inbox.may_have_more and self._leases.free_capacity(self._inbox) <= 0:
            return False
        with broker_errors():
            return self._leases.fetch(self._inbox)

    def _pause_s(self) -> float:
        if self._inbox.may_have_more and self._leases.free_capacity(self._inbox) <= 0:
            # An acknowledgement wakes the consumer.
            return self._timeout_s
        is_active = time.monotonic() - self._inbox.last_active_at < FAST_POLL_FOR_S
        return min(self._timeout_s, self._poll_s if is_active else self._idle_poll_s)

    def ack(self, message: dramatiq.MessageProxy) -> None:
        """See `ClaimedMessage.ack`."""
        cast(ClaimedMessage, message).ack()

    def nack(self, message: dramatiq.MessageProxy) -> None:
        """See `ClaimedMessage.nack`."""
        cast(ClaimedMessage, message).nack()

    def requeue(self, messages: Iterable[dramatiq.MessageProxy]) -> None:
        """Release messages that Dramatiq's worker has received and not started."""
        with broker_errors():
            self._leases.release([cast(ClaimedMessage, message).claim for message in messages])

    def close(self) -> None:
        """Release the messages that have not reached the worker; running ones are held until acknowledged."""
        self._leases.remove_inbox(self._inbox)
        unread = list(self._inbox.claimed)
        self._inbox.claimed.clear()
        with broker_errors():
            self._leases.release(unread)
