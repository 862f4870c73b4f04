"""Sends raw messages to a broker without Dramatiq and dexpy, as an attacker could, and counts its messages."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator
from typing import Any, Protocol

import sqlalchemy as sa

PAST = "2020-01-01 00:00:00.000000"


class Sender(Protocol):
    """A client of one broker."""

    def send(self, *bodies: bytes, queue: str = "default") -> None:
        """Send messages to a queue."""

    def waiting(self, queue: str = "default") -> int:
        """Return the number of messages of a queue that are not dead."""
        ...

    def dead(self, queue: str = "default") -> int:
        """Return the number of dead messages of a queue."""
        ...


class SqlSender:
    """A client of the SQL broker's table."""

    def __init__(self, url: str) -> None:
        self.engine = sa.create_engine(url, poolclass=sa.NullPool)

    def send(self, *bodies: bytes, queue: str = "default") -> None:
        """See `Sender`; SQLite stores bodies that are not text as bytes."""
        insert = sa.text(
            "INSERT INTO dexpy_messages (queue, payload, message_id, due_at, created_at) "
            "VALUES (:queue, :body, 'm', :past, :past)"
        )
        rows = [{"queue": queue, "body": self._text(body), "past": PAST} for body in bodies]
        with self.engine.begin() as connection:
            connection.execute(insert, rows)

    def _text(self, body: bytes) -> str | bytes:
        try:
            return body.decode().replace("\0", "") if self.engine.dialect.name == "postgresql" else body.decode()
        except UnicodeDecodeError:
            return body if self.engine.dialect.name == "sqlite" else body.decode("latin-1")

    def waiting(self, queue: str = "default") -> int:
        """See `Sender`."""
        return self._count("NOT dead AND due_at < CURRENT_TIMESTAMP", queue)

    def dead(self, queue: str = "default") -> int:
        """See `Sender`."""
        return self._count("dead", queue)

    def _count(self, condition: str, queue: str) -> int:
        with self.engine.connect() as connection:
            query = sa.text(f"SELECT count(*) FROM dexpy_messages WHERE queue = :queue AND {condition}")
            return int(connection.execute(query, {"queue": queue}).scalar_one())


class RedisSender:
    """A client of a Redis namespace."""

    def __init__(self, url: str) -> None:
        import redis

        address, _, self.namespace = url.partition("?namespace=")
        self.client: Any = redis.Redis.from_url(address)
        self._numbers = itertools.count()

    def send(self, *bodies: bytes, queue: str = "default") -> None:
        """See `Sender`."""
        for body in bodies:
            self.send_as(f"m{next(self._numbers)}".encode(), body, queue)

    def send_as(self, message_id: bytes, body: bytes | None, queue: str = "default") -> None:
        """Send a message under an id; without a body only the id."""
        if body is not None:
            self.client.hset(f"{self.namespace}:{queue}.msgs", message_id, body)
        self.client.rpush(f"{self.namespace}:{queue}", message_id)

    def waiting(self, queue: str = "default") -> int:
        """See `Sender`."""
        unacknowledged = self.client.scan_iter(f"{self.namespace}:__acks__.*.{queue}", count=1000)
        queued = int(self.client.llen(f"{self.namespace}:{queue}"))
        return queued + sum(int(self.client.scard(key)) for key in unacknowledged)

    def dead(self, queue: str = "default") -> int:
        """See `Sender`."""
        return int(self.client.hlen(f"{self.namespace}:{queue.removesuffix('.DQ')}.XQ.msgs"))


class RabbitmqSender:
    """A client of a virtual host of RabbitMQ."""

    def __init__(self, url: str) -> None:
        self.url = url

    @contextlib.contextmanager
    def _channel(self) -> Generator[Any]:
        import pika

        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        try:
            yield connection.channel()
        finally:
            connection.close()

    def send(self, *bodies: bytes, queue: str = "default") -> None:
        """See `Sender`."""
        with self._channel() as channel:
            for body in bodies:
                channel.basic_publish("", queue, body)

    def waiting(self, queue: str = "default") -> int:
        """See `Sender`; without the messages that a worker holds."""
        return self._count(queue)

    def dead(self, queue: str = "default") -> int:
        """See `Sender`."""
        return self._count(f"{queue.removesuffix('.DQ')}.XQ")

    def _count(self, queue: str) -> int:
        with self._channel() as channel:
            return int(channel.queue_declare(queue, passive=True).method.message_count)


def sender(database: str, broker: str | None) -> Any:
    """Return the client for a broker URL, or for the SQL broker in the database without one."""
    if broker is None:
        return SqlSender(database)
    return RedisSender(broker) if broker.startswith("redis") else RabbitmqSender(broker)
