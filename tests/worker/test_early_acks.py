"""Early acknowledgements without a server: what a round does when the database or the connection fails in it."""

from __future__ import annotations

import threading
from typing import Any

import attrs
import dramatiq
import pika.exceptions
import pytest
import sqlalchemy as sa

import dexpy
from dexpy.brokers.message_validation import DIRECT_JOB, RECORD_JOB
from dexpy.brokers.urls import broker_from_url
from dexpy.database.engine import Database
from dexpy.database.tables import messages
from dexpy.foundation.periodic import PeriodicTask
from dexpy.testing import Isolated
from dexpy.worker.early_acks import EarlyAcks
from dexpy.worker.periodic import PeriodicTasks

URL = "amqp://shop:secret@127.0.0.1:1/shop"
"""Nothing connects to it."""


@attrs.define(eq=False)
class Consumer:
    """A consumer whose channel is open until its first acknowledgement, which fails if the connection is closed."""

    is_connected: bool = True
    confirmed: list[Any] = attrs.field(factory=list[Any])

    def has(self, message: Any) -> bool:
        return message not in self.confirmed

    def confirm(self, message: Any) -> None:
        self.confirmed.append(message)
        if not self.is_connected:
            raise pika.exceptions.ConnectionWrongStateError("closed")


@attrs.define(eq=False)
class Process:
    """A process whose messages have all been running for long enough."""

    database: Database
    broker: Any
    early_acks: EarlyAcks

    def receive(self, actor: str, consumer: Consumer, *, starts: bool = True) -> Any:
        """Receive a message, and start it; return its delivery."""
        message = dramatiq.Message[Any]("default", actor, (), {}, {})
        self.broker.deliveries.add(consumer, message)
        if starts:
            assert self.broker.deliveries in self.broker.middleware
            self.broker.deliveries.before_process_message(self.broker, message)
        return self.broker.deliveries.held()[-1]

    def copies(self) -> list[Any]:
        """Return when the copies are due."""
        with self.database.begin() as connection:
            return list(connection.scalars(sa.select(messages.c.due_at)))


@pytest.fixture
def process(isolated_runtime: Isolated) -> Process:
    store = isolated_runtime.runtime.store
    store.prepare()
    database = store.database
    broker: Any = broker_from_url(URL)
    broker.consumer_timeout_s = 0.0
    return Process(database, broker, EarlyAcks(broker, database))


def test_a_connection_that_closes_before_the_acknowledgement_leaves_no_copy(
    process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = process.receive(DIRECT_JOB, Consumer(is_connected=False))

    process.early_acks.run_once()

    assert "task.failed task=acks" in caplog.text
    assert not delivery.is_acknowledged
    assert process.copies() == [], "it is delivered again, and the copy would be run too"


def test_one_failed_acknowledgement_leaves_the_others_and_the_copies_alone(process: Process) -> None:
    process.receive(DIRECT_JOB, Consumer())
    process.early_acks.run_once()
    (stored_at,) = process.copies()
    with process.database.begin() as connection:
        connection.execute(sa.update(messages).values(due_at=sa.text("0")))
    process.receive(DIRECT_JOB, Consumer(is_connected=False))
    recorded = process.receive(RECORD_JOB, Consumer())

    process.early_acks.run_once()

    assert recorded.is_acknowledged
    (due_at,) = process.copies()
    assert due_at >= stored_at, "the copy was postponed"


def test_without_the_database_messages_of_recorded_runs_are_acknowledged(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.receive(DIRECT_JOB, Consumer())
    process.early_acks.run_once()
    direct, recorded = process.receive(DIRECT_JOB, Consumer()), process.receive(RECORD_JOB, Consumer())

    def refuse(*_: Any) -> None:
        raise OSError("away")

    monkeypatch.setattr(Database, "begin", refuse)
    with pytest.raises(OSError, match="away"):
        process.early_acks.run_once()
    monkeypatch.undo()

    assert recorded.is_acknowledged
    assert not direct.is_acknowledged


@pytest.mark.parametrize("actor", [DIRECT_JOB, RECORD_JOB])
def test_a_message_that_no_thread_has_started_is_not_acknowledged(process: Process, actor: str) -> None:
    # A worker that stops starts no more messages, and returns this one to its queue.
    delivery = process.receive(actor, Consumer(), starts=False)

    process.early_acks.run_once()

    assert not delivery.is_acknowledged
    assert process.copies() == []


def test_a_worker_that_stops_runs_the_tasks_of_its_runs_until_they_have_ended() -> None:
    runs = {name: threading.Semaphore(0) for name in ("relay", "acks")}

    def task(name: str, **options: Any) -> PeriodicTask:
        return PeriodicTask(name, 0.01, lambda: runs[name].release() is None, **options)

    tasks: Any = PeriodicTasks(task("relay"), task("acks", while_draining=True))
    worker = object()
    tasks.after_worker_boot(None, worker)
    threads = {thread.task.name: thread for thread in tasks._threads[id(worker)]}

    tasks.before_worker_shutdown(None, worker)

    assert not threads["relay"].is_alive()
    while runs["acks"].acquire(blocking=False):
        pass
    assert runs["acks"].acquire(timeout=10), "it runs while the worker waits for its runs"
    tasks.after_worker_shutdown(None, worker)
    assert not threads["acks"].is_alive()


def test_acknowledgements_timeouts_and_cancellations_are_tasks_of_the_runs(isolated_runtime: Isolated) -> None:
    runtime = dexpy.configure(database="sqlite:///app.db", broker=URL)
    try:
        (periodic,) = (each for each in runtime.broker.middleware if isinstance(each, PeriodicTasks))
        assert {task.name for task in periodic.tasks if task.while_draining} == {"acks", "watch"}
    finally:
        runtime.close()
