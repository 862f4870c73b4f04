"""Brokers on RabbitMQ by URL, with the options of dexpy: the type of the queues and the server's `consumer_timeout`."""

from __future__ import annotations

import importlib
from typing import Any
from urllib.parse import unquote

import dramatiq

from dexpy.brokers.rabbitmq_deliveries import CONSUMER_TIMEOUT_S
from dexpy.foundation.durations import parse_duration
from dexpy.foundation.errors import ConfigurationError, MissingExtra
from dexpy.foundation.urls import displayed_url

SCHEMES = ("amqp", "amqps")
QUEUE_TYPES = ("classic", "quorum")
SHORTEST_CONSUMER_TIMEOUT_S, LONGEST_CONSUMER_TIMEOUT_S = 1.0, 30 * 86400.0


def rabbitmq_broker(url: str) -> dramatiq.Broker:
    """Return a broker on RabbitMQ.

    Args:
        url: A URL with one of `SCHEMES`, with an escaped password.

    Raises:
        ConfigurationError: An option of dexpy has an invalid value.
        MissingExtra: The client is not installed.
        ValueError: The client refuses the URL.
    """
    plain_url, options = _without_options(url)
    queue_type = options.get("queue_type", "classic")
    if queue_type not in QUEUE_TYPES:
        raise ConfigurationError(
            f"broker {displayed_url(url)}: queue_type: expected 'classic' or 'quorum', got {queue_type!r}."
        )
    consumer_timeout_s = CONSUMER_TIMEOUT_S
    if (text := options.get("consumer_timeout")) is not None:
        seconds = parse_duration(text)
        if seconds is None or not SHORTEST_CONSUMER_TIMEOUT_S <= seconds <= LONGEST_CONSUMER_TIMEOUT_S:
            raise ConfigurationError(
                f"broker {displayed_url(url)}: consumer_timeout: expected a duration from 1s to 30d with its unit, "
                f"such as 30m, got {text!r}."
            )
        consumer_timeout_s = seconds
    try:
        importlib.import_module("pika")
    except ModuleNotFoundError:
        raise MissingExtra(f"broker {displayed_url(url)}", "pika", "rabbitmq") from None
    from dexpy.brokers.rabbitmq import DexpyRabbitmqBroker

    # Confirm deliveries: the relay must republish messages that RabbitMQ has not accepted.
    return DexpyRabbitmqBroker(
        url=plain_url, confirm_delivery=True, queue_type=queue_type, consumer_timeout_s=consumer_timeout_s
    )


def _without_options(url: str) -> tuple[str, dict[str, Any]]:
    """Return a URL for the client, and the options of dexpy; other parameters stay as they are written."""
    address, _, query = url.partition("?")
    scheme, _, rest = address.partition("://")
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    if at and ":" not in user:
        # The client refuses a user without a password with an error about its own code.
        address = f"{scheme}://{user}:@{host}{slash}{path}"
    options: dict[str, Any] = {}
    parameters: list[str] = []
    for parameter in filter(None, query.split("&")):
        name, _, value = parameter.partition("=")
        if name not in ("queue_type", "consumer_timeout"):
            parameters.append(parameter)
        elif name in options:
            raise ConfigurationError(f"broker {displayed_url(url)}: {name}: expected one value, got several.")
        else:
            options[name] = unquote(value)
    return address + (f"?{'&'.join(parameters)}" if parameters else ""), options
