"""The SQL broker on a real SQLite file, with Dramatiq's own worker, in threads and in processes."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import dramatiq
import dramatiq.worker
import pytest
import sqlalchemy as sa
from dramatiq.errors import BrokerConnectionError, QueueJoinTimeout, QueueNotFound
from dramatiq.middleware import TimeLimitExceeded

import dexpy
import dexpy.brokers.sql.consumer as consumer_module
from dexpy.brokers.sql.broker import Pending, SqlBroker
from dexpy.brokers.sql.leases import ClaimedMessage
from dexpy.brokers.sql.statements import INSERT_AT
from dexpy.database.dialects import dialect_of
from dexpy.database.engine import Database
from dexpy.database.tables import messages
from dexpy.foundation.clock import clock
from dexpy.foundation.errors import ConfigurationError

ROOT = str(Path(next(iter(dexpy.__path__))).parent)
KEEPER = "dexpy-leases"


@pytest.fixture(autouse=True)
def real_time() -> Iterator[None]:
    yield
    clock.reset()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/queue.db")
    yield database
    database.dispose()


@pytest.fixture
def broker(database: Database) -> Iterator[SqlBroker]:
    broker = SqlBroker(database)
    broker.create_tables()
    yield broker
    broker.close()


def sibling(broker: SqlBroker, **options: Any) -> SqlBroker:
    """A second broker on the same table, with its own owner name like another process."""
    return SqlBroker(broker.database, **options)


def message(name: str = "job", *args: Any, queue: str = "default") -> dramatiq.Message[Any]:
    return dramatiq.Message(queue_name=queue, actor_name=name, args=args, kwargs={}, options={})


def publish(broker: SqlBroker, *to_publish: dramatiq.Message[Any], in_s: float = 0, priority: int = 0) -> None:
    with broker.database.begin() as connection:
        for one in to_publish:
            broker.insert(connection, one, due_at=clock.now() + timedelta(seconds=in_s), priority=priority)
    broker.wake_consumers()


def take(broker: SqlBroker) -> ClaimedMessage:
    claimed = broker.claim()
    assert claimed is not None
    return claimed


def row(broker: SqlBroker) -> Any:
    with broker.database.connect() as connection:
        return connection.execute(sa.select(messages)).one()


def eventually(condition: Callable[[], Any], timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition has not become true in time"
        time.sleep(0.005)


@contextmanager
def working(broker: SqlBroker, threads: int = 4) -> Iterator[dramatiq.Worker]:
    worker = dramatiq.Worker(broker, worker_threads=threads, worker_timeout=100)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


def keepers() -> int:
    return sum(thread.name == KEEPER for thread in threading.enumerate())


# Publishing and claiming


def test_messages_can_be_claimed_only_after_the_commit_of_their_publish(broker: SqlBroker) -> None:
    claims: list[object] = []
    with broker.database.begin() as connection:
        broker.insert(connection, message())
        other = threading.Thread(target=lambda: claims.append(broker.claim()))
        other.start()
        other.join()
        assert broker.pending() == Pending(due=0, delayed=0, leased=0)
    assert claims == [None]
    assert broker.pending() == Pending(due=1, delayed=0, leased=0)
    take(broker).ack()


def test_a_publish_that_is_rolled_back_leaves_no_message(broker: SqlBroker) -> None:
    with pytest.raises(ZeroDivisionError), broker.database.begin() as connection:
        broker.insert(connection, message())
        _ = 1 / 0
    assert broker.claim() is None
    assert broker.pending() == Pending(due=0, delayed=0, leased=0)


def test_messages_are_claimed_by_priority_then_due_time_then_insertion_order(broker: SqlBroker) -> None:
    publish(broker, message("late"), in_s=-1)
    publish(broker, message("first"), message("second"), message("third"), in_s=-5)
    publish(broker, message("urgent, late"), in_s=-2, priority=7)
    publish(broker, message("urgent"), in_s=-3, priority=7)
    publish(broker, message("unloved"), in_s=-60, priority=-1)
    order = [take(broker).actor_name for _ in range(7)]
    assert order == ["urgent", "urgent, late", "first", "second", "third", "late", "unloved"]


def test_a_claim_reads_only_the_queues_that_it_names(broker: SqlBroker) -> None:
    publish(broker, message("a", queue="alpha"), message("b", queue="beta"))
    assert broker.claim(["gamma"]) is None
    assert broker.claim([]) is None
    claimed = broker.claim(["beta", "gamma"])
    assert claimed is not None
    assert (claimed.actor_name, claimed.queue_name) == ("b", "beta")
    assert broker.pending(["alpha"]) == Pending(due=1, delayed=0, leased=0)
    assert broker.pending(["beta"]) == Pending(due=0, delayed=0, leased=1)
    assert broker.pending() == Pending(due=1, delayed=0, leased=1)


def test_a_message_is_read_as_it_was_published(broker: SqlBroker) -> None:
    published = dramatiq.Message("default", "job", (1, "ü"), {"n": None}, {"dexpy": {"v": 1}})
    publish(broker, published)
    claimed = take(broker)
    assert dramatiq.Message(**{name: getattr(claimed, name) for name in published.asdict()}) == published


def test_an_acknowledged_message_is_deleted_and_its_id_is_never_reused(broker: SqlBroker) -> None:
    publish(broker, message())
    first = row(broker).id
    take(broker).ack()
    assert broker.pending() == Pending(due=0, delayed=0, leased=0)
    publish(broker, message())
    assert row(broker).id > first


def test_a_rejected_message_is_dead_lettered_and_never_claimed_again(broker: SqlBroker) -> None:
    publish(broker, message())
    take(broker).nack()
    clock.advance(timedelta(days=400))
    assert broker.claim() is None
    assert broker.pending() == Pending(due=0, delayed=0, leased=0)
    rejected_row = row(broker)
    assert (rejected_row.dead, rejected_row.owner, rejected_row.leased_until) == (True, None, None)
    assert '"actor_name":"job"' in rejected_row.payload


def test_an_undecodable_message_is_dead_lettered_and_does_not_delay_the_next_one(broker: SqlBroker) -> None:
    publish(broker, message("broken"), message("sound"))
    with broker.database.begin() as connection:
        connection.execute(sa.update(messages).where(messages.c.id == 1).values(payload="{"))
    assert take(broker).actor_name == "sound"
    with broker.database.connect() as connection:
        assert connection.execute(sa.select(messages.c.id).where(messages.c.dead)).scalars().all() == [1]


def test_an_encoder_that_returns_no_text_is_refused_at_the_publish(broker: SqlBroker) -> None:
    dramatiq.set_encoder(dramatiq.PickleEncoder())
    try:
        with pytest.raises(ConfigurationError, match="text"):
            broker.enqueue(message())
    finally:
        dramatiq.set_encoder(dramatiq.JSONEncoder())


# Time


def test_a_delayed_message_is_due_after_its_delay(broker: SqlBroker) -> None:
    broker.enqueue(message(), delay=3_600_000)
    assert broker.claim() is None
    assert broker.pending() == Pending(due=0, delayed=1, leased=0)
    clock.advance(3_590)
    assert broker.claim() is None
    clock.advance(11)
    assert broker.pending() == Pending(due=1, delayed=0, leased=0)
    assert take(broker).actor_name == "job"


def test_a_worker_runs_a_delayed_message_soon_after_its_delay(broker: SqlBroker) -> None:
    started: list[float] = []

    @dramatiq.actor(broker=broker)
    def note() -> None:
        started.append(time.monotonic())

    with working(broker):
        published_at = time.monotonic()
        note.send_with_options(delay=400)
        broker.join("default", timeout=10_000)
    assert 0.4 <= started[0] - published_at < 2


def test_sixty_thousand_delayed_messages_slow_down_neither_a_due_message_nor_an_idle_poll(broker: SqlBroker) -> None:
    @dramatiq.actor(broker=broker)
    def note() -> None:
        pass

    far = {"p_queue": "default", "p_message_id": "", "p_payload": "{}", "p_due_at": clock.now() + timedelta(days=30)}
    with broker.database.begin() as connection:
        connection.execute(INSERT_AT, [{**far, "p_priority": number % 3} for number in range(60_000)])
    consumer = broker.consume("default", prefetch=2, timeout=1)
    looks = [elapsed(lambda: next(consumer)) for _ in range(20)]
    assert sorted(looks)[10] < 0.02
    consumer.close()
    with working(broker):
        published_at = time.monotonic()
        note.send()
        eventually(lambda: broker.pending() == Pending(due=0, delayed=60_000, leased=0))
    assert time.monotonic() - published_at < 1.5


def elapsed(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


# Leases


def test_a_message_whose_lease_has_expired_goes_to_another_owner(broker: SqlBroker) -> None:
    publish(broker, message())
    take(broker)
    other = sibling(broker)
    clock.advance(59)
    assert other.claim() is None
    clock.advance(2)
    take(other).ack()
    assert broker.pending() == Pending(due=0, delayed=0, leased=0)


@pytest.mark.parametrize("end", ["ack", "nack", "requeue"])
def test_the_owner_of_an_expired_lease_does_not_change_its_successors_message(broker: SqlBroker, end: str) -> None:
    publish(broker, message())
    broker.declare_queue("default")
    consumer = broker.consume("default", prefetch=2, timeout=1)
    mine = next(consumer)
    assert isinstance(mine, ClaimedMessage)
    other = sibling(broker)
    clock.advance(61)
    theirs = take(other)
    consumer.requeue([mine]) if end == "requeue" else getattr(consumer, end)(mine)
    assert broker.pending() == Pending(due=0, delayed=0, leased=1)
    theirs.ack()
    assert broker.pending() == Pending(due=0, delayed=0, leased=0)
    consumer.close()


def test_a_message_that_is_running_in_a_process_is_not_delivered_to_it_again(broker: SqlBroker) -> None:
    publish(broker, message())
    mine = take(broker)
    clock.advance(61)
    assert broker.claim() is None
    assert sibling(broker).claim() is None, "the claim attempt has renewed the lease"
    mine.ack()
    assert broker.pending() == Pending(due=0, delayed=0, leased=0)


def test_a_run_longer_than_its_lease_is_not_delivered_again(database: Database) -> None:
    broker = SqlBroker(database, lease_s=0.6)
    broker.create_tables()
    runs: list[float] = []

    @dramatiq.actor(broker=broker)
    def long() -> None:
        runs.append(time.monotonic())
        time.sleep(1.6)

    other = sibling(broker)
    with working(broker):
        long.send()
        eventually(lambda: runs)
        while broker.pending() != Pending(due=0, delayed=0, leased=0):
            assert other.claim() is None
            time.sleep(0.01)
    assert len(runs) == 1


def test_one_thread_renews_leases_as_long_as_a_message_is_consumed_or_held(database: Database) -> None:
    broker = SqlBroker(database, lease_s=0.5)
    broker.create_tables()
    assert keepers() == 0
    for name in ("alpha", "beta"):
        broker.declare_queue(name)
    publish(broker, message(queue="alpha"))
    alpha, beta = (broker.consume(name, prefetch=2, timeout=100) for name in ("alpha", "beta"))
    assert keepers() == 1
    delivery = next(alpha)
    assert delivery is not None
    # Dramatiq closes a consumer when its worker is paused, while its messages are still being run.
    alpha.close()
    beta.close()
    other, until = sibling(broker), time.monotonic() + 1
    while time.monotonic() < until:
        assert other.claim() is None
    assert keepers() == 1
    alpha.ack(delivery)
    assert broker.pending() == Pending(due=0, delayed=0, leased=0)
    assert keepers() == 0


def test_a_stopped_worker_releases_the_messages_that_it_has_not_started(broker: SqlBroker) -> None:
    started, go_on = threading.Event(), threading.Event()
    executed: list[int] = []

    @dramatiq.actor(broker=broker)
    def wait(number: int) -> None:
        started.set()
        go_on.wait(10)
        executed.append(number)

    publish(broker, *(wait.message(number) for number in range(8)))
    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=100)
    worker.queue_prefetch = 8
    worker.start()
    started.wait(10)
    assert broker.pending() == Pending(due=7, delayed=0, leased=1), (
        "one thread holds one message, despite the prefetch of 8"
    )
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    eventually(lambda: not worker.workers[0].running)
    go_on.set()
    stopping.join()
    assert executed == [0]
    assert broker.pending() == Pending(due=7, delayed=0, leased=0)
    assert take(broker).args == (1,), "the released message keeps its place in the order"


def test_a_closed_consumer_releases_the_messages_that_had_not_reached_the_worker(broker: SqlBroker) -> None:
    broker.declare_queue("default")
    publish(broker, *(message("job", number) for number in range(6)))
    consumer = broker.consume("default", prefetch=8, timeout=100)
    running = next(consumer)
    assert running is not None
    assert broker.pending() == Pending(due=2, delayed=0, leased=4)
    consumer.close()
    consumer.close()
    assert broker.pending() == Pending(due=5, delayed=0, leased=1)
    assert take(sibling(broker)).args == (1,)
    consumer.ack(running)
    assert broker.pending() == Pending(due=4, delayed=0, leased=1)


# Consumers


def test_a_consumer_holds_no_more_messages_than_it_has_threads(broker: SqlBroker) -> None:
    go_on, executed = threading.Event(), list[str]()
    # Each urgent message waits for the other one, so both threads must run one of them at the same time.
    both = threading.Barrier(2)

    @dramatiq.actor(broker=broker)
    def wait(name: str) -> None:
        go_on.wait(10)
        executed.append(name)
        if name == "urgent":
            both.wait(10)

    publish(broker, *(wait.message("patient") for _ in range(10)))
    with working(broker, threads=2):
        eventually(lambda: broker.pending() == Pending(due=8, delayed=0, leased=2))
        publish(broker, wait.message("urgent"), wait.message("urgent"), priority=1)
        assert broker.pending() == Pending(due=10, delayed=0, leased=2)
        go_on.set()
        broker.join("default", timeout=10_000)
    assert executed[2:4] == ["urgent", "urgent"]


def test_a_worker_runs_by_priority_then_due_time_then_order(broker: SqlBroker) -> None:
    executed: list[int] = []

    @dramatiq.actor(broker=broker)
    def note(number: int) -> None:
        executed.append(number)

    publish(broker, *(note.message(number) for number in (5, 6, 7)))
    publish(broker, note.message(3), note.message(4), in_s=-9)
    publish(broker, note.message(8), in_s=-99, priority=-1)
    publish(broker, note.message(1), note.message(2), priority=3)
    with working(broker, threads=1):
        broker.join("default", timeout=10_000)
    assert executed == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_notification_wakes_an_idle_consumer_long_before_its_next_poll(database: Database) -> None:
    broker = SqlBroker(database, poll_s=8, idle_poll_s=8)
    broker.create_tables()
    broker.declare_queue("default")
    consumer = broker.consume("default", prefetch=2, timeout=8_000)
    assert delay_until_next(consumer, lambda: publish(broker, message())) < 1
    consumer.close()


@pytest.mark.parametrize("end", ["ack", "nack"])
def test_a_full_consumer_claims_at_the_end_of_a_message_without_waiting_for_a_poll(broker: SqlBroker, end: str) -> None:
    broker.declare_queue("default")
    publish(broker, message(), message())
    consumer = broker.consume("default", prefetch=1, timeout=8_000)
    first = next(consumer)
    assert first is not None
    assert delay_until_next(consumer, lambda: getattr(consumer, end)(first)) < 1
    consumer.close()


def delay_until_next(consumer: dramatiq.Consumer, act: Callable[[], None]) -> float:
    """Return the seconds from an action until a waiting consumer has a message."""
    received_at: list[float] = []

    def wait() -> None:
        while next(consumer) is None:
            pass
        received_at.append(time.monotonic())

    waiting = threading.Thread(target=wait)
    waiting.start()
    waiting.join(0.1)
    assert not received_at
    acted = time.monotonic()
    act()
    waiting.join()
    return received_at[0] - acted


def test_a_consumer_polls_often_for_a_while_after_a_message_and_rarely_later(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = SqlBroker(database, poll_s=0.01, idle_poll_s=0.4)
    broker.create_tables()
    broker.declare_queue("default")
    consumer = broker.consume("default", prefetch=2, timeout=8_000)
    publish(broker, message())
    delivery = next(consumer)
    assert delivery is not None
    consumer.ack(delivery)
    next(consumer)
    assert 0.01 <= elapsed(lambda: next(consumer)) < 0.3
    monkeypatch.setattr(consumer_module, "FAST_POLL_FOR_S", 0)
    assert elapsed(lambda: next(consumer)) >= 0.39
    consumer.close()


def test_an_idle_consumer_acquires_no_write_lock(broker: SqlBroker) -> None:
    broker.declare_queue("default")
    consumer = broker.consume("default", prefetch=2, timeout=10)
    with broker.database.begin() as connection:
        dialect_of(connection).acquire_write_lock(connection)
        assert next(consumer) is None
        assert broker.claim() is None
    consumer.close()


def test_a_queue_that_is_declared_while_a_worker_runs_is_consumed(broker: SqlBroker) -> None:
    executed: list[str] = []
    with working(broker):

        @dramatiq.actor(broker=broker, queue_name="latecomers")
        def note(name: str) -> None:
            executed.append(name)

        note.send("here")
        broker.join("latecomers", timeout=10_000)
    assert executed == ["here"]


def test_a_message_whose_row_was_moved_to_another_queue_runs_there(broker: SqlBroker) -> None:
    executed: list[str] = []

    @dramatiq.actor(broker=broker, queue_name="there")
    def note() -> None:
        executed.append("there")

    publish(broker, message("note", queue="here"))
    with broker.database.begin() as connection:
        connection.execute(sa.update(messages).values(queue="there"))
    with working(broker):
        broker.join("there", timeout=10_000)
    assert executed == ["there"]


def test_an_actor_that_finally_fails_leaves_a_dead_message_and_the_queue_continues(broker: SqlBroker) -> None:
    @dramatiq.actor(broker=broker, max_retries=0)
    def fail() -> None:
        raise LookupError("no such thing")

    with working(broker):
        fail.send()
        broker.enqueue(message("unknown"))
        broker.join("default", timeout=10_000)
    with broker.database.connect() as connection:
        assert connection.execute(sa.select(messages.c.dead)).scalars().all() == [True, True]


def test_a_retry_waits_in_the_table_and_keeps_its_priority(broker: SqlBroker) -> None:
    tries: list[int] = []

    @dramatiq.actor(broker=broker, max_retries=3, min_backoff=20, max_backoff=40)
    def flaky() -> None:
        tries.append(row(broker).priority)
        if len(tries) < 3:
            raise LookupError("not yet")

    with working(broker):
        publish(broker, flaky.message(), priority=6)
        eventually(lambda: len(tries) == 3)
        broker.join("default", timeout=10_000)
    assert tries == [6, 6, 6]


# The interface of Dramatiq's brokers


def test_the_middleware_is_called_for_every_message_and_queue_and_no_delay_queue(database: Database) -> None:
    calls: list[tuple[Any, ...]] = []

    class Listener(dramatiq.Middleware):
        def __getattribute__(self, name: str) -> Any:
            if not name.startswith(("before_", "after_")):
                return super().__getattribute__(name)
            return lambda _broker, *args: calls.append((name, *args))

    broker = SqlBroker(database, middleware=[Listener()])
    broker.create_tables()
    broker.declare_queue("default")
    broker.declare_queue("default")
    first, second, third = message("first"), message("second"), message("third")
    broker.enqueue(first)
    broker.enqueue(second, delay=5_000)
    with database.begin() as connection:
        broker.insert(connection, third)
    assert calls == [
        ("before_declare_queue", "default"),
        ("after_declare_queue", "default"),
        ("before_enqueue", first, None),
        ("after_enqueue", first, None),
        ("before_enqueue", second, 5_000),
        ("after_enqueue", second, 5_000),
        ("before_enqueue", third, None),
        ("after_enqueue", third, None),
    ]
    assert broker.get_declared_queues() == {"default"}
    assert broker.get_declared_delay_queues() == set()


def test_join_waits_for_delayed_messages_too_and_raises_at_its_timeout(broker: SqlBroker) -> None:
    broker.declare_queue("default")
    broker.join("default")
    broker.enqueue(message(), delay=60_000)
    with pytest.raises(QueueJoinTimeout):
        broker.join("default", timeout=50)


def test_a_queue_that_was_never_declared_can_be_neither_consumed_nor_joined(broker: SqlBroker) -> None:
    with pytest.raises(QueueNotFound):
        broker.consume("nowhere")
    with pytest.raises(QueueNotFound):
        broker.join("nowhere")


def test_flush_empties_one_queue_and_flush_all_the_declared_ones(broker: SqlBroker) -> None:
    for name in ("alpha", "beta"):
        broker.declare_queue(name)
        publish(broker, message(queue=name), message(queue=name))
    publish(broker, message(queue="undeclared"))
    take(broker).nack()
    broker.flush("alpha")
    assert broker.pending() == Pending(due=3, delayed=0, leased=0)
    broker.flush_all()
    assert broker.pending() == Pending(due=1, delayed=0, leased=0)
    assert row(broker).queue == "undeclared"


def test_the_table_is_created_once_by_the_first_broker(tmp_path: Path) -> None:
    databases = [Database(f"sqlite:///{tmp_path}/fresh.db") for _ in range(6)]
    start, failures = threading.Barrier(6), list[BaseException]()

    def create(database: Database) -> None:
        start.wait()
        try:
            SqlBroker(database).create_tables()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=create, args=(database,)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert SqlBroker(databases[0]).pending() == Pending(due=0, delayed=0, leased=0)
    for database in databases:
        database.dispose()


@pytest.mark.parametrize("options", [{"lease_s": 0}, {"poll_s": -1}, {"idle_poll_s": 0}])
def test_an_invalid_duration_is_refused(database: Database, options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        SqlBroker(database, **options)


# An unreachable database


@contextmanager
def failing(broker: SqlBroker, word: str, failures: list[BaseException]) -> Iterator[None]:
    """Let statements that begin with a word raise the given errors, until none is left."""

    def fail(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(word) and failures:
            raise failures.pop()

    sa.event.listen(broker.database.engine, "before_cursor_execute", fail)
    try:
        yield
    finally:
        sa.event.remove(broker.database.engine, "before_cursor_execute", fail)


def locked() -> BaseException:
    return sa.exc.OperationalError("DELETE", {}, sqlite3.OperationalError("database is locked"))


def test_an_acknowledgement_survives_a_short_outage_of_the_database(broker: SqlBroker) -> None:
    publish(broker, message())
    mine = take(broker)
    with failing(broker, "DELETE", [locked(), locked()]):
        mine.ack()
    assert broker.pending() == Pending(due=0, delayed=0, leased=0)


def test_an_acknowledgement_without_a_database_times_out_and_the_message_is_redelivered(
    broker: SqlBroker, caplog: pytest.LogCaptureFixture
) -> None:
    publish(broker, message())
    mine = take(broker)
    with failing(broker, "DELETE", [locked() for _ in range(9)]):
        mine.ack()
    assert "message.not_acknowledged" in caplog.text
    clock.advance(61)
    take(broker).ack()
    assert broker.pending() == Pending(due=0, delayed=0, leased=0)


def test_an_acknowledgement_is_written_although_the_time_limit_interrupts_it(
    broker: SqlBroker,
) -> None:
    publish(broker, message())
    mine = take(broker)
    with failing(broker, "DELETE", [TimeLimitExceeded()]):
        mine.ack()
    assert broker.pending() == Pending(due=0, delayed=0, leased=0)


def test_enqueueing_without_a_table_is_a_connection_error_of_the_broker(database: Database) -> None:
    with pytest.raises(BrokerConnectionError, match="no such table"):
        SqlBroker(database).enqueue(message())


def test_a_worker_survives_a_temporary_outage_of_its_database(
    broker: SqlBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dramatiq.worker, "CONSUMER_RESTART_DELAY_SECS", 0.05)
    executed: list[int] = []
    failed = threading.Event()

    @dramatiq.actor(broker=broker)
    def note(number: int) -> None:
        executed.append(number)

    consume = broker.consume

    def consume_again(*args: Any, **options: Any) -> dramatiq.Consumer:
        failed.set()
        return consume(*args, **options)

    with working(broker, threads=2):
        note.send(1)
        broker.join("default", timeout=10_000)
        monkeypatch.setattr(broker, "consume", consume_again)
        with broker.database.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE dexpy_messages RENAME TO elsewhere")
        assert failed.wait(10), "Dramatiq has restarted the consumer after its failure"
        with broker.database.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO dexpy_messages")
        note.send(2)
        broker.join("default", timeout=10_000)
    assert executed == [1, 2]


def test_leases_are_renewed_again_after_a_short_outage(database: Database) -> None:
    broker = SqlBroker(database, lease_s=0.9)
    broker.create_tables()
    broker.declare_queue("default")
    publish(broker, message())
    consumer = broker.consume("default", prefetch=2, timeout=100)
    delivery = next(consumer)
    assert delivery is not None
    first = row(broker).leased_until
    failures = [locked()]
    with failing(broker, "UPDATE", failures):
        eventually(lambda: row(broker).leased_until > first)
    assert not failures
    consumer.ack(delivery)
    consumer.close()


# Processes

APPLICATION = """
import os, sys, time
import dramatiq
from dexpy.brokers.sql.broker import SqlBroker
from dexpy.database.engine import Database

