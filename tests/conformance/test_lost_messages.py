"""Messages that get lost while the workers are busy: what others run must not hide that one is missing."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import servers
from market import Count, Greet
from pairs import Pair, opened
from workers import eventually

from dexpy.background.brokers.servers import broker_from_url
from dexpy.background.carriers import ServerCarrier
from dexpy.foundation import checkpoint
from dexpy.runtime import install

RESCUE_WITHIN_S = 5.0
BUSY_S = 14.0
"""Longer than a lost message may take to be sent again, and the run after it."""


@pytest.fixture(params=["postgresql+redis", "mariadb+rabbitmq"])
def quick_pair(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Pair]:
    with opened(request.param, tmp_path) as pair:
        pair.variables = {"DEXPY_RESCUE_WITHIN": f"{RESCUE_WITHIN_S:g}"}
        pair.configure()
        yield pair
    install(None)


class Killed(BaseException):
    """Stands for a process that ends here."""


def test_a_message_lost_while_others_run_is_sent_again_in_time(
    quick_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = quick_pair.start(threads=4)
    for number in range(3):
        Count(number=number, seconds=BUSY_S).async_().call()
    eventually(lambda: running(quick_pair) == 3, "three of four threads are busy", 10, quick_pair.tell)

    def die_before_send(place: str) -> None:
        if place == "before_send":
            raise Killed

    with monkeypatch.context() as context, pytest.raises(Killed):
        context.setattr(checkpoint, "reached", die_before_send)
        Greet(name="unsent").async_().call()

    eventually(lambda: "greet unsent" in quick_pair.effects(), "it runs", RESCUE_WITHIN_S + 1, quick_pair.tell)
    assert running(quick_pair) == 3
    (row,) = quick_pair.sql("SELECT send_count FROM operation_records WHERE name LIKE '%Greet'")
    assert row.send_count == 2, "sent again, once"
    worker.signal(signal.SIGKILL, to_all=True)


@pytest.mark.anywhere
def test_what_a_dead_process_holds_is_back_in_its_queue_before_the_queue_is_counted() -> None:
    silent_s = 0.3
    with servers.broker("redis") as url:
        assert url is not None
        dead: Any = broker_from_url(url, silent_s=silent_s)
        dead.maintenance_chance = 0
        dead.declare_queue("default")
        dead.enqueue(dramatiq.Message("default", "none", (), {}, {}))
        assert next(dead.consume("default", prefetch=2, timeout=100)) is not None

        alive: Any = broker_from_url(url, silent_s=silent_s)
        alive.maintenance_chance = 0
        counted = ServerCarrier(alive, None)
        assert counted.depth("default") == 1
        assert waiting(alive) == 0, "its process may still live"
        time.sleep(silent_s + 0.1)
        assert counted.depth("default") == 1
        assert waiting(alive) == 1


def waiting(broker: Any) -> int:
    """Messages of the default queue that nobody holds."""
    return int(broker.client.llen(f"{broker.namespace}:default"))


def running(pair: Pair) -> int:
    return int(pair.sql("SELECT count(*) FROM operation_records WHERE status = 'running'")[0][0])
