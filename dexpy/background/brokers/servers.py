"""Brokers by URL: Redis and RabbitMQ, with settings that suit dexpy."""

from __future__ import annotations

import importlib
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import dramatiq

from dexpy.background.brokers.sql import SqlBroker
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

    from dexpy.background.brokers.redis import LosslessRedisBroker

    try:
        pool = _pool(redis.ConnectionPool, url)
    except ValueError as error:
        raise ConfigurationError(f"The broker {display(url)} cannot be read: {error}.") from None
    client: Any = redis.Redis(connection_pool=pool)
    return LosslessRedisBroker(client=client, namespace=namespace, maintenance_chance=REDIS_MAINTENANCE_CHANCE)


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
        raise MissingExtra(f"The broker {display(url)}", "pika", "rabbitmq") from None
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    # With confirms: a message that RabbitMQ has not taken is one that the relay still owes.
    return RabbitmqBroker(url=url, confirm_delivery=True)


class NoAnswer(ConfigurationError):
    """The broker's server does not answer; it may do so later."""


REFUSALS = ("Auth", "AccessDenied", "NoPermission", "ResponseError", "SSL", "Certificate")
"""Parts of the names of errors by which a server, or its certificate, says that waiting will not help."""


def check_reachable(broker: Any) -> None:
    """Ask a server whether it is there.

    Raises:
        NoAnswer: It is not, or not now.
        ConfigurationError: It is, and does not let us in.
    """
    try:
        depth(broker, "default")
    except Exception as error:
        said = " ".join(str(error).split()).rstrip(".")
        problem = f"{display_of(broker)} %s: {type(error).__name__}: {said}. %s"
        if _is_refusal(error):
            advice = "Are user, password, virtual host and certificate right?"
            raise ConfigurationError(problem % ("does not let us in", advice)) from error
        raise NoAnswer(problem % ("does not answer", "Is the server running, and are host and port right?")) from error
    finally:
        _let_go(broker)


def _is_refusal(error: BaseException) -> bool:
    # Dramatiq wraps what Pika says, and drops it as the cause.
    inner: Any = getattr(error, "message", None)
    names = [kind.__name__ for one in (error, inner) if one is not None for kind in type(one).__mro__]
    return any(part in name for name in names for part in REFUSALS) or "[SSL" in str(error)


def _let_go(broker: Any) -> None:
    """Close what a look has opened in this thread: nobody would answer RabbitMQ's heartbeats on it."""
    if type(broker).__name__ == "RabbitmqBroker" and getattr(broker.state, "connection", None) is not None:
        del broker.connection


def display_of(broker: Any) -> str:
    """A broker in words, without its password."""
    if isinstance(broker, SqlBroker):
        return f"The broker {broker.database.display}"
    if hasattr(broker, "do_qsize"):
        facts: dict[str, Any] = broker.client.connection_pool.connection_kwargs
        where = facts.get("path") or f"{facts.get('host', 'localhost')}:{facts.get('port', 6379)}"
        return f"The broker Redis at {where}"
    parameters: Any = getattr(broker, "parameters", None)
    if hasattr(parameters, "virtual_host"):
        return f"The broker RabbitMQ at {parameters.host}:{parameters.port}, virtual host {parameters.virtual_host!r}"
    return f"The broker {type(broker).__name__}"


def depth(broker: Any, queue: str) -> int | None:
    """How many messages a server holds for a queue, running ones included; None where that cannot be known."""
    if isinstance(broker, SqlBroker):
        pending = broker.pending([queue])
        return pending.due + pending.leased
    if hasattr(broker, "do_qsize"):
        return int(broker.do_qsize(queue))
    if hasattr(broker, "get_queue_message_counts"):
        broker.declare_queue(queue, ensure=True)
        return int(broker.get_queue_message_counts(queue)[0])
    return None
