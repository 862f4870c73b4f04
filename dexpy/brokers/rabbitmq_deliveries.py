"""The deliveries of RabbitMQ that a process has not ended, and how they survive the loss of their consumer.

RabbitMQ delivers a message again when its consumer's channel is lost: because a connection was cut, or because the
message was not acknowledged within the server's `consumer_timeout`. A new delivery of a message that this process still
runs replaces the earlier one, so that the message is acknowledged once, at the end of the run.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import attrs
import dramatiq

CONSUMER_TIMEOUT_S = 1800.0
"""RabbitMQ's default for `consumer_timeout`, in seconds."""
MAX_UNCONFIRMED = 10_000
"""The number of ended messages to remember whose acknowledgement found its channel closed."""


@attrs.define(eq=False)
class Delivery:
    """One message that a thread runs, or will run.

    Attributes:
        message: The message, with the tag of its delivery.
        consumer: The consumer that received it.
        received_at: When it was received, by `time.monotonic`.
        lock: Held while it is acknowledged.
        is_started: Whether a thread has started it; a worker that stops returns the others to their queue.
        is_acknowledged: Whether it was acknowledged before its end.
        on_end: Called at its end, if it was acknowledged before.
    """

    message: Any
    consumer: Any
    received_at: float = attrs.field(factory=time.monotonic)
    lock: threading.Lock = attrs.field(factory=threading.Lock)
    is_started: bool = False
    is_acknowledged: bool = False
    on_end: Callable[[], None] | None = None

    @property
    def age_s(self) -> float:
        """The seconds since it was received."""
        return time.monotonic() - self.received_at

    def acknowledge_early(self, prepare: Callable[[], Callable[[], None] | None]) -> bool:
        """Acknowledge the message while it runs, if its consumer can.

        Args:
            prepare: Called first; returns what to call at the end of the message. If it raises, nothing is
                acknowledged.

        Returns:
            Whether the message is acknowledged.

        Raises:
            AMQPError: The connection was closed meanwhile. The message will be delivered again, so what was prepared
                is ended.
        """
        with self.lock:
            if self.is_acknowledged or not self.consumer.has(self.message):
                return self.is_acknowledged
            self.on_end = prepare()
            try:
                self.consumer.confirm(self.message)
            except BaseException:
                on_end, self.on_end = self.on_end, None
                if on_end is not None:
                    on_end()
                raise
            self.is_acknowledged = True
            return True


class Deliveries(dramatiq.Middleware):
    """The deliveries of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By identity, because a message may be delivered twice; the delivery keeps the id from being reused.
        self._held: dict[int, Delivery] = {}
        self._by_message: dict[tuple[str, str], Delivery] = {}
        self._unconfirmed: OrderedDict[tuple[str, str], bool] = OrderedDict()

    def held(self) -> list[Delivery]:
        """Return the deliveries in progress."""
        with self._lock:
            return list(self._held.values())

    def add(self, consumer: Any, message: Any) -> None:
        """Add a message that goes to a thread."""
        delivery = Delivery(message, consumer)
        with self._lock:
            self._held[id(message)] = delivery
            self._by_message[_key(message)] = delivery

    def before_process_message(self, broker: Any, message: Any) -> None:
        """Record that a thread starts a message."""
        delivery = self._held.get(id(message))
        if delivery is not None:
            delivery.is_started = True

    def remove(self, message: Any) -> Delivery | None:
        """Remove a message that has ended, and return its delivery."""
        with self._lock:
            delivery = self._held.pop(id(message), None)
            if self._by_message.get(_key(message)) is delivery:
                self._by_message.pop(_key(message), None)
            return delivery

    def remember_unconfirmed(self, message: Any, *, failed: bool) -> None:
        """Remember an ended message that could not be acknowledged, because its channel is closed."""
        with self._lock:
            self._unconfirmed[_key(message)] = failed
            while len(self._unconfirmed) > MAX_UNCONFIRMED:
                self._unconfirmed.popitem(last=False)

    def expects(self, queue: str) -> bool:
        """Return whether a message of a queue that this process has will be delivered again."""
        with self._lock:
            if any(name == queue for name, _ in self._unconfirmed):
                return True
            deliveries = [one for one in self._held.values() if one.message.queue_name == queue]
        return any(not (one.is_acknowledged or one.consumer.has(one.message)) for one in deliveries)

    def take_over(self, consumer: Any, message: Any) -> bool:
        """Take over a message that is delivered again, and was not lost with its first consumer.

        Returns:
            Whether this process runs it or has run it, so that it must not run again.
        """
        with self._lock:
            failed = self._unconfirmed.pop(_key(message), None)
            delivery = self._by_message.get(_key(message))
        if failed is not None:
            (consumer.reject if failed else consumer.confirm)(message)
            return True
        if delivery is None:
            return False
        with delivery.lock:
            if delivery.consumer.has(delivery.message):
                # Another message with the same id: another program has sent it twice.
                return False
            if delivery.is_acknowledged or id(delivery.message) not in self._held:
                consumer.confirm(message)
                return True
            delivery.message._tag = message._tag
            delivery.consumer = consumer
            delivery.received_at = time.monotonic()
            return True


def _key(message: Any) -> tuple[str, str]:
    return message.queue_name, message.message_id
