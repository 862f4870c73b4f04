"""Dramatiq's broker for RabbitMQ, changed to hold no more messages than it runs.

RabbitMQ pushes messages to its consumers. While no thread is free, this process does not consume, and requeues messages
that were pushed meanwhile for other processes.
"""

# mypy: disable-error-code=no-untyped-call
# Pika has no types.

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable
from typing import Any, cast

import dramatiq
from dramatiq.brokers.rabbitmq import (
    RabbitmqBroker,
    _RabbitmqConsumer,  # pyright: ignore[reportPrivateUsage]
    _RabbitmqMessage,  # pyright: ignore[reportPrivateUsage]
)
from dramatiq.common import dq_name, q_name
from dramatiq.errors import ConnectionClosed

from dexpy.brokers.diagnostics import queue_refusal
from dexpy.brokers.message_validation import InvalidMessage, MessageValidator
from dexpy.brokers.prefetch import Prefetch, ThreadCount
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.throttle import LogThrottle

_AMQP: Any = importlib.import_module("pika.exceptions")
ASK_AGAIN_S = 60.0
"""How often a refused queue is declared again, in seconds."""
HOLD_S = 0.1
"""How long a pushed message waits for a slot, in seconds, before it is requeued: most runs are shorter."""


class DexpyRabbitmqBroker(RabbitmqBroker):
    """A broker for RabbitMQ with a limit on its messages; see the module.

    Attributes:
        prefetch: The slots for the messages of all queues but those of delayed messages.
        threads: The number of the worker's threads.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.validator = MessageValidator(self)
        self._refused = LogThrottle()
        self.prefetch = Prefetch()
        self.threads = ThreadCount()
        self.add_middleware(self.threads)

    def stop_fetching(self) -> None:
        """Fetch no more messages in this process, except delayed ones; acknowledgements continue."""
        self.prefetch.close()

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> dramatiq.Consumer:
        """Return a consumer of one queue.

        Args:
            queue_name: The queue.
            prefetch: The number of messages that Dramatiq's worker would fetch ahead.
            timeout: The longest time that the consumer waits for a message, in milliseconds.
        """
        try:
            self.declare_queue(queue_name, ensure=True)
            kind = _CheckedConsumer if queue_name == dq_name(queue_name) else _Consumer
            return kind(self, queue_name, prefetch, timeout)
        except ConnectionClosed as error:
            reason = queue_refusal(error)
            if reason is None:
                raise
            # The refusal lasts until the queue is deleted: log it now and then, and declare the queue again later.
            self._refused.log(LogEvent.QUEUE_REFUSED, q_name(queue_name), queue=q_name(queue_name), reason=reason)
            return _RefusedQueueConsumer(timeout / 1000)


class _RefusedQueueConsumer(dramatiq.Consumer):
    """The consumer of a queue that the server refuses: yields no message, and ends after `ASK_AGAIN_S`."""

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._until = time.monotonic() + ASK_AGAIN_S

    def __next__(self) -> None:
        if time.monotonic() > self._until:
            raise ConnectionClosed("the refused queue is declared again")
        time.sleep(self._pause_s)

    def ack(self, message: Any) -> None:
        """Do nothing: a refused queue has no messages."""

    def nack(self, message: Any) -> None:
        """Do nothing: a refused queue has no messages."""

    def requeue(self, messages: Iterable[Any]) -> None:
        """Do nothing: a refused queue has no messages."""


class _CheckedConsumer(_RabbitmqConsumer):
    """Returns valid messages only; rejects the others, which go to the dead-letter queue."""

    def __next__(self) -> Any:
        consumer: Any = self
        try:
            method, _, body = next(consumer.iterator)
        except (AssertionError, _AMQP.AMQPConnectionError, _AMQP.AMQPChannelError) as error:
            if getattr(error, "reply_code", None) == 404:
                # The queue was deleted: declare it when the consumer restarts.
                consumer.broker.queues_pending.add(q_name(consumer.queue_name))
            raise ConnectionClosed(error) from None
        if method is None:
            return None
        validator: MessageValidator = consumer.broker.validator
        try:
            message = validator.read(body, consumer.queue_name)
        except InvalidMessage as error:
            validator.refuse(error, consumer.queue_name, method.delivery_tag)
            consumer._nack(method.delivery_tag)
            return None
        consumer.known_tags.add(method.delivery_tag)
        return _RabbitmqMessage(method.redelivered, method.delivery_tag, message)


class _Consumer(_CheckedConsumer):
    def __init__(self, broker: DexpyRabbitmqBroker, queue_name: str, prefetch: int, timeout: int) -> None:
        capacity = broker.threads.capacity(prefetch)
        super().__init__(broker, queue_name, min(prefetch, capacity), timeout)
        self._queue = queue_name
        self._link: Any = self.connection
        self._tags: set[int] = cast("Any", self).known_tags
        self._timeout_s = timeout / 1000
        self._prefetch = broker.prefetch
        self._waiter = self._prefetch.register(queue_name, capacity, self._wake)
        self._pushed: Any = None
        self._full_since: float | None = None
        self._is_listening = True

    def __next__(self) -> Any:
        if not self._prefetch.has_free_slot(self._waiter):
            self._await_slot()
            return None
        self._full_since = None
        message, self._pushed = self._pushed, None
        if message is None:
            if not self._is_listening:
                self.iterator = self.channel.consume(self._queue, inactivity_timeout=self._timeout_s)
                self._is_listening = True
            self._prefetch.yield_turn(self._waiter)
            message = super().__next__()
        if message is not None and not self._prefetch.try_take(self._waiter, message):
            self._pushed, message = message, None
        return message

    def _wake(self) -> None:
        # Interrupt the thread that waits on this connection.
        try:
            self._link.add_callback_threadsafe(lambda: None)
        except _AMQP.AMQPError:
            # The connection is closed; the next consumer polls anyway.
            return

    def _await_slot(self) -> None:
        """Wait for a short time while processing the server's events."""
        now = time.monotonic()
        self._full_since = self._full_since or now
        full_s = now - self._full_since
        try:
            if self._is_listening and full_s >= HOLD_S:
                self._stop_listening()
            rest_s = min(self._timeout_s, HOLD_S - full_s) if self._is_listening else self._timeout_s
            self._link.process_data_events(time_limit=max(0.001, rest_s))
        except (AssertionError, _AMQP.AMQPConnectionError, _AMQP.AMQPChannelError) as error:
            raise ConnectionClosed(error) from None

    def _stop_listening(self) -> None:
        """Cancel the consumer, and requeue the message that no thread has started."""
        self.channel.cancel()
        self._is_listening = False
        message, self._pushed = self._pushed, None
        if message is not None:
            self._tags.discard(message._tag)
            self.channel.basic_reject(message._tag, requeue=True)

    def ack(self, message: Any) -> None:
        try:
            super().ack(message)
        finally:
            self._prefetch.release(message)

    def nack(self, message: Any) -> None:
        try:
            super().nack(message)
        finally:
            self._prefetch.release(message)

    def requeue(self, messages: Iterable[Any]) -> None:
        # The server requeues them when the connection closes.
        for message in messages:
            self._prefetch.release(message)
