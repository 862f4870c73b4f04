"""A RabbitMQ node of this file that closes connections, sets its alarms, and has a short `consumer_timeout`."""

from __future__ import annotations

import contextlib
import re
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pika
import pytest
import servers
import sqlalchemy as sa
from apps.shop import Count, DirectCount
from harness.own_servers import OwnRabbitmq, rabbitmq_server
from harness.pairs import Pair
from harness.workers import eventually

import dexpy
from dexpy.brokers.rabbitmq import BLOCKED_PAUSE_S, BLOCKED_S
from dexpy.brokers.urls import broker_from_url
from dexpy.database.tables import messages, records
from dexpy.errors import BrokerUnavailable, ConfigurationError
from dexpy.runtime import install
from dexpy.worker.startup import wait_for_broker

WAIT_S = 40.0
CONSUMER_TIMEOUT_S = 2.0
RUN_S = 4.0
"""How long the runs take that outlive it, in seconds."""


@pytest.fixture(scope="module")
def node() -> Generator[OwnRabbitmq]:
    folder = Path(tempfile.mkdtemp(prefix="dexpy-rabbitmq-", dir="/tmp"))
    with rabbitmq_server(folder, consumer_timeout_s=CONSUMER_TIMEOUT_S) as server:
        yield server


@contextlib.contextmanager
def pair_on(folder: Path, broker: str) -> Generator[Pair]:
    """Yield a pair of a SQLite file and a broker."""
    pair = Pair(folder, f"sqlite:///{folder / 'records.db'}", broker)
    try:
        pair.create_tables()
        pair.variables = {"DEXPY_RECOVER_WITHIN": "5s", "dramatiq_restart_delay": "200"}
        pair.configure()
        yield pair
        pair.end()
    finally:
        pair.close()
        install(None)


def run_long(pair: Pair, queue: str, first: int) -> None:
    """Run a recorded and a direct operation for longer than the timeout, and wait for both."""
    Count(number=first, seconds=RUN_S).async_(queue=queue).call()
    DirectCount(number=first + 1, seconds=RUN_S).async_(queue=queue).call()
    expected = [f"count {first}", f"count {first + 1}"]
    seen = f"SELECT what FROM effects WHERE what IN ('{expected[0]}', '{expected[1]}')"
    eventually(lambda: len(pair.sql(seen)) >= 2, "both have run", WAIT_S, pair.output)


def assert_each_ran_once(pair: Pair, node: OwnRabbitmq, queue: str, total: int) -> None:
    """Assert that each operation has run once, after the worker has ended what it may have started again."""
    eventually(lambda: is_empty(node, queue), "no message is left", WAIT_S, pair.output)
    (worker,) = pair.workers
    worker.signal(signal.SIGTERM)
    assert worker.ended() == 0, pair.output()
    assert Counter(pair.effects()) == Counter(f"count {number}" for number in range(total)), pair.output()
    assert pair.sql(sa.select(messages.c.id)) == [], "no copy is left"
    assert set(pair.sql(sa.select(records.c.num_attempts))) == {(1,)}


def is_empty(node: OwnRabbitmq, queue: str) -> bool:
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(node.url))) as connection:
        declared = connection.channel().queue_declare(queue, passive=True)
    return declared.method.message_count == 0


def test_runs_longer_than_the_consumer_timeout_run_once(node: OwnRabbitmq, tmp_path: Path) -> None:
    queue = "known"
    with pair_on(tmp_path, f"{node.url}?consumer_timeout=2s") as pair:
        worker = pair.start("-Q", queue, processes=2, threads=2)

        run_long(pair, queue, 0)

        assert not worker.lines("consumer.timed_out")
        assert "operations=apps.shop" in worker.lines("consumer_timeout.exceeded")[0]
        assert_each_ran_once(pair, node, queue, 2)


def test_runs_of_a_worker_that_stops_run_once(node: OwnRabbitmq, tmp_path: Path) -> None:
    queue = "stopping"
    with pair_on(tmp_path, f"{node.url}?consumer_timeout=2s") as pair:
        first = pair.start("-Q", queue, "-v", threads=2)
        for operation in (Count, DirectCount):
            operation(number=int(operation is DirectCount), seconds=RUN_S).async_(queue=queue).call()
        eventually(lambda: len(first.lines("run.started")) >= 2, "both run", WAIT_S, pair.output)

        first.signal(signal.SIGTERM)
        pair.start("-Q", queue, threads=2)

        assert first.ended() == 0, pair.output()
        assert not first.lines("consumer.timed_out")
        pair.workers.remove(first)
        assert_each_ran_once(pair, node, queue, 2)


