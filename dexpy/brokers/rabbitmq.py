"""Dramatiq's broker for RabbitMQ, changed to hold no more messages than it runs, and to run each once.

RabbitMQ pushes messages to its consumers. While no thread is free, this process does not consume, and requeues messages
that were pushed meanwhile for other processes. `rabbitmq_deliveries` tracks what it holds; a server whose alarm is on
refuses messages at once instead of blocking the caller. Of a paused queue this process consumes nothing.

In a strict order of queues, a consumer takes a message only while the consumers of earlier queues listen and have none.
"""

# mypy: disable-error-code=no-untyped-call
# Pika has no types.

from __future__ import annotations

import contextlib
import importlib
import re
import time
from collections.abc import Iterable
from functools import partial
from typing import Any, cast

import dramatiq
from dramatiq.brokers.rabbitmq import (
    DEAD_MESSAGE_TTL,
    RabbitmqBroker,
    _RabbitmqConsumer,  # pyright: ignore[reportPrivateUsage]
    _RabbitmqMessage,  # pyright: ignore[reportPrivateUsage]
)
from dramatiq.common import current_millis, dq_name, q_name, xq_name
from dramatiq.errors import ConnectionClosed

from dexpy.brokers.diagnostics import BLOCKED, queue_refusal
from dexpy.brokers.message_validation import InvalidMessage, MessageValidator
from dexpy.brokers.prefetch import Prefetch, ThreadCount
from dexpy.brokers.queue_gate import QueueGate
from dexpy.brokers.rabbitmq_deliveries import CONSUMER_TIMEOUT_S, Deliveries
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.throttle import LogThrottle

_AMQP: Any = importlib.import_module("pika.exceptions")
_PIKA: Any = importlib.import_module("pika")
ASK_AGAIN_S = 60.0
"""How often a refused queue is declared again, in seconds."""
HOLD_S = 0.1
"""How long a pushed message waits for a slot, in seconds, before it is requeued: most runs are shorter."""
REDELIVERY_S = 1.0
"""How long a new consumer expects the messages that this process still runs, in seconds."""
MAX_ATTEMPTS = 3
"""The attempts to publish a message, each over a new connection."""
BLOCKED_S = 1.0
"""A connection that the server blocks for this long, in seconds, because its alarm is on, is closed."""
BLOCKED_PAUSE_S = 5.0
"""How long this process publishes nothing after that, in seconds."""
DELIVERY_LIMIT = 2**31 - 1
"""The delivery limit of quorum queues: by default RabbitMQ 4 drops a message after 20 deliveries that were requeued."""
_TIMED_OUT = re.compile(r"delivery acknowledgement on channel \d+ timed out(?:.*?(\d+) ms)?", re.DOTALL)


