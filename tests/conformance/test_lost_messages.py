"""Messages that are lost while workers are busy: the messages of other runs must not hide a missing one."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import servers
from apps.shop import Count, Greet
from harness.pairs import Pair, open_pair
from harness.workers import eventually

from dexpy.brokers.urls import broker_from_url
from dexpy.enqueue.transports import ServerTransport
from dexpy.foundation import failpoints
from dexpy.runtime import install

RECOVER_WITHIN_S = 5.0
BUSY_S = 14.0
"""The duration of the other runs in seconds: longer than the republishing of a lost message and its run."""


def quick(name: str, folder: Path) -> Generator[Pair]:
    with open_pair(name, folder) as pair:
        pair.variables = {"DEXPY_RECOVER_WITHIN": f"{RECOVER_WITHIN_S:g}s"}
        pair.configure()
        yield pair
    install(None)


@pytest.fixture(params=["postgresql+redis", "mariadb+rabbitmq"])
def quick_pair(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Pair]:
    yield from quick(request.param, tmp_path)


@pytest.fixture(params=["postgresql+redis", "mariadb+redis", "postgresql+rabbitmq"])
def pair_to_leave(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Pair]:
    yield from quick(request.param, tmp_path)


class Killed(BaseException):
    """Raised instead of killing the process."""


def test_a_message_lost_while_others_run_is_republished_in_time(
    quick_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = quick_pair.start(threads=4)
    for number in range(3):
        Count(number=number, seconds=BUSY_S).async_().call()
    eventually(lambda: running(quick_pair) == 3, "three of four threads are busy", 10, quick_pair.output)

    def die_before_publish(place: str) -> None:
        if place == "before_publish":
            raise Killed

    with monkeypatch.context() as context, pytest.raises(Killed):
        context.setattr(failpoints, "reached", die_before_publish)
        Greet(name="unsent").async_().call()

    eventually(
        lambda: "greet unsent" in quick_pair.effects(), "the operation runs", RECOVER_WITHIN_S + 1, quick_pair.output
    )
    assert running(quick_pair) == 3
    (row,) = quick_pair.sql("SELECT send_count FROM operation_records WHERE operation LIKE '%Greet'")
    assert row.send_count == 2, "republished once"
    worker.signal(signal.SIGKILL, to_all=True)


def test_messages_of_an_abandoned_broker_run_after_a_switch_to_the_database(pair_to_leave: Pair) -> None:
    pair = pair_to_leave
    abandoned = [Greet(name=f"left {number}").async_().call() for number in range(3)]
    assert pair.runtime is not None
    pair.runtime.close()
    pair.broker = None
    pair.configure()
    new = Greet(name="new").async_(in_=1.0).call()

    worker = pair.start(threads=4)

    eventually(lambda: len(pair.effects()) == 4, "all operations have run", RECOVER_WITHIN_S + 1, pair.output)
    assert sorted(pair.effects()) == [*(f"greet left {number}" for number in range(3)), "greet new"]
    assert [pair.row(ticket.id)["send_count"] for ticket in (*abandoned, new)] == [2, 2, 2, 1]
    worker.signal(signal.SIGKILL, to_all=True)


@pytest.mark.anywhere
def test_messages_of_a_dead_process_are_requeued_before_the_queue_is_counted() -> None:
    heartbeat_timeout_s = 0.3
    with servers.broker("redis") as url:
        assert url is not None
        dead: Any = broker_from_url(url, heartbeat_timeout_s=heartbeat_timeout_s)
        dead.maintenance_chance = 0
        dead.declare_queue("default")
        dead.enqueue(dramatiq.Message("default", "none", (), {}, {}))
        assert next(dead.consume("default", prefetch=2, timeout=100)) is not None

        alive: Any = broker_from_url(url, heartbeat_timeout_s=heartbeat_timeout_s)
        alive.maintenance_chance = 0
        counted = ServerTransport(alive, None)
        assert counted.count_due("default") == 0, "its process may still be alive"
        time.sleep(heartbeat_timeout_s + 0.1)
        assert counted.count_due("default") == 1


def running(pair: Pair) -> int:
    return int(pair.sql("SELECT count(*) FROM operation_records WHERE status = 'running'")[0][0])
