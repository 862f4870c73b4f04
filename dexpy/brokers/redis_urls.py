"""Brokers on Redis by URL: one server, or the primary that Sentinels name; a Redis Cluster is refused.

The scripts of Dramatiq name one key and use several others, which a Redis Cluster stores on different nodes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import dramatiq

from dexpy.brokers.diagnostics import CLUSTER_REASON
from dexpy.foundation.errors import ConfigurationError, did_you_mean, listed
from dexpy.foundation.urls import displayed_url

SERVER_SCHEMES = ("redis", "rediss", "unix")
SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster")
SCHEMES = (*SERVER_SCHEMES, *SENTINEL_SCHEMES, *CLUSTER_SCHEMES)

DEFAULT_NAMESPACE = "dramatiq"
"""The prefix of all keys on Redis, unless the URL has one."""
MAINTENANCE_CHANCE = 100_000
"""How many of a million fetches also requeue the messages of dead processes; by Dramatiq's default, a thousand."""
TIMEOUT_S = 10.0
"""A Redis server that does not answer for this long, in seconds, is unreachable."""
SENTINEL_TIMEOUT_S = 2.0
"""The same for a Sentinel: after this time the next one is asked."""
SENTINEL_PORT = 26379

CLIENT_OPTIONS = frozenset({
    "client_name", "db", "health_check_interval", "lib_name", "lib_version", "max_connections", "password", "protocol",
    "socket_connect_timeout", "socket_keepalive", "socket_read_size", "socket_timeout", "timeout", "username",
})  # fmt: skip
"""The options that a Redis URL may have besides those of TLS; none of them changes the server's answers."""
SENTINEL_OPTIONS = frozenset({"sentinel_username", "sentinel_password"})
"""The options for the connections to the Sentinels."""


def redis_broker(url: str, heartbeat_timeout_s: float) -> dramatiq.Broker:
    """Return a broker on Redis.

    Args:
        url: A URL with one of `SCHEMES`, with escaped passwords.
        heartbeat_timeout_s: A process without a heartbeat for this long, in seconds, loses its messages.

    Raises:
        ConfigurationError: An option is unknown or invalid, or the URL names a Redis Cluster.
        ValueError: The Redis client refuses the URL.
    """
    scheme = url.partition(":")[0]
    if scheme in CLUSTER_SCHEMES:
        raise ConfigurationError(f"broker {displayed_url(url)}: {CLUSTER_REASON}")
    plain_url, namespace = _without_namespace(url)
    client = _sentinel_client(plain_url) if scheme in SENTINEL_SCHEMES else _client(plain_url)

    from dexpy.brokers.redis import DexpyRedisBroker

    return DexpyRedisBroker(
        client=client,
        namespace=namespace,
        maintenance_chance=MAINTENANCE_CHANCE,
        heartbeat_timeout=round(heartbeat_timeout_s * 1000),
    )


def sentinels_of(client: Any) -> str | None:
    """Return the addresses of a client's Sentinels and the name of their primary; None without Sentinels."""
    pool: Any = client.connection_pool
    manager: Any = getattr(pool, "sentinel_manager", None)
    if manager is None:
        return None
    facts = [sentinel.connection_pool.connection_kwargs for sentinel in manager.sentinels]
    addresses = ",".join(f"{fact['host']}:{fact['port']}" for fact in facts)
    return f"{pool.service_name!r} of the Sentinels {addresses}"


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


def _check_options(url: str, query: Collection[tuple[str, str]]) -> None:
    """Refuse an option that would change the types or bytes of answers, or retry commands.

    Raises:
        ConfigurationError: An option is unknown or invalid.
    """
    options = CLIENT_OPTIONS
    if url.partition(":")[0] in SENTINEL_SCHEMES:
        options |= SENTINEL_OPTIONS
    for name, value in query:
        if name not in options and not name.startswith("ssl_"):
            raise ConfigurationError(
                f"broker {displayed_url(url)}: unsupported option {name!r}; expected namespace, an option that starts "
                f"with ssl_, or {listed(options)}. Remove it from the URL.{did_you_mean(name, options)}"
            )
        if name == "protocol" and value not in ("2", "3"):
            raise ConfigurationError(f"broker {displayed_url(url)}: protocol: expected 2 or 3, got {value!r}.")


def _connection_options() -> dict[str, Any]:
    """Return the options of each connection that a URL does not have."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return {
        "socket_timeout": TIMEOUT_S,
        "socket_connect_timeout": TIMEOUT_S,
        "health_check_interval": 30,
        # dexpy and Dramatiq retry, not the client: the messages of a fetch that the client repeats would be lost.
        "retry": Retry(NoBackoff(), 0),
    }


def _client(url: str) -> Any:
    import redis

    pools: Any = redis.ConnectionPool
    return redis.Redis(connection_pool=pools.from_url(url, **_connection_options()))


def _sentinel_client(url: str) -> Any:
    """Return the client of the primary that the Sentinels name, which follows it after a failover."""
    from redis import connection

    from dexpy.brokers.redis import NamedSentinel

    scheme, _, rest = url.partition("://")
    authority, _, path_and_query = rest.partition("/")
    path, _, query = path_and_query.partition("?")
    service, _, database = path.partition("/")
    user_part, _, addresses = authority.rpartition("@")
    if not service or not addresses or (database and not database.isdecimal()):
        raise ConfigurationError(
            f"broker: invalid URL {displayed_url(url)!r}; expected the Sentinels, the name of their primary and the "
            "number of a database. Write for example redis+sentinel://host1:26379,host2:26379/mymaster/0."
        )
    # The client's own parser reads user, password and options, as for one server.
    user = f"{user_part}@" if user_part else ""
    plain_url = f"redis://{user}primary/{database or 0}" + (f"?{query}" if query else "")
    options: dict[str, Any] = _connection_options() | cast("Any", connection).parse_url(plain_url)
    del options["host"]
    sentinel_options = {
        "socket_timeout": SENTINEL_TIMEOUT_S,
        "socket_connect_timeout": SENTINEL_TIMEOUT_S,
        "retry": options["retry"],
        "username": options.pop("sentinel_username", None),
        "password": options.pop("sentinel_password", None),
    }
    if scheme.startswith("rediss"):
        options["ssl"] = True
        sentinel_options |= {name: value for name, value in options.items() if name.startswith("ssl")}
    manager = cast("Any", NamedSentinel)(
        [_sentinel_address(text) for text in addresses.split(",")], 0, sentinel_options
    )
    return manager.master_for(unquote(service), **options)


def _sentinel_address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(SENTINEL_PORT)
    return host.strip("[]"), int(port)