url, log, lease_s, threads = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
broker = SqlBroker(Database(url), lease_s=lease_s)
lines = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@dramatiq.actor(broker=broker)
def mark(number, sleep_s):
    os.write(lines, f"{number} {os.getpid()}\\n".encode())
    time.sleep(sleep_s)

worker = dramatiq.Worker(broker, worker_threads=threads, worker_timeout=100)
worker.start()
print("ready", flush=True)
sys.stdin.read()
worker.stop()
broker.database.dispose()
"""


class Application:
    """The worker processes of a small application."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.url = str(database.url)
        self.log = folder / "runs.log"
        self.log.touch()
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *, threads: int, lease_s: float = 60) -> subprocess.Popen[str]:
        """Start a worker process and wait until it is ready."""
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", APPLICATION, self.url, str(self.log), str(lease_s), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": ROOT},
        )
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def runs(self) -> list[tuple[int, int]]:
        """Return the number and the pid of each run so far."""
        return [(int(number), int(pid)) for number, pid in map(str.split, self.log.read_text().splitlines())]

    def stop(self, process: subprocess.Popen[str]) -> None:
        """Close the standard input of a process and wait for its end."""
        process.communicate(timeout=20)
        assert process.returncode == 0

    def end(self) -> None:
        """Kill the processes that still run."""
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def application(broker: SqlBroker, tmp_path: Path) -> Iterator[Application]:
    application = Application(broker.database, tmp_path)
    broker.declare_queue("default")
    yield application
    application.end()


