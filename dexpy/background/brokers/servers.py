"""Brokers by URL: Redis and RabbitMQ, with settings that suit dexpy."""

from __future__ import annotations

import importlib
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import dramatiq

from dexpy.foundation.errors import ConfigurationError, MissingExtra

REDIS_SCHEMES = ("redis", "rediss", "unix")
RABBITMQ_SCHEMES = ("amqp", "amqps")
DATABASE_SCHEMES = ("sqlite", "postgresql", "mysql", "mariadb")

DEFAULT_NAMESPACE = "dramatiq"
"""Prefix of all keys on Redis, unless the URL names one."""
REDIS_MAINTENANCE_CHANCE = 100_000
"""In a million. Messages of a dead process come back with a look that one fetch in ten takes, not one in a thousand."""
REDIS_TIMEOUT_S = 10.0
"""A Redis server that says nothing for so long, in seconds, is taken for unreachable."""


def is_database(url: str) -> bool:
    """Whether a broker's URL names a database."""
    return url.partition(":")[0].partition("+")[0] in DATABASE_SCHEMES


def display(url: str) -> str:
    """A URL without its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{parts.netloc.rpartition('@')[2]}"))


def broker_from_url(url: str) -> dramatiq.Broker:
    """A Dramatiq broker for a server.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://``, ``amqp://`` or ``amqps://``. One of Redis may end in
            ``?namespace=shop``: the prefix of all keys, so that several applications share a server.
            On RabbitMQ a virtual host does that: ``amqp://user@host/shop``.

    Raises:
        ConfigurationError: Another kind of URL.
        MissingExtra: The package that it needs is not installed.
    """
    scheme = urlsplit(url).scheme
    if scheme in REDIS_SCHEMES:
        return _redis(*_without_namespace(url))
    if scheme in RABBITMQ_SCHEMES:
        return _rabbitmq(url)
    raise ConfigurationError(
        f"The broker {display(url)} is of a kind that dexpy does not know. It knows redis://, rediss://, amqp://, "
        "amqps:// and database URLs; any other dramatiq.Broker can be given itself: configure(broker=MyBroker(...))."
    )


def _without_namespace(url: str) -> tuple[str, str]:
    """A URL as the Redis client knows it, and the namespace that it named."""
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    named = [value for key, value in query if key == "namespace"]
    if not named:
        return url, DEFAULT_NAMESPACE
    if len(named) > 1 or not named[0]:
        raise ConfigurationError(
            f"The broker {display(url)} cannot be read: its namespace is {' and '.join(map(repr, named))}. "
            "Name one, as in redis://host/0?namespace=shop."
        )
    rest = [(key, value) for key, value in query if key != "namespace"]
    return urlunsplit(parts._replace(query=urlencode(rest))), named[0]


def _redis(url: str, namespace: str) -> dramatiq.Broker:
    import redis
    from dramatiq.brokers.redis import RedisBroker

    try:
        pool = _pool(redis.ConnectionPool, url)
    except ValueError as error:
        raise ConfigurationError(f"The broker {display(url)} cannot be read: {error}.") from None
    client: Any = redis.Redis(connection_pool=pool)
    return RedisBroker(client=client, namespace=namespace, maintenance_chance=REDIS_MAINTENANCE_CHANCE)  # type: ignore[no-untyped-call]


def _pool(pools: Any, url: str) -> Any:
    return pools.from_url(
        url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S, health_check_interval=30
    )


def _rabbitmq(url: str) -> dramatiq.Broker:
    try:
        importlib.import_module("pika")
    except ModuleNotFoundError:
        raise MissingExtra(f"The broker {display(url)}", "pika", "rabbitmq") from None
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    # With confirms: a message that RabbitMQ has not taken is one that the relay still owes.
    return RabbitmqBroker(url=url, confirm_delivery=True)


def check_reachable(broker: dramatiq.Broker) -> None:
    """Ask a server whether it is there.

    Raises:
        ConfigurationError: It is not, or does not let us in; says which of them as far as it can be known.
    """
    try:
        depth(broker, "default")
    except Exception as error:
        said = str(error) or type(error).__name__
        raise ConfigurationError(
            f"The broker cannot be reached: {type(error).__name__}: {said}. "
            "Is the server running, and are host, port, user and password right?"
        ) from error


def depth(broker: Any, queue: str) -> int | None:
    """How many messages a server holds for a queue, running ones included; None where that cannot be known."""
    if hasattr(broker, "do_qsize"):
        return int(broker.do_qsize(queue))
    if hasattr(broker, "get_queue_message_counts"):
        broker.declare_queue(queue, ensure=True)
        return int(broker.get_queue_message_counts(queue)[0])
    return None
