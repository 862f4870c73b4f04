"""LISTEN and NOTIFY: a worker on PostgreSQL receives messages at once, and by polling without a notification."""

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
"""The poll interval in seconds: so long that a quick message was not received by polling."""
SOON_S = IDLE_POLL_S / 2
"""Longer than a notification takes on a busy machine, and shorter than the poll interval; in seconds."""
IDLE_AFTER_S = 1.3
"""The time without a message, in seconds, after which the consumers poll at the long interval."""

LISTENERS = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'"


@pytest.fixture
def database(tmp_path: Path) -> Generator[Database]:
    with servers.database("postgresql", tmp_path) as url:
        opened = Database(url)
        yield opened
        opened.dispose()


@pytest.fixture
def received(database: Database) -> Generator[list[tuple[str, float]]]:
    """Yield the words of the messages that a worker of this process has run, with their times."""
    broker = SqlBroker(database, idle_poll_s=IDLE_POLL_S)
    broker.create_tables()
    messages: list[tuple[str, float]] = []
    dramatiq.actor(lambda word: messages.append((word, time.monotonic())), actor_name="receive", broker=broker)
    worker = dramatiq.Worker(broker, worker_threads=2, worker_timeout=round(IDLE_POLL_S * 1000))
    worker.start()
    eventually(lambda: count(database, f"SELECT count(*) {LISTENERS}") == 1, "the worker listens")
    time.sleep(IDLE_AFTER_S)
    yield messages
    worker.stop()
    broker.close()
    eventually(lambda: count(database, f"SELECT count(*) {LISTENERS}") == 0, "the listener's connection is closed")


@pytest.fixture
def send(database: Database) -> Generator[Callable[[str], float]]:
    """Yield a function that enqueues with another broker object, so that only a notification wakes the consumer."""
    other = Database(database.url)
    broker = SqlBroker(other)

    def send(word: str) -> float:
        broker.enqueue(message(word))
        return time.monotonic()

    yield send
    other.dispose()


def message(word: str) -> dramatiq.Message[Any]:
    return dramatiq.Message(queue_name="default", actor_name="receive", args=(word,), kwargs={}, options={})


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

    eventually(lambda: "listener.disconnected" in caplog.text, "the lost listener is logged")
    eventually(lambda: count(database, f"SELECT count(*) {LISTENERS}") == 1, "the worker listens again")
    time.sleep(IDLE_AFTER_S)
    again_s = waited(received, "again", send("again"))

    assert lost_s < IDLE_POLL_S + SOON_S
    assert again_s < SOON_S
    assert "consumers poll meanwhile" in caplog.text
