"""Dramatiq's broker over RabbitMQ, made to hold no more messages than it runs.

RabbitMQ pushes messages to whoever listens. While no thread is free here, nobody listens, and what was pushed meanwhile
goes back to the server, for another process.
"""

# mypy: disable-error-code=no-untyped-call
# Pika has no types.

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable
from typing import Any, cast

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker, _RabbitmqConsumer  # pyright: ignore[reportPrivateUsage]
from dramatiq.common import dq_name
from dramatiq.errors import ConnectionClosed

from dexpy.background.brokers.places import Places, ThreadCount

_AMQP: Any = importlib.import_module("pika.exceptions")
HOLD_S = 0.1
"""So long a message that has no place may wait for one here, in seconds, before it goes back: most runs are shorter."""


class FrugalRabbitmqBroker(RabbitmqBroker):
    """See the module.

    Attributes:
        places: For the messages of all queues but those that wait for their time.
        threads: Of the worker.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.places = Places()
        self.threads = ThreadCount()
        self.add_middleware(self.threads)

    @property
    def consumer_class(self) -> Any:
        """The consumer that listens while there is a place."""
        return _Consumer

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> dramatiq.Consumer:
        """A consumer of one queue.

        Args:
            queue_name: The queue.
            prefetch: How many messages Dramatiq's worker would have it fetch ahead.
            timeout: The longest time that the consumer waits for a message, in milliseconds.
        """
        if queue_name == dq_name(queue_name):
            self.declare_queue(queue_name, ensure=True)
            return _RabbitmqConsumer(self, queue_name, prefetch, timeout)
        return super().consume(queue_name, prefetch, timeout)


class _Consumer(_RabbitmqConsumer):
    def __init__(self, broker: FrugalRabbitmqBroker, queue_name: str, prefetch: int, timeout: int) -> None:
        places = broker.threads.places(prefetch)
        super().__init__(broker, queue_name, min(prefetch, places), timeout)
        self._queue = queue_name
        self._link: Any = self.connection
        self._tags: set[int] = cast("Any", self).known_tags
        self._timeout_s = timeout / 1000
        self._places = broker.places
        self._seeker = self._places.enter(queue_name, places, self._wake)
        self._spare: Any = None
        self._full_since: float | None = None
        self._is_listening = True

    def __next__(self) -> Any:
        if not self._places.is_free(self._seeker):
            self._await_place()
            return None
        self._full_since = None
        message, self._spare = self._spare, None
        if message is None:
            if not self._is_listening:
                self.iterator = self.channel.consume(self._queue, inactivity_timeout=self._timeout_s)
                self._is_listening = True
            self._places.pass_on(self._seeker)
            message = super().__next__()
        if message is not None and not self._places.take(self._seeker, message):
            self._spare, message = message, None
        return message

    def _wake(self) -> None:
        # Whoever waits on this connection looks up when there is something to do on it.
        try:
            self._link.add_callback_threadsafe(lambda: None)
        except _AMQP.AMQPError:
            # Closed: the next consumer looks for itself.
            return

    def _await_place(self) -> None:
        """Wait a little, answering to the server."""
        now = time.monotonic()
        self._full_since = self._full_since or now
        held_s = now - self._full_since
        try:
            if self._is_listening and held_s >= HOLD_S:
                self._stop_listening()
            rest_s = min(self._timeout_s, HOLD_S - held_s) if self._is_listening else self._timeout_s
            self._link.process_data_events(time_limit=max(0.001, rest_s))
        except (AssertionError, _AMQP.AMQPConnectionError, _AMQP.AMQPChannelError) as error:
            raise ConnectionClosed(error) from None

    def _stop_listening(self) -> None:
        """Have the server send nothing more, and put back what it sent and no thread has begun."""
        self.channel.cancel()
        self._is_listening = False
        spare, self._spare = self._spare, None
        if spare is not None:
            self._tags.discard(spare._tag)
            self.channel.basic_reject(spare._tag, requeue=True)

    def ack(self, message: Any) -> None:
        try:
            super().ack(message)
        finally:
            self._places.let_go(message)

    def nack(self, message: Any) -> None:
        try:
            super().nack(message)
        finally:
            self._places.let_go(message)

    def requeue(self, messages: Iterable[Any]) -> None:
        # They go back by themselves, with the connection.
        for message in messages:
            self._places.let_go(message)
