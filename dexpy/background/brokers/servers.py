"""Brokers by URL: Redis and RabbitMQ, with settings that suit dexpy."""

from __future__ import annotations

import importlib
import re
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import dramatiq
from dramatiq.common import dq_name

from dexpy.background.brokers.bulk import is_rabbitmq
from dexpy.background.brokers.refusals import in_one_line, lacks_tls, refusal, said
from dexpy.background.brokers.sql import SqlBroker
from dexpy.background.brokers.tongue import Address
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
    hidden = re.sub(r"([?&][^=&]*pass[^=&]*=)[^&]*", r"\1***", url, flags=re.IGNORECASE)
    return re.sub(r"^([^:/]*:/*[^:/@]*):.*@", r"\1:***@", hidden)


def broker_from_url(url: str, *, silent_s: float = 60.0) -> dramatiq.Broker:
    """A Dramatiq broker for a server.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://``, ``amqp://`` or ``amqps://``. One of Redis may end in
            ``?namespace=shop``: the prefix of all keys, so that several applications share a server.
            On RabbitMQ a virtual host does that: ``amqp://user@host/shop``.
        silent_s: A process that says nothing for so long, in seconds, loses its messages on Redis to others.

    Raises:
        ConfigurationError: Another kind of URL.
        MissingExtra: The package that it needs is not installed.
    """
    scheme = url.partition(":")[0]
    try:
        if scheme in REDIS_SCHEMES:
            return _redis(*_without_namespace(url), silent_s)
        if scheme in RABBITMQ_SCHEMES:
            return _rabbitmq(url)
    except (ValueError, SyntaxError, OSError) as error:
        # Pika reads its options as Python, and opens the files that they name.
        why = in_one_line(error)
        if "port" in why.lower():
            # What is taken for the port may be the end of a password.
            why = "its port is no number. A sign like / ? # @ in a password is written %2F %3F %23 %40"
        raise ConfigurationError(f"The broker {display(url)} cannot be read: {why}.") from None
    raise ConfigurationError(
        f"The broker {display(url)} is of a kind that dexpy does not know. It knows redis://, rediss://, amqp://, "
        "amqps:// and database URLs; any other dramatiq.Broker can be given itself: configure(broker=MyBroker(...))."
    )


def _without_namespace(url: str) -> tuple[str, str]:
    """A URL as the Redis client knows it, and the namespace that it named."""
    query = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    named = [value for key, value in query if key == "namespace"]
    if not named:
        return url, DEFAULT_NAMESPACE
    if len(named) > 1 or not named[0]:
        raise ConfigurationError(
            f"The broker {display(url)} cannot be read: its namespace is {' and '.join(map(repr, named))}. "
            "Name one, as in redis://host/0?namespace=shop."
        )
    rest = [(key, value) for key, value in query if key != "namespace"]
    # Not put together again from its parts: that forgets the empty host of unix:///path.
    return url.partition("?")[0] + (f"?{urlencode(rest)}" if rest else ""), named[0]


def _redis(url: str, namespace: str, silent_s: float) -> dramatiq.Broker:
    import redis

    from dexpy.background.brokers.redis import LosslessRedisBroker

    client: Any = redis.Redis(connection_pool=_pool(redis.ConnectionPool, url))
    return LosslessRedisBroker(
        client=client,
        namespace=namespace,
        maintenance_chance=REDIS_MAINTENANCE_CHANCE,
        heartbeat_timeout=round(silent_s * 1000),
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
        raise MissingExtra(f"The broker {display(url)}", "pika", "rabbitmq") from None
    from dexpy.background.brokers.rabbitmq import FrugalRabbitmqBroker

    # With confirms: a message that RabbitMQ has not taken is one that the relay still owes.
    return FrugalRabbitmqBroker(url=url, confirm_delivery=True)


def ask(broker: Any) -> None:
    """Ask a server whether it is there, over this thread's own connection, which stays open for what is sent next.

    Raises:
        Exception: Of the client: it is not.
    """
    try:
        depth(broker, "default")
    except Exception:  # noqa: BLE001 - a connection that lay idle may have been closed; asked once more over a new one
        let_go(broker)
        depth(broker, "default")


class NoAnswer(ConfigurationError):
    """The broker's server does not answer; it may do so later."""


def check_reachable(broker: Any) -> None:
    """Ask a server whether it is there.

    Raises:
        NoAnswer: It is not, or not now.
        ConfigurationError: It is, and does not let us in.
    """
    name, address, is_redis = display_of(broker), _address_of(broker), _is_redis(broker)
    if (why := lacks_tls(address, is_redis)) is not None:
        raise ConfigurationError(f"{name} does not let us in: {why}")
    try:
        depth(broker, "default")
    except Exception as error:
        if (why := refusal(error, address, is_redis)) is not None:
            raise ConfigurationError(f"{name} does not let us in: {why}") from error
        raise NoAnswer(
            f"{name} does not answer: {said(error)} Is the server running, and are host and port right?"
        ) from error
    finally:
        let_go(broker)


def _is_redis(broker: Any) -> bool:
    return hasattr(broker, "do_qsize")


def _address_of(broker: Any) -> Address | None:
    """Where a broker's server listens; None where that cannot be seen."""
    if _is_redis(broker):
        pool: Any = broker.client.connection_pool
        facts: dict[str, Any] = getattr(pool, "connection_kwargs", {})
        if "host" not in facts:
            return None
        secure = "SSL" in getattr(pool, "connection_class", type(None)).__name__
        return Address(facts["host"], facts.get("port", 6379), secure)
    parameters: Any = getattr(broker, "parameters", None)
    if hasattr(parameters, "virtual_host"):
        return Address(parameters.host, parameters.port, parameters.ssl_options is not None)
    return None


def let_go(broker: Any) -> None:
    """Close what a look has opened in this thread: nobody would answer RabbitMQ's heartbeats on it."""
    if is_rabbitmq(broker) and getattr(broker.state, "connection", None) is not None:
        del broker.connection


def display_of(broker: Any) -> str:
    """A broker in words, without its password."""
    if isinstance(broker, SqlBroker):
        return f"The broker {broker.database.display}"
    if _is_redis(broker):
        facts: dict[str, Any] = broker.client.connection_pool.connection_kwargs
        where = facts.get("path") or f"{facts.get('host', 'localhost')}:{facts.get('port', 6379)}"
        return f"The broker Redis at {where}"
    parameters: Any = getattr(broker, "parameters", None)
    if hasattr(parameters, "virtual_host"):
        return f"The broker RabbitMQ at {parameters.host}:{parameters.port}, virtual host {parameters.virtual_host!r}"
    return f"The broker {type(broker).__name__}"


def waiting(broker: Any, queue: str) -> int | None:
    """How many messages lie in a queue of a server that no worker holds; None where that cannot be known."""
    return int(broker.client.llen(f"{broker.namespace}:{queue}")) if _is_redis(broker) else depth(broker, queue)


def depth(broker: Any, queue: str) -> int | None:
    """How many messages a server tells of, those that wait for their time and, but for RabbitMQ, those held too.

    None where that cannot be known.
    """
    if isinstance(broker, SqlBroker):
        pending = broker.pending([queue])
        return pending.due + pending.leased
    if _is_redis(broker):
        # Not Dramatiq's own count, which has twice what this very process holds.
        names = (f"{broker.namespace}:{name}.msgs" for name in (queue, dq_name(queue)))
        return sum(int(broker.client.hlen(name)) for name in names)
    if hasattr(broker, "get_queue_message_counts"):
        broker.declare_queue(queue, ensure=True)
        return int(broker.get_queue_message_counts(queue)[0])
    return None
