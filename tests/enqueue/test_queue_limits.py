"""Limits of queues, on each database and for runs without a record on each broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import servers
import sqlalchemy as sa
from dramatiq.brokers.stub import StubBroker
from harness.database_fixtures import database_url, reused_databases

import dexpy
from dexpy import Async, Every, Operation, QueueLimit, Recording, Retry, enqueue_all, records, recurring
from dexpy.configuration.loading import Configuration
from dexpy.database.tables import recurring as tasks
from dexpy.errors import ConfigurationError, QueueFull
from dexpy.runtime import install
from dexpy.testing import Isolated, isolated

__all__ = ["database_url", "reused_databases"]


class Send(Operation, name="limits.send"):
    number: int = 0
    async_ = Async(queue="small")
    retry_on = (Retry(ConnectionError, attempts=3, wait=0),)

    def perform(self) -> None:
        if self.number < 0:
            raise ConnectionError


class Direct(Operation, name="limits.direct"):
    async_ = Async(queue="small")
    record = Recording(params=False)

    def perform(self) -> None: ...


class Parent(Operation, name="limits.parent"):
    def perform(self) -> str:
        self.session.execute(sa.text("SELECT 1"))
        try:
            Send().async_().call()
        except QueueFull as full:
            return f"full after {full.waited_s:g} s"
        return "enqueued"


@contextmanager
def limited(database_url: str, limit: QueueLimit) -> Generator[Isolated]:
    configured = dexpy.configure(database="sqlite://", queues={"small": limit})
    try:
        with isolated(database=database_url) as test:
            yield test
    finally:
        install(None)
        configured.close()


def test_a_full_queue_refuses_runs_and_stores_nothing(database_url: str) -> None:
    with limited(database_url, QueueLimit(3)) as test:
        for number in range(3):
            Send(number=number).async_().call()

        with pytest.raises(QueueFull, match="The queue 'small' is full: 3 of 3 runs are pending") as caught:
            Send().async_().call()
        with pytest.raises(QueueFull):
            Send().async_(in_=timedelta(days=1)).call()
        with pytest.raises(QueueFull):
            enqueue_all([Send()])
        assert (caught.value.queue, caught.value.max_pending) == ("small", 3)
        assert records.all().count() == 3
        # Another queue has no limit.
        Send().async_(queue="other").call()

        test.run_pending()
        Send().async_().call()


def test_a_batch_is_admitted_as_a_whole(database_url: str) -> None:
    with limited(database_url, QueueLimit(3, on_full="block", block_timeout=30)):
        Send().async_().call()
        with pytest.raises(QueueFull, match="expected room for 4 runs"):
            enqueue_all([Send(number=number) for number in range(4)])
        assert records.all().count() == 1
        assert len(enqueue_all([Send(number=number) for number in range(2)])) == 2


def test_an_enqueue_waits_for_room_and_is_refused_after_its_timeout(database_url: str) -> None:
    with limited(database_url, QueueLimit(1, on_full="block", block_timeout=timedelta(seconds=0.2))):
        first = Send().async_(in_=60).call()
        with pytest.raises(QueueFull, match=r"is full after 0\.2"):
            Send().async_().call()

    with limited(database_url, QueueLimit(1, on_full="block", block_timeout=30)):
        first = Send().async_(in_=60).call()
        makes_room = threading.Timer(0.1, first.cancel)
        makes_room.start()
        started = time.monotonic()
        assert Send().async_().call().pending
        makes_room.join()
        assert time.monotonic() - started < 20


def test_in_a_transaction_of_the_application_an_enqueue_never_waits(database_url: str) -> None:
    with limited(database_url, QueueLimit(1, on_full="block", block_timeout=60)) as test:
        Send().async_(in_=600).call()
        started = time.monotonic()
        with test.runtime.store.new_session() as session, dexpy.session(session):
            session.execute(sa.text("SELECT 1"))
            with pytest.raises(QueueFull):
                Send().async_().call()
        parent = Parent().async_().call()
        test.run_pending()

        assert parent.result(5) == "full after 0 s"
        assert time.monotonic() - started < 30


def test_retries_and_revived_runs_are_never_refused(database_url: str) -> None:
    with limited(database_url, QueueLimit(1)) as test:
        failing = Send(number=-1).async_().call()
        test.run_pending()
        assert failing.reload().failed
        Send().async_(in_=60).call()

        failing.retry()
        test.run_pending()

        assert len(records.attempts(failing.id)) == 6


def test_a_tick_for_a_full_queue_is_skipped_and_counted(database_url: str) -> None:
    with limited(database_url, QueueLimit(1)) as test:
        Send().async_(in_=timedelta(days=9)).call()
        recurring.add("often", Send(), Every("minute"))
        test.advance(60)
        recorded = test.runtime.start().recorded
        assert recorded is not None
        recorded.recurring.run_once()

        (row,) = test.runtime.store.rows(sa.select(tasks.c.skipped_count, tasks.c.missed_count))
        assert tuple(row) == (1, 0)
        assert records.all().count() == 1


def test_a_large_limit_is_counted_seldom_and_a_queue_without_one_never(tmp_path: Path) -> None:
    statements: list[str] = []
    with limited(f"sqlite:///{tmp_path / 'a.db'}", QueueLimit(10_000)) as test:
        Send().async_(queue="other").call()
        sa.event.listen(
            test.runtime.store.database.engine,
            "before_cursor_execute",
            lambda _c, _cursor, statement, *_: statements.append(statement),
        )
        for queue in ("other", "small"):
            statements.clear()
            for number in range(50):
                Send(number=number).async_(queue=queue).call()
            counts = [text for text in statements if "count(" in text]
            assert len(counts) <= (0 if queue == "other" else 25), counts


@pytest.mark.parametrize("kind", [
    "redis",
    pytest.param("rabbitmq", marks=pytest.mark.servers),
])  # fmt: skip
def test_runs_without_a_record_are_counted_by_the_messages_of_the_broker(kind: str) -> None:
    with servers.broker(kind) as url:
        runtime = dexpy.configure(broker=url, queues={"small": QueueLimit(2)})
        try:
            for _ in range(2):
                Direct().async_().call()
            with pytest.raises(QueueFull):
                Direct().async_().call()
        finally:
            install(None)
            runtime.close()


def test_a_broker_that_cannot_count_is_refused_at_configure() -> None:
    with pytest.raises(ConfigurationError, match="StubBroker cannot count its messages"):
        dexpy.configure(broker=StubBroker(), queues={"small": QueueLimit(2)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_pending": 0}, "max_pending"),
        ({"max_pending": True}, "max_pending"),
        ({"max_pending": "3"}, "max_pending"),
        ({"max_pending": 3, "on_full": "rejects"}, "Did you mean 'reject'"),
        ({"max_pending": 3, "block_timeout": -1}, "block_timeout"),
        ({"max_pending": 3, "block_timeout": "5s"}, "block_timeout"),
        ({"max_pending": 3, "block_timeout": float("nan")}, "block_timeout"),
    ],
)
def test_an_odd_limit_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        QueueLimit(**arguments)


@pytest.mark.parametrize("queues", [{"a b": QueueLimit(1)}, {"small": 7}])
def test_odd_names_and_values_of_configure_are_refused(queues: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"configure\(queues="):
        dexpy.configure(database="sqlite://", queues=queues)


def test_the_file_sets_limits_for_each_environment(tmp_path: Path) -> None:
    (tmp_path / "dexpy.toml").write_text(
        "[queues.small]\nmax_pending = 5\n[queues.large]\nmax_pending = 9\n[production.queues.small]\nmax_pending = 7\n"
        'on_full = "block"\nblock_timeout = "2s"\n'
    )

    limits = Configuration.load({"DEXPY_ENV": "production"}, tmp_path, {}).queue_limits

    assert limits == {"small": QueueLimit(7, on_full="block", block_timeout=2), "large": QueueLimit(9)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[queues.small]\nmax_pendin = 5\n", "unknown key.*Did you mean 'max_pending'"),
        ('[queues.small]\non_full = "block"\n', "'max_pending' is missing"),
        ('[queues."a b"]\nmax_pending = 5\n', "expected a queue name"),
        ("[queues]\nsmall = 5\n", "expected a table, got 5"),
    ],
)
def test_an_odd_table_of_the_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dexpy.toml").write_text(text)

    with pytest.raises(ConfigurationError, match=message):
        Configuration.load({}, tmp_path, {})
