"""Servers that lose data, restart, refuse messages or redeliver them: every operation ends once and in time.

``test_failures.py`` tests cut connections and closed proxies.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Generator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import servers
import sqlalchemy as sa
from apps import shop_failpoints
from apps.shop_failpoints import Mark, WaitForFile
from harness.kills import (
    RECOVER_WITHIN_S,
    RUN_S,
    Kills,
    assert_nothing_left,
    count_messages,
    deliver_ten_times,
    effects_of,
    killed_pair,
    now,
    wait_until_final,
)
from harness.own_servers import postgres_server, redis_server
from harness.pairs import Pair
from harness.workers import eventually
from sqlalchemy.orm import Session

from dexpy.database.tables import records
from dexpy.runtime import install


@pytest.fixture
def kills(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Kills]:
    """Yield a pair without a worker; the parameter is its name."""
    with killed_pair(request.param, tmp_path) as opened:
        yield opened


def on(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kills", names, indirect=True)


WAITING = 60
"""The number of pending operations behind the running ones."""


def start_busy_worker(pair: Pair, *, threads: int = 2) -> tuple[Any, Path]:
    """Start a worker whose threads all wait for a file, enqueue more operations, and return the worker and the file."""
    gate = pair.folder / "gate"
    worker = pair.start(threads=threads)
    tickets = [
        WaitForFile(number=number, file=str(gate), writes_first=True).async_().call() for number in range(threads)
    ]
    for ticket in tickets:
        pair.wait_for_status(ticket.id, "running", within_s=30)
    for number in range(WAITING):
        Mark(number=number).async_().call()
    return worker, gate


def assert_ended_in_time(pair: Pair, since: datetime, *, lingering: int = 2, more: int = 0) -> list[Any]:
    """Assert that each operation is done with one effect and no lost worker, and that the last one started in time."""
    rows = wait_until_final(pair)
    effects = [*(f"linger {number}" for number in range(lingering)), *effects_of(range(WAITING + more))]
    assert Counter(pair.effects()) == Counter(effects)
    assert {(row.status, row.num_lost) for row in rows} == {("done", 0)}
    assert len(rows) == len(effects)
    last = max(row.started_at for row in rows)
    assert (last - since).total_seconds() < RECOVER_WITHIN_S + RUN_S, pair.output()
    assert_nothing_left(pair)
    return rows


# ------------------------------------------------------------------------------- a broker that loses its messages


@contextlib.contextmanager
def pair_on_own_redis(folder: Path) -> Generator[tuple[Pair, Any]]:
    with servers.database("postgresql", folder) as url, redis_server(folder) as server:
        pair = Pair(folder, url, f"{server.url}?namespace=own", shop_failpoints)
        try:
            pair.create_tables()
            pair.configure()
            Kills(pair)
            yield pair, server
            pair.end()
        finally:
            pair.close()
            install(None)


def test_messages_are_republished_to_a_flushed_redis(tmp_path: Path) -> None:
    with pair_on_own_redis(tmp_path) as (pair, server):
        worker, gate = start_busy_worker(pair)

        server.client.flushall()

        flushed_at = now(pair)
        gate.touch()
        rows = assert_ended_in_time(pair, flushed_at)
        assert {row.num_attempts for row in rows} == {1}
        assert "Traceback" not in worker.output()


def test_a_redis_that_is_killed_and_started_again_empty_loses_nothing(tmp_path: Path) -> None:
    with pair_on_own_redis(tmp_path) as (pair, server):
        worker, gate = start_busy_worker(pair)

        server.kill()
        for number in range(WAITING, WAITING + 20):
            Mark(number=number).async_().call()
        gate.touch()
        eventually(lambda: worker.lines("broker.unreachable"), "the worker logs the outage", 20, pair.output)
        server.start()

        rows = assert_ended_in_time(pair, now(pair), more=20)
        assert {row.num_attempts for row in rows} == {1}
        assert "Traceback" not in worker.output()


@on("postgresql+rabbitmq")
def test_messages_are_republished_to_a_purged_queue(kills: Kills) -> None:
    import pika

    pair = kills.pair
    worker, gate = start_busy_worker(pair)

    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(str(pair.broker)))) as connection:
        purged = connection.channel().queue_purge("default").method.message_count

    purged_at = now(pair)
    assert purged > WAITING / 2
    gate.touch()
    rows = assert_ended_in_time(pair, purged_at)
    assert {row.num_attempts for row in rows} == {1}
    assert "Traceback" not in worker.output()


# ------------------------------------------------------------------------------------------- a database that restarts


@on("postgresql+rabbitmq")
def test_connections_to_postgresql_that_are_cut_in_mid_run_lose_nothing(kills: Kills) -> None:
    pair = kills.pair
    with servers.cutting(pair.url) as cut:
        worker, gate = start_busy_worker(pair)

        assert cut()

        cut_at = now(pair)
        gate.touch()
        assert_open_transactions_were_retried(assert_ended_in_time(pair, cut_at))
        assert "Traceback" not in worker.output()


def assert_open_transactions_were_retried(rows: list[Any]) -> None:
    """Assert that exactly the runs with an open transaction had a second attempt."""
    attempts_of = {(row.operation, row.num_attempts) for row in rows}
    assert attempts_of == {("apps.shop_failpoints.WaitForFile", 2), ("apps.shop_failpoints.Mark", 1)}, attempts_of


def test_a_postgresql_that_is_restarted_in_mid_run_loses_nothing(tmp_path: Path) -> None:
    with postgres_server() as server:
        pair = Pair(tmp_path, server.url, None, shop_failpoints)
        try:
            pair.create_tables()
            pair.configure()
            Kills(pair)
            worker, gate = start_busy_worker(pair)

            server.restart()

            restarted_at = now(pair)
            gate.touch()
            assert_open_transactions_were_retried(assert_ended_in_time(pair, restarted_at))
            assert "Traceback" not in worker.output()
            pair.end()
        finally:
            pair.close()
            install(None)


# ------------------------------------------------------------------------------------ one run per message


@on("postgresql+redis", "postgresql+rabbitmq", "mariadb+sql")
def test_a_message_that_is_delivered_ten_times_runs_once(kills: Kills) -> None:
    deliver_ten_times(kills.pair)


@on("postgresql+redis", "mariadb+rabbitmq")
def test_two_relays_publish_each_of_three_hundred_messages_once(kills: Kills) -> None:
    pair = kills.pair
    # The default recovery interval: with a shorter one, a slow machine republishes messages that are being published.
    pair.variables = {}
    # The relays of these workers process all queues; the workers serve another one.
    relays = [pair.start("-Q", "elsewhere") for _ in range(2)]
    due_at = now(pair) + timedelta(seconds=2)
    enqueue_all([Mark(number=number) for number in range(300)], pair, at=due_at)
    # Both relays wait for this lock and continue at the same time.
    with pair.engine.begin() as connection:
        connection.execute(sa.select(records.c.id).with_for_update())
        while now(pair) < due_at + timedelta(seconds=1.5):
            time.sleep(0.1)

    unsent = sa.select(records.c.id).where(records.c.enqueued_at.is_(None))
    eventually(lambda: not pair.sql(unsent), "all records are marked as published", 30, pair.output)
    eventually(lambda: count_messages(pair) >= 300, "all messages are in the queue", 30, pair.output)
    for relay in relays:
        relay.signal(signal.SIGTERM)
    assert [relay.ended() for relay in relays] == [0, 0]
    assert count_messages(pair) == 300
    assert set(pair.sql(sa.select(records.c.send_count))) == {(1,)}
    for relay in relays:
        assert "Traceback" not in relay.output()


def enqueue_all(operations: list[Any], pair: Pair, **options: Any) -> list[Any]:
    """Enqueue operations in one transaction."""
    with Session(pair.engine) as session:
        tickets = [operation.async_(session=session, **options).call() for operation in operations]
        session.commit()
    return tickets


def enqueue_unknown(pair: Pair, at: datetime) -> Any:
    """Enqueue an operation of an undeclared class."""
    with Session(pair.engine) as session:
        # Due later, because the message of a due operation would be published at the commit, with the original name.
        ticket = Mark(number=1001).async_(session=session, in_=3600).call()
        named = {"operation": "apps.shop_failpoints.Gone", "scheduled_at": at}
        session.execute(sa.update(records).where(records.c.id == ticket.id).values(named))
        session.commit()
    return ticket


# ------------------------------------------------------------------------------------------- refused messages


def refuse_on_redis(pair: Pair, queue: str) -> None:
    """Store another type under the key of the queue, so that Redis refuses a push."""
    import redis

    address, _, namespace = str(pair.broker).partition("?namespace=")
    with redis.Redis.from_url(address) as client:
        client.set(f"{namespace}:{queue}", "no list")


def refuse_on_rabbitmq(pair: Pair, queue: str) -> None:
    """Declare the queue with arguments that differ from Dramatiq's, so that RabbitMQ refuses the next declaration."""
    import pika

    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(str(pair.broker)))) as connection:
        connection.channel().queue_declare(queue, durable=True, arguments={"x-max-length": 5})


