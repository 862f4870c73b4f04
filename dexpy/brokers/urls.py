"""Brokers by URL: Redis and RabbitMQ, with settings that suit dexpy."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import dramatiq
from dramatiq.common import dq_name

from dexpy.brokers.bulk_publish import is_rabbitmq
from dexpy.brokers.diagnostics import one_line
from dexpy.brokers.sql.broker import SqlBroker
from dexpy.foundation.errors import ConfigurationError, MissingExtra, did_you_mean, listed
from dexpy.foundation.urls import displayed_url, is_unambiguous, without_secrets

REDIS_SCHEMES = ("redis", "rediss", "unix")
RABBITMQ_SCHEMES = ("amqp", "amqps")
DATABASE_SCHEMES = ("sqlite", "postgresql", "mysql", "mariadb")

DEFAULT_NAMESPACE = "dramatiq"
"""Prefix of all keys on Redis, unless the URL names one."""
REDIS_MAINTENANCE_CHANCE = 100_000
"""In a million: one fetch in ten also requeues the messages of dead processes, not one in a thousand."""
REDIS_TIMEOUT_S = 10.0
"""A Redis server that does not answer for so long, in seconds, counts as unreachable."""


def is_database(url: str) -> bool:
    """Return whether a broker's URL names a database."""
    return url.partition(":")[0].partition("+")[0] in DATABASE_SCHEMES


def broker_from_url(url: str, *, heartbeat_timeout_s: float = 60.0) -> dramatiq.Broker:
    """Return a Dramatiq broker for a server.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://``, ``amqp://`` or ``amqps://``. One of Redis may end in
            ``?namespace=shop``: the prefix of all keys, so that several applications share a server.
            On RabbitMQ a virtual host does that: ``amqp://user@host/shop``.
        heartbeat_timeout_s: A process without a heartbeat for so long, in seconds, loses its messages on Redis.

    Raises:
        ConfigurationError: Another kind of URL.
        MissingExtra: The package that it needs is not installed.
    """
    scheme = url.partition(":")[0]
    if scheme in REDIS_SCHEMES + RABBITMQ_SCHEMES and not is_unambiguous(url):
        raise ConfigurationError(
            f"The broker {displayed_url(url)} cannot be read: its host and port cannot be told from its password. "
            "A sign like / ? # @ in a password is written %2F %3F %23 %40."
        )
    try:
        if scheme in REDIS_SCHEMES:
            return _redis(*_without_namespace(url), heartbeat_timeout_s)
        if scheme in RABBITMQ_SCHEMES:
            return _rabbitmq(url)
    except (ValueError, SyntaxError, OSError, TypeError, LookupError, AttributeError) as error:
        # Pika reads its options as Python, and opens the files that they name.
        reason = without_secrets(one_line(error), url)
        raise ConfigurationError(f"The broker {displayed_url(url)} cannot be read: {reason}.") from None
    raise ConfigurationError(
        f"The broker {displayed_url(url)} is of a kind that dexpy does not know. "
        "It knows redis://, rediss://, amqp://, amqps:// and database URLs; any other dramatiq.Broker can be given "
        "itself: configure(broker=MyBroker(...))."
    )


def _without_namespace(url: str) -> tuple[str, str]:
    """Return a URL for the Redis client, and the namespace that it had."""
    query = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    namespaces = [value for key, value in query if key == "namespace"]
    if not namespaces:
        _check_options(url, query)
        return url, DEFAULT_NAMESPACE
    if len(namespaces) > 1 or not namespaces[0]:
        raise ConfigurationError(
            f"The broker {displayed_url(url)} cannot be read: it names {len(namespaces)} namespaces, or an empty one. "
            "Name one, as in redis://host/0?namespace=shop."
        )
    other_options = [(key, value) for key, value in query if key != "namespace"]
    _check_options(url, other_options)
    # Not put together again from its parts: that forgets the empty host of unix:///path.
    return url.partition("?")[0] + (f"?{urlencode(other_options)}" if other_options else ""), namespaces[0]


CLIENT_OPTIONS = frozenset({
    "client_name", "db", "health_check_interval", "lib_name", "lib_version", "max_connections", "password", "protocol",
    "socket_connect_timeout", "socket_keepalive", "socket_read_size", "socket_timeout", "timeout", "username",
})  # fmt: skip
"""Options that a Redis URL may have, beside those of TLS: they do not change the answers."""


