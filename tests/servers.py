"""The servers of the tests: each test has a separate database, namespace or virtual host, which is deleted afterwards.

The address of a server is that of an environment variable, or the default one on this machine.
Without a Redis at the default address, one is started for this process of the tests; see `own_redis`.
Without a server a test is skipped with the reason; with ``CI=true`` it fails.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit, urlunsplit

import own_redis
import pytest
import sqlalchemy as sa
import vhosts

ADDRESSES = {
    "postgresql": ("DEXPY_TEST_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"),
    "mariadb": ("DEXPY_TEST_MARIADB", "mysql+pymysql://root@127.0.0.1:3306/mysql"),
    "redis": ("DEXPY_TEST_REDIS", "redis://127.0.0.1:6379/0"),
    "rabbitmq": ("DEXPY_TEST_RABBITMQ", "amqp://guest:guest@127.0.0.1:5672/%2F"),
}
"""Server to its variable and its default address; the user must be allowed to create databases or virtual hosts."""

DATABASES = ("sqlite", "postgresql", "mariadb")
BROKERS = ("sql", "redis", "rabbitmq")

CONFIGURED = {name: os.environ.get(variable) or None for name, (variable, _) in ADDRESSES.items()}
"""Read at the import, because variables that begin with DEXPY_ are removed from the environment during a test."""


def need(server: str) -> str:
    """Return the address of a server; without one, skip the test, or fail it with ``CI=true``."""
    if (reason := absent(server)) is None:
        return address(server)
    variable, _ = ADDRESSES[server]
    _skip_or_fail(f"no {server} at {_display(address(server))} ({reason}); {variable} names another")


def _skip_or_fail(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@functools.cache
def address(server: str) -> str:
    """Return the address at which a server is expected."""
    usual = ADDRESSES[server][1]
    if (configured := CONFIGURED[server]) is not None:
        return configured
    if server == "redis" and _refusal(server, usual) is not None:
        return own_redis.started() or usual
    return usual


def _display(url: str) -> str:
    return url.rpartition("@")[2]


@functools.cache
def absent(server: str) -> str | None:
    """Return why a server cannot be used; None if it can."""
    return _refusal(server, address(server))


def _refusal(server: str, url: str) -> str | None:
    probes: dict[str, Callable[[str], None]] = {"redis": _probe_redis, "rabbitmq": _probe_rabbitmq}
    try:
        probes.get(server, _probe_database)(url)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no answer'}"
    return None


def _probe_database(url: str) -> None:
    with _administrator(url) as connection:
        connection.exec_driver_sql("SELECT 1")


def _probe_redis(url: str) -> None:
    with _redis(url) as client:
        client.ping()


def _probe_rabbitmq(url: str) -> None:
    import pika

    pika.BlockingConnection(pika.URLParameters(url)).close()


@contextlib.contextmanager
def _administrator(url: str) -> Generator[sa.Connection]:
    timeout = {"connect_timeout": 5}
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT", connect_args=timeout)
    with engine.connect() as connection:
        yield connection


@contextlib.contextmanager
def _redis(url: str) -> Generator[Any]:
    import redis

    client = redis.Redis.from_url(url, socket_connect_timeout=5, retry=None)
    try:
        yield client
    finally:
        client.close()


def _name() -> str:
    return f"dexpy_test_{secrets.token_hex(5)}"


@contextlib.contextmanager
def database(kind: str, folder: Path) -> Generator[str]:
    """Yield the URL of a new, empty database, and drop it afterwards, even if clients are still connected.

    Args:
        kind: One of `DATABASES`.
        folder: The folder of a SQLite file.
    """
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'records.db'}"
        return
    administrator, name = need(kind), _name()
    with _administrator(administrator) as connection:
        charset = "" if kind == "postgresql" else " CHARACTER SET utf8mb4"
        connection.exec_driver_sql(f"CREATE DATABASE {name}{charset}")
    try:
        yield sa.make_url(administrator).set(database=name).render_as_string(hide_password=False)
    finally:
        with _administrator(administrator) as connection:
            if kind == "postgresql":
                connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            else:
                cut(connection, name)
                connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name}")


def cut(connection: sa.Connection, name: str) -> int:
    """End every other connection to a database, and return their number."""
    if connection.dialect.name == "postgresql":
        query = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            f"WHERE datname = '{name}' AND pid <> pg_backend_pid()"
        )
        return int(connection.exec_driver_sql(query).scalar_one())
    mine = f"SELECT id FROM information_schema.processlist WHERE db = '{name}' AND id <> connection_id()"
    ids = connection.exec_driver_sql(mine).scalars().all()
    for number in ids:
        # The connection may have ended meanwhile.
        with contextlib.suppress(sa.exc.DBAPIError):
            connection.exec_driver_sql(f"KILL CONNECTION {int(number)}")
    return len(ids)


@contextlib.contextmanager
def cutting(url: str) -> Generator[Callable[[], int]]:
    """Yield a function that ends every connection to a database."""
    database_url = sa.make_url(url)
    kind = "postgresql" if database_url.get_backend_name() == "postgresql" else "mariadb"
    with _administrator(need(kind)) as connection:
        yield lambda: cut(connection, database_url.database or "")


@contextlib.contextmanager
def broker(kind: str) -> Generator[str | None]:
    """Yield the URL of an empty namespace or virtual host, and delete it afterwards; None for the SQL broker.

    Args:
        kind: One of `BROKERS`, or ``quorum`` for RabbitMQ with quorum queues.
    """
    if kind == "sql":
        yield None
    elif kind == "redis":
        with _namespace(need(kind)) as url:
            yield url
    elif kind == "quorum":
        with _vhost(need("rabbitmq")) as url:
            yield f"{url}?queue_type=quorum"
    else:
        with _vhost(need(kind)) as url:
            yield url


def queued(url: str, queue: str) -> list[str]:
    """Return the messages of a queue, read by the client of the server without dexpy.

    Args:
        url: The URL of `broker`, not None.
        queue: The name of the queue.
    """
    if url.startswith("amqp"):
        return list(_unfetched(url, queue))
    address, _, namespace = url.partition("?namespace=")
    with _redis(address) as client:
        return [payload.decode() for payload in client.hvals(f"{namespace}:{queue}.msgs")]


def _unfetched(url: str, queue: str) -> Generator[str]:
    import pika

    connection = pika.BlockingConnection(pika.URLParameters(url.partition("?")[0]))
    try:
        channel = connection.channel()
        # Unacknowledged messages return to the queue when the connection is closed.
        while (payload := channel.basic_get(queue)[2]) is not None:
            yield payload.decode()
    finally:
        connection.close()


@contextlib.contextmanager
def _namespace(url: str) -> Generator[str]:
    name = _name()
    try:
        yield f"{url}{'&' if '?' in url else '?'}namespace={name}"
    finally:
        with _redis(url) as client:
            for key in list(client.scan_iter(f"{name}:*", count=1000)):
                client.delete(key)


@contextlib.contextmanager
def _vhost(url: str) -> Generator[str]:
    url_parts, name = urlsplit(url), _name()
    try:
        administrator = vhosts.administrator(url)
        administrator.add(name)
    except (OSError, subprocess.SubprocessError) as error:
        _skip_or_fail(f"cannot create a virtual host on RabbitMQ at {_display(url)}: {error}")
    try:
        yield urlunsplit(url_parts._replace(path=f"/{name}"))
    finally:
        administrator.delete(name)
