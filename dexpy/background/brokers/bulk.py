"""Many messages handed to a server in one go: one answer for all of them, where its kind of broker allows it.

Dramatiq sends one at a time, and waits for each. What is done here is the same but for the waiting; the middleware
hears of each message.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import dramatiq


def enqueue_together(broker: Any, messages: Sequence[dramatiq.Message[Any]], delay_s: float = 0.0) -> None:
    """Hand over messages; when it fails, some of them may have been taken.

    Args:
        broker: Of any kind; one that is not known here gets them one after another.
        messages: To queues that are declared.
        delay_s: Seconds until they are due; with a delay they go one after another, too.
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
    """Whether this is Dramatiq's broker over RabbitMQ, or made from it; told without pika, which may be missing."""
    return any(cls.__name__ == "RabbitmqBroker" for cls in type(broker).__mro__)


def _publish(broker: Any, messages: Sequence[dramatiq.Message[Any]]) -> None:
    """In a transaction of RabbitMQ's: all are in their queues when its commit is answered."""
    pika: Any = importlib.import_module("pika")
    try:
        for name in {message.queue_name for message in messages}:
            broker.declare_queue(name, ensure=True)
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
    except (pika.exceptions.AMQPError, OSError):
        # As Dramatiq does: the next one gets a new connection.
        del broker.connection
        raise
