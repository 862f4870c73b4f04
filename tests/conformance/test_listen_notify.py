"""LISTEN and NOTIFY: what a worker on PostgreSQL hears at once, and what happens when it hears nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import servers
import sqlalchemy as sa
from harness.workers import eventually

from dexpy.brokers.sql.broker import SqlBroker
from dexpy.database.engine import Database

IDLE_POLL_S = 5.0
"""So long that nothing is found by polling unless a test waits for it."""
SOON_S = IDLE_POLL_S / 2
"""Longer than a notification takes, also on a busy machine, and shorter than the poll interval."""
IDLE_AFTER_S = 1.3
"""After so long without a message the consumers poll at the slow pace."""

LISTENERS = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'"


@pytest.fixture
def database(tmp_path: Path) -> Generator[Database]:
    with servers.database("postgresql", tmp_path) as url:
        opened = Database(url)
        yield opened
        opened.dispose()


@pytest.fixture
def received(database: Database) -> Generator[list[tuple[str, float]]]:
    """What a worker of this process has run, and when."""
    broker = SqlBroker(database, idle_poll_s=IDLE_POLL_S)
    broker.create_tables()
    messages: list[tuple[str, float]] = []
    dramatiq.actor(lambda word: messages.append((word, time.monotonic())), actor_name="hear", broker=broker)
    worker = dramatiq.Worker(broker, worker_threads=2, worker_timeout=round(IDLE_POLL_S * 1000))
    worker.start()
    eventually(lambda: count(database, f"SELECT count(*) {LISTENERS}") == 1, "it listens")
    time.sleep(IDLE_AFTER_S)
    yield messages
    worker.stop()
    broker.close()
    eventually(lambda: count(database, f"SELECT count(*) {LISTENERS}") == 0, "the listener's connection is closed")


@pytest.fixture
def send(database: Database) -> Generator[Callable[[str], float]]:
    """Enqueues as another process would: over another broker, so that only the notification wakes the consumer."""
    other = Database(database.url)
    broker = SqlBroker(other)

    def send(word: str) -> float:
        broker.enqueue(message(word))
        return time.monotonic()

    yield send
    other.dispose()


def message(word: str) -> dramatiq.Message[Any]:
    return dramatiq.Message(queue_name="default", actor_name="hear", args=(word,), kwargs={}, options={})


def count(database: Database, query: str) -> int:
    with database.begin() as connection:
        return int(connection.execute(sa.text(query)).scalar_one())


def waited(received: list[tuple[str, float]], word: str, sent_at: float) -> float:
    received_at = eventually(lambda: next((at for message, at in received if message == word), None), f"{word} runs")
    return received_at - sent_at


def test_an_idle_worker_is_notified_of_a_message_at_once(received: list[Any], send: Callable[[str], float]) -> None:
    sent_at = send("first")
    first_s = waited(received, "first", sent_at)
    time.sleep(IDLE_AFTER_S)
    second_s = waited(received, "second", send("second"))

    assert max(first_s, second_s) < SOON_S


def test_a_rolled_back_enqueue_sends_no_notification(received: list[Any], database: Database) -> None:
    other = Database(database.url)
    broker = SqlBroker(other)
    with other.connect() as connection:
        broker.insert(connection, message("rolled back"))
        connection.rollback()
        broker.insert(connection, message("kept"))
        time.sleep(0.3)
        assert received == []
        connection.commit()
        sent_at = time.monotonic()

    assert waited(received, "kept", sent_at) < SOON_S
    assert [word for word, _ in received] == ["kept"]
    other.dispose()


def test_a_lost_listener_is_logged_and_restored_and_loses_nothing(
    received: list[Any], send: Callable[[str], float], database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "dexpy")
    assert count(database, f"SELECT count(pg_terminate_backend(pid)) {LISTENERS}") == 1
    lost_s = waited(received, "while it is away", send("while it is away"))

    eventually(lambda: "listener.disconnected" in caplog.text, "the log says so")
    eventually(lambda: count(database, f"SELECT count(*) {LISTENERS}") == 1, "it listens again")
    time.sleep(IDLE_AFTER_S)
    again_s = waited(received, "again", send("again"))

    assert lost_s < IDLE_POLL_S + SOON_S
    assert again_s < SOON_S
    assert "consumers poll meanwhile" in caplog.text
