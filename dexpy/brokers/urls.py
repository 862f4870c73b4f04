"""Brokers by URL: Redis and RabbitMQ, with the settings that dexpy requires."""

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
"""The prefix of all keys on Redis, unless the URL has one."""
REDIS_MAINTENANCE_CHANCE = 100_000
"""How many of a million fetches also requeue the messages of dead processes; by Dramatiq's default, a thousand."""
REDIS_TIMEOUT_S = 10.0
"""A Redis server that does not answer for this long, in seconds, is unreachable."""


def is_database(url: str) -> bool:
    """Return whether the URL of a broker is that of a database."""
    return url.partition(":")[0].partition("+")[0] in DATABASE_SCHEMES


def broker_from_url(url: str, *, heartbeat_timeout_s: float = 60.0) -> dramatiq.Broker:
    """Return a Dramatiq broker for a server.

    Args:
        url: A URL with ``redis://``, ``rediss://``, ``unix://``, ``amqp://`` or ``amqps://``. To share a server between
            applications, end a URL of Redis in ``?namespace=shop``, the prefix of all keys, and use a virtual host on
            RabbitMQ: ``amqp://user@host/shop``.
        heartbeat_timeout_s: On Redis, a process without a heartbeat for this long, in seconds, loses its messages.

    Raises:
        ConfigurationError: The URL is invalid or of another kind.
        MissingExtra: A package that the broker requires is not installed.
    """
    scheme = url.partition(":")[0]
    if scheme in REDIS_SCHEMES + RABBITMQ_SCHEMES and not is_unambiguous(url):
        raise ConfigurationError(
            f"broker: ambiguous URL {displayed_url(url)!r}; its password is not escaped. "
            "Write / ? # @ in a password as %2F %3F %23 %40."
        )
    try:
        if scheme in REDIS_SCHEMES:
            return _redis(*_without_namespace(url), heartbeat_timeout_s)
        if scheme in RABBITMQ_SCHEMES:
            return _rabbitmq(url)
    except (ValueError, SyntaxError, OSError, TypeError, LookupError, AttributeError) as error:
        # Pika evaluates its options as Python, and opens their files.
        reason = without_secrets(one_line(error), url)
        raise ConfigurationError(f"broker: invalid URL {displayed_url(url)!r}: {reason}.") from None
    raise ConfigurationError(
        f"broker {displayed_url(url)}: unknown kind; expected redis://, rediss://, unix://, amqp://, amqps:// or a "
        "database URL. Pass any other dramatiq.Broker as an instance: configure(broker=MyBroker(...))."
    )


def _without_namespace(url: str) -> tuple[str, str]:
    """Return a URL without its namespace, for the Redis client, and the namespace."""
    query = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    namespaces = [value for key, value in query if key == "namespace"]
    if not namespaces:
        _check_options(url, query)
        return url, DEFAULT_NAMESPACE
    if len(namespaces) > 1 or not namespaces[0]:
        raise ConfigurationError(
            f"broker: invalid URL {displayed_url(url)!r}; expected one namespace that is not empty, "
            f"got {len(namespaces) if namespaces[0] else 'an empty one'}. "
            "Write for example redis://host/0?namespace=shop."
        )
    other_options = [(key, value) for key, value in query if key != "namespace"]
    _check_options(url, other_options)
    # Do not rebuild the URL from its parts: that drops the empty host of unix:///path.
    return url.partition("?")[0] + (f"?{urlencode(other_options)}" if other_options else ""), namespaces[0]


CLIENT_OPTIONS = frozenset({
    "client_name", "db", "health_check_interval", "lib_name", "lib_version", "max_connections", "password", "protocol",
    "socket_connect_timeout", "socket_keepalive", "socket_read_size", "socket_timeout", "timeout", "username",
})  # fmt: skip
"""The options that a Redis URL may have besides those of TLS; none of them changes the server's answers."""


def _check_options(url: str, query: Collection[tuple[str, str]]) -> None:
    """Refuse an option that would change the types or bytes of answers, or retry commands.

    Raises:
        ConfigurationError: An option is unknown or invalid.
    """
    for name, value in query:
        if name not in CLIENT_OPTIONS and not name.startswith("ssl_"):
            raise ConfigurationError(
                f"broker {displayed_url(url)}: unsupported option {name!r}; expected namespace, an option that starts "
                f"with ssl_, or {listed(CLIENT_OPTIONS)}. Remove it from the URL.{did_you_mean(name, CLIENT_OPTIONS)}"
            )
        if name == "protocol" and value not in ("2", "3"):
            raise ConfigurationError(f"broker {displayed_url(url)}: protocol: expected 2 or 3, got {value!r}.")


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

    # dexpy and Dramatiq retry, not the client: the messages of a fetch that the client repeats would be lost.
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
        raise MissingExtra(f"broker {displayed_url(url)}", "pika", "rabbitmq") from None
    from dexpy.brokers.rabbitmq import DexpyRabbitmqBroker

    # Confirm deliveries: the relay must republish messages that RabbitMQ has not accepted.
    return DexpyRabbitmqBroker(url=url, confirm_delivery=True)


def ping(broker: Any) -> None:
    """Check that the server answers, over this thread's own connection, which stays open for the next message.

    Raises:
        Exception: The server does not answer; the error is the client's.
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
    """Close the connection of this thread, on which no code would answer RabbitMQ's heartbeats."""
    if is_rabbitmq(broker) and getattr(broker.state, "connection", None) is not None:
        del broker.connection


def display_of(broker: Any) -> str:
    """Return the name of a broker for messages, without its password: ``Redis at host:6379``."""
    if isinstance(broker, SqlBroker):
        return broker.database.display_url
    if is_redis(broker):
        facts: dict[str, Any] = broker.client.connection_pool.connection_kwargs
        where = facts.get("path") or f"{facts.get('host', 'localhost')}:{facts.get('port', 6379)}"
        return f"Redis at {where}"
    parameters: Any = getattr(broker, "parameters", None)
    if hasattr(parameters, "virtual_host"):
        return f"RabbitMQ at {parameters.host}:{parameters.port}, virtual host {parameters.virtual_host!r}"
    return type(broker).__name__


def num_waiting(broker: Any, queue: str) -> int | None:
    """Return the number of messages of a queue that no worker holds; None for a broker that does not count."""
    return int(broker.client.llen(f"{broker.namespace}:{queue}")) if is_redis(broker) else queue_depth(broker, queue)


def queue_depth(broker: Any, queue: str) -> int | None:
    """Return the number of messages of a queue, with delayed ones and, except on RabbitMQ, those in progress.

    None for a broker that does not count.
    """
    if isinstance(broker, SqlBroker):
        pending = broker.pending([queue])
        return pending.due + pending.leased
    if is_redis(broker):
        # Dramatiq's own count includes the messages that this process holds twice.
        names = (f"{broker.namespace}:{name}.msgs" for name in (queue, dq_name(queue)))
        return sum(int(broker.client.hlen(name)) for name in names)
    if hasattr(broker, "get_queue_message_counts"):
        broker.declare_queue(queue, ensure=True)
        return int(broker.get_queue_message_counts(queue)[0])
    return None
