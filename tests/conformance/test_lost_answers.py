"""Connections that are cut before the reply to a claim: exactly the claimed messages are redelivered."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis
import servers
import sqlalchemy as sa
from dramatiq.errors import ConnectionClosed
from harness.workers import eventually

from dexpy.brokers.sql.broker import Pending, SqlBroker
from dexpy.brokers.urls import broker_from_url, queue_depth
from dexpy.database.engine import Database
from dexpy.database.tables import messages
from dexpy.foundation.errors import ConfigurationError


def message(word: str) -> dramatiq.Message[Any]:
    return dramatiq.Message(queue_name="default", actor_name="receive", args=(word,), kwargs={}, options={})


def read(consumer: Any) -> list[Any]:
    """Return the messages of a consumer, until a poll returns none."""
    collected = []
    while (one := next(consumer)) is not None:
        collected.append(one)
    return collected


@pytest.fixture
def redis_broker() -> Generator[Any]:
    with servers.broker("redis") as url:
        broker = broker_from_url(str(url))
        broker.declare_queue("default")
        yield broker
        broker.client.close()


@pytest.mark.anywhere
def test_a_message_from_redis_that_reached_no_worker_is_redelivered(redis_broker: Any) -> None:
    for word in ("run", "lost", "later"):
        redis_broker.enqueue(message(word))
    first = redis_broker.consume("default", prefetch=1, timeout=10)
    (running,) = read(first)
    # Fetch without the broker's bookkeeping, as if the connection were cut before the reply.
    assert len(redis_broker._dispatch("fetch")("default", 1)) == 1, "claimed, but the reply is lost"

    second = redis_broker.consume("default", prefetch=8, timeout=10)

    assert sorted(one.args[0] for one in read(second)) == ["later", "lost"]
    assert running.args[0] == "run"
    assert queue_depth(redis_broker, "default") == 3, "the claimed messages are included, each once"


@pytest.mark.anywhere
def test_an_acknowledged_message_of_redis_is_not_redelivered(redis_broker: Any) -> None:
    for word in ("done", "refused", "returned"):
        redis_broker.enqueue(message(word))
    first = redis_broker.consume("default", prefetch=6, timeout=10)
    done, refused, returned = read(first)
    first.ack(done)
    first.nack(refused)
    first.requeue([returned])

    second = redis_broker.consume("default", prefetch=6, timeout=10)

    assert [one.args[0] for one in read(second)] == ["returned"]


@pytest.mark.anywhere
def test_delayed_messages_in_the_memory_of_a_consumer_are_redelivered_after_its_restart(
    redis_broker: Any,
) -> None:
    redis_broker.enqueue(message("soon"), delay=60_000)
    first = redis_broker.consume("default.DQ", prefetch=2, timeout=10)
    assert [one.args[0] for one in read(first)] == ["soon"]

    # Dramatiq creates a new consumer after a connection error, and drops its delayed messages.
    second = redis_broker.consume("default.DQ", prefetch=2, timeout=10)

    assert [one.args[0] for one in read(second)] == ["soon"]


@pytest.mark.anywhere
def test_an_interrupted_fetch_releases_its_reserved_capacity(
    redis_broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: Any, **__: Any) -> Any:
        raise redis.ConnectionError("Connection closed by server.")

    redis_broker.enqueue(message("later"))
    first = redis_broker.consume("default", prefetch=1, timeout=10)
    with monkeypatch.context() as context, pytest.raises(ConnectionClosed):
        context.setattr(redis_broker, "_fetch", cut)
        next(first)

    second = redis_broker.consume("default", prefetch=1, timeout=10)

    assert [one.args[0] for one in read(second)] == ["later"]


@pytest.mark.anywhere
@pytest.mark.parametrize(
    "error",
    [
        redis.TimeoutError("Timeout reading from socket"),
        redis.exceptions.ReadOnlyError("You can't write against a read only replica."),
        redis.ResponseError("whatever else it says"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failed_acknowledgement_to_redis_does_not_block_the_thread(
    redis_broker: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(dramatiq.worker, "POST_PROCESS_MESSAGE_RETRY_DELAY_SECS", 0.05)
    received, ack, errors = [], redis_broker.do_ack, [error]

    def fail_once(*arguments: Any) -> Any:
        if errors:
            raise errors.pop()
        return ack(*arguments)

    monkeypatch.setattr(redis_broker, "do_ack", fail_once)
    dramatiq.actor(received.append, actor_name="receive", broker=redis_broker)
    # With one thread there is capacity for one message only.
    worker = dramatiq.Worker(redis_broker, worker_threads=1, worker_timeout=50)
    worker.start()
    try:
        for word in ("first", "second", "third"):
            redis_broker.enqueue(message(word))
        eventually(lambda: len(received) == 3, "all messages are run")
    finally:
        worker.stop()
    assert received == ["first", "second", "third"]
    assert not errors


@pytest.mark.anywhere
def test_two_namespaces_of_one_redis_do_not_see_each_other(redis_broker: Any) -> None:
    with servers.broker("redis") as url:
        other = broker_from_url(str(url))
        redis_broker.enqueue(message("here"))
        assert queue_depth(redis_broker, "default") == 1
        assert queue_depth(other, "default") == 0
        other.client.close()


@pytest.mark.parametrize("query", ["namespace=", "namespace=a&namespace=b"])
def test_an_invalid_namespace_is_refused(query: str) -> None:
    with pytest.raises(ConfigurationError, match="expected one namespace that is not empty, got"):
        broker_from_url(f"redis://127.0.0.1/0?{query}")


def test_other_options_of_a_redis_url_are_kept() -> None:
    broker: Any = broker_from_url("redis://127.0.0.1:7/3?client_name=me&namespace=shop")
    options = broker.client.connection_pool.connection_kwargs
    assert (broker.namespace, options["db"], options["client_name"]) == ("shop", 3, "me")
    assert "namespace" not in options


@pytest.mark.parametrize("kind", servers.DATABASES)
def test_a_message_from_a_database_that_reached_no_worker_is_redelivered(kind: str, tmp_path: Path) -> None:
    with servers.database(kind, tmp_path) as url:
        database = Database(url)
        broker = SqlBroker(database, lease_s=600)
        broker.create_tables()
        broker.declare_queue("default")
        for word in ("run", "lost"):
            broker.enqueue(message(word))
        first: Any = broker.consume("default", prefetch=2, timeout=10)
        running = next(first)
        with database.begin() as connection:
            owner = connection.execute(sa.select(messages.c.owner).where(messages.c.owner.is_not(None))).scalar_one()
            until = connection.execute(sa.select(sa.func.max(messages.c.leased_until))).scalar_one()
            connection.execute(sa.update(messages).values(owner=owner, leased_until=until))
        assert broker.pending().leased == 2, "claimed, but the reply is lost"

        second: Any = broker.consume("default", prefetch=4, timeout=10)

        redelivered = eventually(lambda: next(second), "the lost message is redelivered")
        assert (running.args[0], redelivered.args[0]) == ("run", "lost")
        assert next(second) is None
        for consumer, one in ((first, running), (second, redelivered)):
            consumer.ack(one)
        first.close()
        second.close()
        assert broker.pending() == Pending(due=0, delayed=0, leased=0)
        broker.close()
        database.dispose()


@pytest.mark.parametrize("kind", servers.DATABASES)
def test_an_acknowledgement_without_a_reply_delays_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with servers.database(kind, tmp_path) as url:
        database = Database(url)
        broker = SqlBroker(database, lease_s=600)
        broker.create_tables()
        broker.declare_queue("default")
        for word in ("done", "next"):
            broker.enqueue(message(word))
        consumer: Any = broker.consume("default", prefetch=2, timeout=10)
        (done,) = read(consumer)
        begin, lost = database.begin, [True]

        @contextmanager
        def begin_and_lose_one_reply() -> Generator[sa.Connection]:
            with begin() as connection:
                yield connection
            if lost and lost.pop():
                raise sa.exc.OperationalError("COMMIT", {}, Exception("connection lost before the reply"))

        monkeypatch.setattr(database, "begin", begin_and_lose_one_reply)
        consumer.ack(done)

        assert not lost, "the first attempt was committed, including the claim of the next message"
        following = eventually(lambda: next(consumer), "the next message is delivered")
        assert following.args[0] == "next"
        consumer.ack(following)
        assert broker.pending() == Pending(due=0, delayed=0, leased=0)
        consumer.close()
        broker.close()
        database.dispose()
