"""Publishes many messages in one round trip, where the kind of broker allows it.

Dramatiq sends one message at a time and waits for each answer. dexpy does not wait between messages, and calls the
middleware for each of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import dramatiq


def enqueue_together(broker: Any, messages: Sequence[dramatiq.Message[Any]], delay_s: float = 0.0) -> None:
    """Publish messages; if an error is raised, some of them may have been published.

    Args:
        broker: Any broker; to an unknown kind, messages are sent one after another.
        messages: Messages for declared queues.
        delay_s: Seconds until they are due; with a delay they are sent one after another.
    """
    if delay_s or len(messages) == 1:
        for message in messages:
            broker.enqueue(message, delay=round(delay_s * 1000) or None)
    elif hasattr(broker, "enqueue_together"):
        broker.enqueue_together(messages)
    elif is_rabbitmq(broker):
        _publish(broker, messages)
    else:
        for message in messages:
            broker.enqueue(message)


def is_rabbitmq(broker: Any) -> bool:
    """Return whether a broker is Dramatiq's for RabbitMQ or of a subclass, without importing pika."""
    return any(cls.__name__ == "RabbitmqBroker" for cls in type(broker).__mro__)


def _publish(broker: Any, messages: Sequence[dramatiq.Message[Any]]) -> None:
    """Publish in a transaction of RabbitMQ: all messages are in their queues when the commit is confirmed."""
    pika: Any = importlib.import_module("pika")
    try:
        for name in {message.queue_name for message in messages}:
            broker.declare_queue(name, ensure=True)
        if hasattr(broker, "require_unblocked"):
            broker.require_unblocked()
        channel = broker.connection.channel()
        channel.tx_select()
        for message in messages:
            broker.emit_before("enqueue", message, None)
            priority = message.options.get("broker_priority")
            properties = pika.BasicProperties(delivery_mode=2, priority=priority)
            channel.basic_publish("", message.queue_name, message.encode(), properties)
            broker.emit_after("enqueue", message, None)
        channel.tx_commit()
        channel.close()
    except (pika.exceptions.AMQPError, OSError) as error:
        # As in Dramatiq, the next message gets a new connection.
        del broker.connection
        if hasattr(broker, "note_blocked"):
            broker.note_blocked(error)
        raise