def _check_options(url: str, query: Collection[tuple[str, str]]) -> None:
    """Refuse an option that would change the types or bytes of answers, or repeat commands.

    Raises:
        ConfigurationError: Names the option.
    """
    for name, value in query:
        if name not in CLIENT_OPTIONS and not name.startswith("ssl_"):
            raise ConfigurationError(
                f"The broker {displayed_url(url)}: option {name!r} is not for a broker; expected namespace, "
                f"one that begins with ssl_, or {listed(CLIENT_OPTIONS)}. "
                f"Remove it from the URL.{did_you_mean(name, CLIENT_OPTIONS)}"
            )
        if name == "protocol" and value not in ("2", "3"):
            raise ConfigurationError(f"The broker {displayed_url(url)}: protocol: expected 2 or 3, got {value!r}.")


def _redis(url: str, namespace: str, heartbeat_timeout_s: float) -> dramatiq.Broker:
    import redis

    from dexpy.brokers.redis import DexpyRedisBroker

    client: Any = redis.Redis(connection_pool=_pool(redis.ConnectionPool, url))
    return DexpyRedisBroker(
        client=client,
        namespace=namespace,
        maintenance_chance=REDIS_MAINTENANCE_CHANCE,
        heartbeat_timeout=round(heartbeat_timeout_s * 1000),
    )


def _pool(pools: Any, url: str) -> Any:
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    # Tried again by dexpy and Dramatiq, not by the client: a fetch done twice leaves the messages of the first behind.
    never = Retry(NoBackoff(), 0)
    return pools.from_url(
        url,
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
        health_check_interval=30,
        retry=never,
    )


def _rabbitmq(url: str) -> dramatiq.Broker:
    try:
        importlib.import_module("pika")
    except ModuleNotFoundError:
        raise MissingExtra(f"The broker {displayed_url(url)}", "pika", "rabbitmq") from None
    from dexpy.brokers.rabbitmq import DexpyRabbitmqBroker

    # With confirms: a message that RabbitMQ has not taken is one that the relay still owes.
    return DexpyRabbitmqBroker(url=url, confirm_delivery=True)


def ping(broker: Any) -> None:
    """Check that the server answers, over this thread's own connection, which stays open for the next message.

    Raises:
        Exception: The client's error, if it does not.
    """
    try:
        queue_depth(broker, "default")
    except Exception:  # noqa: BLE001 - an idle connection may have been closed; tried again over a new one
        close_thread_connection(broker)
        queue_depth(broker, "default")


def is_redis(broker: Any) -> bool:
    """Return whether a broker is on Redis."""
    return hasattr(broker, "do_qsize")


def close_thread_connection(broker: Any) -> None:
    """Close the connection of this thread, which would not answer RabbitMQ's heartbeats."""
    if is_rabbitmq(broker) and getattr(broker.state, "connection", None) is not None:
        del broker.connection


def display_of(broker: Any) -> str:
    """Return the name of a broker for messages, without its password."""
    if isinstance(broker, SqlBroker):
        return f"The broker {broker.database.display_url}"
    if is_redis(broker):
        facts: dict[str, Any] = broker.client.connection_pool.connection_kwargs
        where = facts.get("path") or f"{facts.get('host', 'localhost')}:{facts.get('port', 6379)}"
        return f"The broker Redis at {where}"
    parameters: Any = getattr(broker, "parameters", None)
    if hasattr(parameters, "virtual_host"):
        return f"The broker RabbitMQ at {parameters.host}:{parameters.port}, virtual host {parameters.virtual_host!r}"
    return f"The broker {type(broker).__name__}"


def num_waiting(broker: Any, queue: str) -> int | None:
    """Return how many messages of a queue no worker holds; None if the broker cannot count them."""
    return int(broker.client.llen(f"{broker.namespace}:{queue}")) if is_redis(broker) else queue_depth(broker, queue)


def queue_depth(broker: Any, queue: str) -> int | None:
    """Return how many messages a queue has, with delayed ones and, except on RabbitMQ, those in progress.

    None if the broker cannot count them.
    """
    if isinstance(broker, SqlBroker):
        pending = broker.pending([queue])
        return pending.due + pending.leased
    if is_redis(broker):
        # Not Dramatiq's own count, which has twice what this very process holds.
        names = (f"{broker.namespace}:{name}.msgs" for name in (queue, dq_name(queue)))
        return sum(int(broker.client.hlen(name)) for name in names)
    if hasattr(broker, "get_queue_message_counts"):
        broker.declare_queue(queue, ensure=True)
        return int(broker.get_queue_message_counts(queue)[0])
    return None
