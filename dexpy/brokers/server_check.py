"""Checks of a broker's server at the start of a worker and by ``dexpy check``: the reason of a refusal, and its fix.

No other code imports this module, so that nothing probes TLS while messages are published.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from dexpy.brokers.bulk_publish import is_rabbitmq
from dexpy.brokers.diagnostics import CLUSTER_REASON, describe_error, lacks_tls, queue_refusal, refusal
from dexpy.brokers.tls_probe import Address
from dexpy.brokers.urls import close_thread_connection, display_of, is_redis, queue_depth
from dexpy.foundation.errors import ConfigurationError


class BrokerNotAnswering(ConfigurationError):
    """The broker's server does not answer now, but may answer later."""


def check_reachable(broker: Any) -> None:
    """Check that the server answers.

    Raises:
        BrokerNotAnswering: The server does not answer now.
        ConfigurationError: The server refuses the connection.
    """
    name, address, on_redis = display_of(broker), _address_of(broker), is_redis(broker)
    if on_redis and broker.client.connection_pool.connection_kwargs.get("decode_responses"):
        raise ConfigurationError(
            f"{name}: expected a client that returns bytes, got one with decode_responses=True. Remove that option."
        )
    if (reason := lacks_tls(address, on_redis)) is not None:
        raise ConfigurationError(f"Cannot connect to {name}: {reason}")
    try:
        queue_depth(broker, "default")
    except Exception as error:
        if (reason := queue_refusal(error)) is not None:
            raise ConfigurationError(f"{name}: {reason}") from error
        if (reason := refusal(error, address, on_redis)) is not None:
            raise ConfigurationError(f"Cannot connect to {name}: {reason}") from error
        raise BrokerNotAnswering(
            f"Cannot connect to {name}: {describe_error(error)} "
            "Check that the server is running, and check host and port."
        ) from error
    finally:
        close_thread_connection(broker)
    if on_redis:
        _refuse_cluster(broker)


def _refuse_cluster(broker: Any) -> None:
    """Refuse a node of a Redis Cluster, also one that happens to have the queue's keys.

    Raises:
        ConfigurationError: The server is a node of a Redis Cluster.
    """
    try:
        is_in_cluster = bool(broker.client.info("cluster").get("cluster_enabled"))
    except Exception:  # noqa: BLE001 - this user may not call INFO: then the first command that fails reports it
        return
    if is_in_cluster:
        raise ConfigurationError(f"{display_of(broker)}: {CLUSTER_REASON}")


def check_queues(broker: Any, queues: Collection[str]) -> None:
    """Declare queues on RabbitMQ, which may refuse one of them permanently.

    Raises:
        BrokerNotAnswering: The server does not answer now.
        ConfigurationError: A queue, or the one of its delayed or dead messages, exists with other arguments.
    """
    if not is_rabbitmq(broker):
        return
    try:
        for queue in sorted(queues):
            broker.declare_queue(queue, ensure=True)
    except Exception as error:
        if (reason := queue_refusal(error)) is not None:
            raise ConfigurationError(f"{display_of(broker)}: {reason}") from error
        raise BrokerNotAnswering(f"Cannot connect to {display_of(broker)}: {describe_error(error)}") from error
    finally:
        close_thread_connection(broker)


def _address_of(broker: Any) -> Address | None:
    """Return the address of a broker's server; None if it is unknown."""
    if is_redis(broker):
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