REFUSALS: dict[str, Callable[[Pair, str], None]] = {
    "postgresql+redis": refuse_on_redis,
    "postgresql+rabbitmq": refuse_on_rabbitmq,
}


@on(*REFUSALS)
def test_refused_messages_and_unknown_operations_do_not_delay_others(
    kills: Kills, request: pytest.FixtureRequest
) -> None:
    pair = kills.pair
    REFUSALS[request.node.callspec.params["kills"]](pair, "refused")
    worker = pair.start(threads=2)
    due_at = now(pair) + timedelta(seconds=1)
    # One refused message before all others, and one among them.
    first = Mark(number=1000).async_(queue="refused", at=due_at - timedelta(milliseconds=500)).call()
    unknown = enqueue_unknown(pair, at=due_at - timedelta(milliseconds=400))
    tickets = enqueue_all([Mark(number=number) for number in range(110)], pair, at=due_at)
    between = Mark(number=1002).async_(queue="refused").call()

    for ticket in tickets:
        pair.wait_for_status(ticket.id, "done", within_s=30)

    assert sorted(pair.effects()) == sorted(f"mark {number}" for number in range(110))
    for refused in (first, between):
        eventually(
            lambda id=refused.id: pair.row(id)["enqueued_at"] is None,
            "the record is not marked as published",
            10,
            pair.output,
        )
    assert {pair.status(ticket.id) for ticket in (first, between, unknown)} == {"pending"}
    assert Mark(number=2000).async_().call().result(20) == 2000
    assert worker.process.poll() is None
    assert not worker.lines("worker.died")
