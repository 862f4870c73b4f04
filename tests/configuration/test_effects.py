"""What the relay's and the worker's settings of a file change in a running process."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dramatiq.brokers.stub import StubBroker

import dexpy
from dexpy import Operation
from dexpy.brokers.sql.broker import SqlBroker
from dexpy.foundation.clock import clock
from dexpy.runtime import Runtime, install
from dexpy.worker.process import WorkerOptions, make_worker


class Sent(Operation):
    """Is enqueued."""

    def perform(self) -> None: ...


@pytest.fixture
def configured(tmp_path: Path, request: pytest.FixtureRequest) -> Generator[Runtime]:
    """A runtime with the text of a file, on SQLite with another broker."""
    (tmp_path / "dexpy.toml").write_text(request.param)
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path / 'records.db'}", broker=StubBroker())
    yield runtime
    clock.reset()
    runtime.close()
    install(None)


@pytest.mark.parametrize("configured", ['[relay]\nbatch_size = 2\ninterval = "0.1s"\n'], indirect=True)
def test_a_relay_publishes_in_batches_of_the_configured_size(configured: Runtime) -> None:
    # A message that is due later waits in the database.
    ids = [Sent().async_(in_=60).call().id for _ in range(5)]
    database = configured.store.database
    clock.advance(61)
    marked: list[int] = []

    def count(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("UPDATE operation_records SET enqueued_at"):
            marked.append(sum(id in parameters for id in ids))

    sa.event.listen(database.engine, "before_cursor_execute", count)
    recorded = configured.services.recorded
    assert recorded is not None
    assert recorded.relay.publish_unpublished()

    assert marked == [2, 2, 1]


@pytest.mark.parametrize("configured", ['[relay]\ninterval = "1s"\n'], indirect=True)
def test_the_relay_of_a_worker_polls_at_the_configured_interval(
    configured: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured.dispatcher.require_tables()
    recorded = configured.services.recorded
    assert recorded is not None
    polls: list[float] = []
    polled = threading.Event()

    def poll(_relay: object) -> tuple[()]:
        polls.append(time.monotonic())
        if len(polls) == 2:
            polled.set()
        return ()

    monkeypatch.setattr(type(recorded.relay), "_claim", poll)
    worker = make_worker(configured.dispatcher.transport, WorkerOptions((), threads=1))
    worker.start()
    try:
        assert polled.wait(15)
    finally:
        worker.stop(timeout=5000)
    assert polls[1] - polls[0] > 0.9, "half a second is the default"


def test_an_idle_queue_is_polled_at_the_polling_interval(tmp_path: Path) -> None:
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path / 'records.db'}")
    runtime.dispatcher.require_tables()
    broker = runtime.dispatcher.broker
    assert isinstance(broker, SqlBroker)

    slow = make_worker(runtime.dispatcher.transport, WorkerOptions((), polling_interval_s=2.0))
    assert (slow.worker_timeout, broker.idle_poll_s) == (2000, 2.0)
    assert broker.poll_s == 0.02
    quick = make_worker(runtime.dispatcher.transport, WorkerOptions((), polling_interval_s=0.01))
    assert (quick.worker_timeout, broker.idle_poll_s, broker.poll_s) == (10, 0.01, 0.01)
    runtime.close()


def test_the_timeout_of_a_consumer_of_another_broker_is_the_polling_interval(tmp_path: Path) -> None:
    """Redis sleeps at most so long between two polls of an empty queue."""
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path / 'records.db'}", broker=StubBroker())
    runtime.dispatcher.require_tables()

    worker = make_worker(runtime.dispatcher.transport, WorkerOptions((), polling_interval_s=0.5))

    assert worker.worker_timeout == 500
    runtime.close()