class DexpyRabbitmqBroker(RabbitmqBroker):
    """A broker for RabbitMQ with a limit on its messages; see the module.

    Args:
        queue_type: The type of the queues that it declares: classic or quorum.
        consumer_timeout_s: The server's `consumer_timeout`, in seconds, as far as it is known.
        options: The options of Dramatiq's broker.

    Attributes:
        prefetch: The slots for the messages of all queues but those of delayed messages.
        threads: The number of the worker's threads.
        deliveries: The messages that this process runs.
        gate: The paused queues, and the order of the others.
        refused_queues: The queues that the server refuses.
    """

    def __init__(
        self, *, queue_type: str = "classic", consumer_timeout_s: float = CONSUMER_TIMEOUT_S, **options: Any
    ) -> None:
        super().__init__(**options)
        self.queue_type = queue_type
        self.consumer_timeout_s = consumer_timeout_s
        self.deliveries = Deliveries()
        self.add_middleware(self.deliveries)
        self._blocked_until = 0.0
        if getattr(self.parameters, "blocked_connection_timeout", 0) is None:
            cast("Any", self.parameters).blocked_connection_timeout = BLOCKED_S
        self.validator = MessageValidator(self)
        self._refused = LogThrottle()
        self.gate = QueueGate(self.get_declared_queues)
        self.refused_queues: set[str] = set()
        self.prefetch = Prefetch(self.gate)
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
            self.refused_queues.discard(queue_name)
            kind = _CheckedConsumer if queue_name == dq_name(queue_name) else _Consumer
            return kind(self, queue_name, prefetch, timeout)
        except ConnectionClosed as error:
            reason = queue_refusal(error)
            if reason is None:
                raise
            # The refusal lasts until the queue is deleted: log it now and then, and declare the queue again later.
            self.refused_queues.add(queue_name)
            self._refused.log(LogEvent.QUEUE_REFUSED, q_name(queue_name), queue=q_name(queue_name), reason=reason)
            return _RefusedQueueConsumer(timeout / 1000)

    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        arguments: dict[str, Any] = cast("Any", super())._build_queue_arguments(queue_name)
        if self.queue_type == "quorum":
            arguments |= {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT}
        return arguments

    def _declare_xq_queue(self, queue_name: str) -> Any:
        if self.queue_type != "quorum":
            return cast("Any", super())._declare_xq_queue(queue_name)
        arguments = {"x-queue-type": "quorum", "x-message-ttl": DEAD_MESSAGE_TTL}
        return self.channel.queue_declare(queue=xq_name(queue_name), durable=True, arguments=arguments)

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        """Publish a message, and wait until the server has stored it.

        Args:
            message: A message of any queue.
            delay: The time until it is due, in milliseconds.

        Raises:
            ConnectionClosed: The server is unreachable, or its memory or disk alarm is on.
        """
        queue = message.queue_name
        if delay is not None:
            options = {"eta": current_millis() + delay}
            message = cast("Any", message).copy(queue_name=dq_name(queue), options=options)
        properties = _PIKA.BasicProperties(delivery_mode=2, priority=message.options.get("broker_priority"))
        failures = 0
        while True:
            try:
                self.declare_queue(queue, ensure=True)
                self.require_unblocked()
                self.emit_before("enqueue", message, delay)
                self.channel.basic_publish(
                    "", message.queue_name, message.encode(), properties, mandatory=self.confirm_delivery
                )
                self.emit_after("enqueue", message, delay)
                return message
            except (_AMQP.AMQPConnectionError, _AMQP.AMQPChannelError) as error:
                del self.connection
                self.note_blocked(error)
                if isinstance(error, _AMQP.UnroutableError):
                    # The queue was deleted.
                    self.queues_pending.add(q_name(queue))
                failures += 1
                if failures == MAX_ATTEMPTS:
                    raise ConnectionClosed(error) from None

    @property
    def is_blocked(self) -> bool:
        """Whether the server's memory or disk alarm was on when this process last published."""
        return time.monotonic() < self._blocked_until

    def require_unblocked(self) -> None:
        """Require that the server reads what this process publishes, so that only one caller in a while waits for it.

        Raises:
            ConnectionClosed: The memory or disk alarm of the server is on.
        """
        if self.is_blocked:
            raise ConnectionClosed(BLOCKED)

    def note_blocked(self, error: BaseException) -> None:
        """Note that the server has blocked a connection, if that is the error of a publication.

        Raises:
            ConnectionClosed: The error is that of a blocked connection.
        """
        if isinstance(error, _AMQP.ConnectionBlockedTimeout):
            self._blocked_until = time.monotonic() + BLOCKED_PAUSE_S
            raise ConnectionClosed(BLOCKED) from None

    def report_timed_out(self, queue: str, reason: object) -> None:
        """Log that the server closed a channel because of its `consumer_timeout`, and adopt the timeout that it names.

        Args:
            queue: The queue of the consumer.
            reason: Why the channel was closed.
        """
        match = _TIMED_OUT.search(str(reason))
        if match is None:
            return
        if match[1] is not None:
            self.consumer_timeout_s = min(self.consumer_timeout_s, int(match[1]) / 1000)
        log_event(
            LogEvent.CONSUMER_TIMED_OUT,
            queue=queue,
            consumer_timeout_s=self.consumer_timeout_s,
            advice=f"set ?consumer_timeout={self.consumer_timeout_s:g}s in the URL of the broker, or raise "
            "consumer_timeout on the server",
        )


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
            consumer.broker.report_timed_out(q_name(consumer.queue_name), error)
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
        self._channel: Any = self.channel
        self._tags: set[int] = cast("Any", self).known_tags
        self._timeout_s = timeout / 1000
        self._prefetch = broker.prefetch
        self._gate = broker.gate
        self._refused_queues = broker.refused_queues
        self._waiter = self._prefetch.register(queue_name, capacity, self._wake)
        self._pushed: Any = None
        self._full_since: float | None = None
        self._is_listening = True
        self._deliveries = broker.deliveries
        self._expects_until = time.monotonic() + REDELIVERY_S
        # Whether everything that the server had for this consumer has arrived since it listens.
        self._is_settled = False

    def __next__(self) -> Any:
        if time.monotonic() < self._expects_until and self._deliveries.expects(self._queue):
            self._take_over()
            return None
        if self._queue in self._gate.paused:
            self._wait_paused()
            return None
        if not self._prefetch.has_free_slot(self._waiter) or self._gives_way():
            self._await_slot()
            return None
        self._full_since = None
        message, self._pushed = self._pushed, None
        if message is None:
            self._listen()
            self._prefetch.yield_turn(self._waiter)
            message = super().__next__()
            if message is not None and message.redelivered and self._deliveries.take_over(self, message):
                return None
        if message is not None and not self._prefetch.try_take(self._waiter, message):
            self._pushed, message = message, None
        if message is not None:
            self._deliveries.add(self, message)
        if self._gate.is_ordered:
            if message is None:
                self._settle()
            if self._is_settled:
                is_empty = self._pushed is None and not self.channel.get_waiting_message_count()
                self._prefetch.set_empty(self._queue, self._waiter, is_empty)
        return message

    def _gives_way(self) -> bool:
        """Return whether the consumer of an earlier queue may have a message, and wake it."""
        gives_way = False
        for queue in self._gate.earlier_queues(self._queue):
            waiter = self._prefetch.waiter_of(queue)
            if queue not in self._refused_queues and (waiter is None or not waiter.is_empty):
                gives_way = True
                if waiter is not None:
                    waiter.wake()
        return gives_way

    def _listen(self) -> None:
        is_settling = self._gate.is_ordered and not self._is_settled
        if is_settling or not self._is_listening:
            timeout_s = 0.0 if is_settling else self._timeout_s
            self.iterator = self.channel.consume(self._queue, inactivity_timeout=timeout_s)
            self._is_listening = True

    def _settle(self) -> None:
        """Wait for all messages that the server has for this consumer since it listens."""
        if self._is_settled:
            return
        try:
            # The server answers after it has sent the messages.
            self.channel.queue_declare(self._queue, passive=True)
            self.iterator = self.channel.consume(self._queue, inactivity_timeout=self._timeout_s)
        except (AssertionError, _AMQP.AMQPConnectionError, _AMQP.AMQPChannelError) as error:
            raise ConnectionClosed(error) from None
        self._is_settled = True

    def _wait_paused(self) -> None:
        """Return the messages of a paused queue, and process the server's events for a short time."""
        try:
            if self._is_listening:
                self._stop_listening()
            self._link.process_data_events(time_limit=self._timeout_s)
        except (AssertionError, _AMQP.AMQPConnectionError, _AMQP.AMQPChannelError) as error:
            raise ConnectionClosed(error) from None

    def _take_over(self) -> None:
        """Receive a message that this process runs already; return others to the queue, for other processes."""
        message = super().__next__()
        if message is not None and not (message.redelivered and self._deliveries.take_over(self, message)):
            self._requeue(message)

    def _requeue(self, message: Any) -> None:
        self._tags.discard(message._tag)
        self.channel.basic_reject(message._tag, requeue=True)

    def has(self, message: Any) -> bool:
        """Return whether the server waits for the acknowledgement of a message on this consumer's channel."""
        return bool(message._tag in self._tags and self._channel.is_open and self._link.is_open)

    def confirm(self, message: Any) -> None:
        """Acknowledge a message of this consumer, in any thread."""
        self._send(message, partial(self.channel.basic_ack, message._tag))

    def reject(self, message: Any) -> None:
        """Move a message of this consumer to the dead messages, in any thread."""
        self._send(message, partial(self.channel.basic_nack, message._tag, requeue=False))

    def _send(self, message: Any, call: Any) -> None:
        self._tags.discard(message._tag)
        self._link.add_callback_threadsafe(call)

    def _wake(self) -> None:
        # Interrupt the thread that waits on this connection.
        try:
            self._link.add_callback_threadsafe(lambda: None)
        except _AMQP.AMQPError:
            # The connection is closed; the next consumer polls anyway.
            return

    def _await_slot(self) -> None:
        """Wait for a short time while processing the server's events."""
        self._is_settled = False
        self._prefetch.set_empty(self._queue, self._waiter, False)
        now = time.monotonic()
        self._full_since = self._full_since or now
        full_s = now - self._full_since
        try:
            if self._is_listening and full_s >= HOLD_S:
                self._stop_listening()
            rest_s = min(self._timeout_s, HOLD_S - full_s) if self._is_listening else self._timeout_s
            self._link.process_data_events(time_limit=max(0.001, rest_s))
            if not self._channel.is_open:
                reason = getattr(self._channel, "_closing_reason", None)
                cast("Any", self).broker.report_timed_out(self._queue, reason)
                raise ConnectionClosed(reason)
        except (AssertionError, _AMQP.AMQPConnectionError, _AMQP.AMQPChannelError) as error:
            raise ConnectionClosed(error) from None

    def _stop_listening(self) -> None:
        """Cancel the consumer, and requeue the message that no thread has started."""
        self.channel.cancel()
        self._is_listening = self._is_settled = False
        self._prefetch.set_empty(self._queue, self._waiter, False)
        message, self._pushed = self._pushed, None
        if message is not None:
            self._requeue(message)

    def ack(self, message: Any) -> None:
        self._end(message, failed=False)

    def nack(self, message: Any) -> None:
        self._end(message, failed=True)

    def _end(self, message: Any, *, failed: bool) -> None:
        """Acknowledge or reject a message on the channel that delivered it, which may be that of an earlier consumer.

        If that channel is closed, the server delivers the message again, and the consumer that gets it ends it.
        """
        delivery = self._deliveries.remove(message)
        try:
            if delivery is None:
                return
            with delivery.lock:
                if delivery.is_acknowledged:
                    if delivery.on_end is not None:
                        delivery.on_end()
                    return
                if delivery.consumer.has(message):
                    with contextlib.suppress(_AMQP.AMQPError):
                        (delivery.consumer.reject if failed else delivery.consumer.confirm)(message)
                        return
                self._deliveries.remember_unconfirmed(message, failed=failed)
        finally:
            self._prefetch.release(message)

    def requeue(self, messages: Iterable[Any]) -> None:
        # The server requeues them when the connection closes.
        for message in messages:
            self._prefetch.release(message)