def test_two_processes_of_four_threads_run_two_hundred_messages_once_each(
    broker: SqlBroker, application: Application
) -> None:
    processes = [application.start(threads=4) for _ in range(2)]
    # Long enough that the number of threads limits the pace, not the time at which each process starts.
    publish(broker, *(message("mark", number, 0.04) for number in range(200)))
    broker.join("default", timeout=20_000)
    for process in processes:
        application.stop(process)
    runs = application.runs()
    assert sorted(number for number, _ in runs) == list(range(200))
    share = Counter(pid for _, pid in runs)
    assert set(share) == {process.pid for process in processes}
    assert min(share.values()) > 20, "no process holds messages while the other one is idle"


def test_messages_of_a_killed_process_run_elsewhere_after_their_lease_has_expired(
    broker: SqlBroker, application: Application
) -> None:
    publish(broker, *(message("mark", number, 60) for number in range(3)))
    victim = application.start(threads=4, lease_s=1.5)
    eventually(lambda: len(application.runs()) == 3)
    assert {pid for _, pid in application.runs()} == {victim.pid}
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    killed = time.monotonic()
    assert broker.pending() == Pending(due=0, delayed=0, leased=3)
    eventually(lambda: broker.pending() == Pending(due=3, delayed=0, leased=0))
    assert time.monotonic() - killed < 1.5 + 1
    assert sorted(take(broker).args[0] for _ in range(3)) == [0, 1, 2]


def test_a_stopped_process_leaves_no_lease(broker: SqlBroker, application: Application) -> None:
    process = application.start(threads=2)
    publish(broker, *(message("mark", number, 0.2) for number in range(20)))
    eventually(lambda: len(application.runs()) >= 2)
    application.stop(process)
    remaining = broker.pending()
    assert remaining == Pending(due=20 - len(application.runs()), delayed=0, leased=0)
    assert remaining.due > 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_claims_messages_as_a_separate_owner(broker: SqlBroker) -> None:
    publish(broker, message("parents"), message("childs"))
    mine = take(broker)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            if take(broker).actor_name == "childs" and broker.claim() is None:
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with broker.database.connect() as connection:
        owners = connection.execute(sa.select(messages.c.owner)).scalars().all()
    assert len(set(owners)) == 2
    mine.ack()
    assert broker.pending() == Pending(due=0, delayed=0, leased=1)