def test_one_process_runs_them_once_although_it_does_not_know_the_timeout(node: OwnRabbitmq, tmp_path: Path) -> None:
    queue = "unknown"
    with pair_on(tmp_path, node.url) as pair:
        worker = pair.start("-Q", queue, threads=2)

        run_long(pair, queue, 0)

        assert "consumer_timeout_s=2" in worker.lines("consumer.timed_out")[0]
        # It has read the timeout from the server's reason, and acknowledges in time from now on.
        num_timed_out = len(worker.lines("consumer.timed_out"))
        run_long(pair, queue, 2)
        assert len(worker.lines("consumer.timed_out")) == num_timed_out
        assert_each_ran_once(pair, node, queue, 4)


def test_connections_that_the_server_closes_in_mid_run_lose_and_repeat_nothing(
    node: OwnRabbitmq, tmp_path: Path
) -> None:
    queue = "cut"
    with pair_on(tmp_path, node.url) as pair:
        pair.start("-Q", queue, threads=2)
        Count(number=0, seconds=2.0).async_(queue=queue).call()
        DirectCount(number=1, seconds=2.0).async_(queue=queue).call()
        running = sa.select(records.c.id).where(records.c.status == "running")
        eventually(lambda: pair.sql(running), "the recorded one runs", WAIT_S, pair.output)

        node.close_connections()
        for number in range(2, 6):
            Count(number=number).async_(queue=queue).call()

        eventually(lambda: len(pair.effects()) >= 6, "all have run", WAIT_S, pair.output)
        assert_each_ran_once(pair, node, queue, 6)


def test_alarms_keep_no_enqueue_waiting_and_lose_nothing(node: OwnRabbitmq, tmp_path: Path) -> None:
    queue = "alarm"
    with pair_on(tmp_path, node.url) as pair:
        pair.start("-Q", queue, threads=2)
        node.set_alarms(on=True)
        try:
            started_at = time.monotonic()
            for number in range(8):
                Count(number=number).async_(queue=queue).call()
            waited_s = time.monotonic() - started_at
            unpublished = sa.select(records.c.id).where(records.c.enqueued_at.is_(None))
            assert pair.sql(unpublished), "the server has refused messages"
            # Once each time the pause is over.
            assert waited_s < 2 * BLOCKED_S + BLOCKED_PAUSE_S
            alone = dexpy.configure(broker=node.url)
            with pytest.raises(BrokerUnavailable, match="memory or disk alarm is on"):
                Count(number=8).async_(queue="alone").call()
            alone.close()
        finally:
            node.set_alarms(on=False)

        eventually(lambda: len(pair.effects()) >= 8, "all have run", WAIT_S, pair.output)
        assert Counter(pair.effects()) == Counter(f"count {number}" for number in range(8))


# ----------------------------------------------------------------------------------------------- quorum queues


def test_a_classic_queue_is_refused_as_a_quorum_queue_with_the_fix() -> None:
    with servers.broker("rabbitmq") as url:
        assert url is not None
        wait_for_broker(broker_from_url(url), ["default"])

        with pytest.raises(ConfigurationError, match="queue 'default': it exists with other arguments.*queue_type"):
            wait_for_broker(broker_from_url(f"{url}?queue_type=quorum"), ["default"])


def test_the_queues_of_a_quorum_url_are_quorum_queues(node: OwnRabbitmq) -> None:
    broker: Any = broker_from_url(f"{node.url}?queue_type=quorum")
    broker.declare_queue("replicated", ensure=True)
    broker.close()

    queues = node.evaluate("[{element(4, amqqueue:get_name(Q)), amqqueue:get_type(Q)} || Q <- rabbit_amqqueue:list()].")
    types = dict(re.findall(r'<<"(replicated[.A-Z]*)">>,\s*(\w+)', queues))
    assert types == dict.fromkeys(["replicated", "replicated.DQ", "replicated.XQ"], "rabbit_quorum_queue")


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("queue_type=stream", "queue_type: expected 'classic' or 'quorum', got 'stream'"),
        ("consumer_timeout=30", "consumer_timeout: expected a duration from 1s to 30d with its unit.*got '30'"),
        ("queue_type=quorum&queue_type=classic", "queue_type: expected one value"),
    ],
)
def test_an_invalid_option_of_the_url_is_refused(option: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        broker_from_url(f"amqp://shop:secret@host/shop?{option}")


def test_a_url_without_a_password_has_an_empty_one() -> None:
    broker: Any = broker_from_url("amqp://shop@host/vhost?heartbeat=7")

    assert (broker.parameters.credentials.username, broker.parameters.credentials.password) == ("shop", "")
    assert (broker.parameters.host, broker.parameters.virtual_host) == ("host", "vhost")
