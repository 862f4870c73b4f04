"""Brokers by URL: Redis and RabbitMQ, with the settings that dexpy requires."""

from __future__ import annotations

from typing import Any

import dramatiq
from dramatiq.common import dq_name
from dramatiq.errors import ConnectionClosed

from dexpy.brokers import rabbitmq_urls, redis_urls
from dexpy.brokers.bulk_publish import is_rabbitmq
from dexpy.brokers.diagnostics import BLOCKED, one_line
from dexpy.brokers.sql.broker import SqlBroker
from dexpy.foundation.errors import ConfigurationError
from dexpy.foundation.urls import displayed_url, is_unambiguous, without_secrets

DATABASE_SCHEMES = ("sqlite", "postgresql", "mysql", "mariadb")


def is_database(url: str) -> bool:
    """Return whether the URL of a broker is that of a database."""
    return url.partition(":")[0].partition("+")[0] in DATABASE_SCHEMES


def broker_from_url(url: str, *, heartbeat_timeout_s: float = 60.0) -> dramatiq.Broker:
    """Return a Dramatiq broker for a server.

    Args:
        url: A URL with ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://``, ``rediss+sentinel://``,
            ``amqp://`` or ``amqps://``. To share a server between applications, end a URL of Redis in
            ``?namespace=shop``, the prefix of all keys, and use a virtual host on RabbitMQ: ``amqp://user@host/shop``.
        heartbeat_timeout_s: On Redis, a process without a heartbeat for this long, in seconds, loses its messages.

    Raises:
        ConfigurationError: The URL is invalid or of another kind.
        MissingExtra: A package that the broker requires is not installed.
    """
    scheme = url.partition(":")[0]
    if scheme in redis_urls.SCHEMES + rabbitmq_urls.SCHEMES and not is_unambiguous(url):
        raise ConfigurationError(
            f"broker: ambiguous URL {displayed_url(url)!r}; its password is not escaped. "
            "Write / ? # @ in a password as %2F %3F %23 %40."
        )
    try:
        if scheme in redis_urls.SCHEMES:
            return redis_urls.redis_broker(url, heartbeat_timeout_s)
        if scheme in rabbitmq_urls.SCHEMES:
            return rabbitmq_urls.rabbitmq_broker(url)
    except (ValueError, SyntaxError, OSError, TypeError, LookupError, AttributeError) as error:
        # Pika evaluates its options as Python, and opens their files.
        reason = without_secrets(one_line(error), url)
        raise ConfigurationError(f"broker: invalid URL {displayed_url(url)!r}: {reason}.") from None
    raise ConfigurationError(
        f"broker {displayed_url(url)}: unknown kind; expected redis://, rediss://, unix://, redis+sentinel://, "
        "amqp://, amqps:// or a database URL. Pass any other dramatiq.Broker as an instance: "
        "configure(broker=MyBroker(...))."
    )


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
    if is_blocked(broker):
        raise ConnectionClosed(BLOCKED)  # type: ignore[no-untyped-call]


def is_blocked(broker: Any) -> bool:
    """Return whether RabbitMQ has accepted nothing lately, because its memory or disk alarm is on."""
    return bool(getattr(broker, "is_blocked", False))


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
        if (sentinels := redis_urls.sentinels_of(broker.client)) is not None:
            return f"Redis at {sentinels}"
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
