"""What one pass of the relay publishes, and what it leaves for the next pass when the broker refuses or loses messages.

The broker is a subclass of Dramatiq's stub, which tests make unreachable, or let refuse the messages of some queues.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import sqlalchemy as sa
from dramatiq.brokers.stub import StubBroker
from dramatiq.errors import ConnectionClosed

import dexpy
from dexpy import Operation, Recording, Retry, WorkerLost
from dexpy.brokers.sql.broker import SqlBroker
from dexpy.database.tables import messages, records
from dexpy.foundation.clock import clock
from dexpy.maintenance import relay as relay_module
from dexpy.maintenance.recovery import Recovery
from dexpy.maintenance.relay import SET_ASIDE_S, Relay
from dexpy.maintenance.republish import BATCH, LONGEST_S, BrokerRepublisher
from dexpy.maintenance.republish_sql import SqlRepublisher
from dexpy.runtime import Runtime, install

LATER_S = 60.0
"""A delay, in seconds, for which messages wait in the database instead of the broker."""


class Recorded(Operation):
    """Has a record."""

    def perform(self) -> None: ...


class Recovering(Recorded):
    """Is retried after a lost worker, with a growing wait."""

    retry_on = (Retry(WorkerLost, attempts=5, wait=lambda number: 60.0 * number, jitter=0),)


class Direct(Operation):
    """Has no record before its end: its message has all its data."""

    record = Recording(params=False)

    def perform(self) -> None: ...


class UnreliableBroker(StubBroker):
    """Can be unreachable, or refuse the messages of some queues."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.refused: set[str] = set()

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        if self.is_away or message.queue_name in self.refused:
            raise ConnectionClosed(Exception("not now"))
        return super().enqueue(message, delay=delay)

    def declare_queue(self, queue_name: str, *, ensure: bool = False) -> None:
        super().declare_queue(queue_name)

    def get_queue_message_counts(self, queue_name: str) -> tuple[int, ...]:
        """Return the number of messages; dexpy also calls it to check that the broker is reachable."""
        if self.is_away:
            raise ConnectionClosed(Exception("not now"))
        return (self.queues[queue_name].qsize(),)


class UncountableBroker(UnreliableBroker):
    """A broker that cannot count its messages."""

    get_queue_message_counts = property()  # type: ignore[assignment]


class Setup:
    """A runtime and its relay."""

    def __init__(self, folder: Path, broker: UnreliableBroker) -> None:
        self.broker = broker
        self.runtime = dexpy.configure(database=f"sqlite:///{folder / 'records.db'}", broker=broker)
        self.dispatcher = self.runtime.dispatcher
        assert self.runtime.services.heartbeat is not None
        self.relay = Relay(self.dispatcher, self.runtime.services.heartbeat, self.runtime.intervals)

    def published_ids(self) -> Counter[str]:
        """Remove all messages from the broker, and return the ids of their runs."""
        counts: Counter[str] = Counter()
        for queue in list(self.broker.queues.values()):
            while not queue.empty():
                message: Any = dramatiq.Message.decode(queue.get_nowait())
                counts[message.kwargs.get("record_id") or message.options["dexpy"]["id"]] += 1
        return counts

    def waiting(self) -> int:
        """The number of messages in the database, leased or not."""
        with self.runtime.store.database.connect() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(messages)).scalar_one())

    def row(self, id: str) -> Any:
        return self.runtime.store.row(id)


def opened(folder: Path, broker: UnreliableBroker) -> Generator[Setup]:
    setup = Setup(folder, broker)
    yield setup
    clock.reset()
    setup.runtime.close()
    install(None)


@pytest.fixture
def setup(tmp_path: Path) -> Generator[Setup]:
    yield from opened(tmp_path, UnreliableBroker())


@pytest.fixture
def uncounted(tmp_path: Path) -> Generator[Setup]:
    yield from opened(tmp_path, UncountableBroker())


# Delayed messages in the database


def test_a_delayed_direct_run_is_published_once(setup: Setup) -> None:
    ticket = Direct().async_(in_=LATER_S).call()
    assert setup.relay.publish_unpublished()
    assert setup.published_ids() == Counter(), "the message is not due"
    clock.advance(LATER_S + 1)

    # Longer than any lease: a message that was not deleted would be published again.
    for _ in range(3):
        assert setup.relay.publish_unpublished()
        clock.advance(3600)

    assert setup.published_ids() == {ticket.id: 1}
    assert setup.waiting() == 0


def test_a_direct_run_that_the_broker_refused_is_published_by_the_next_pass(setup: Setup) -> None:
    ticket = Direct().async_(in_=LATER_S).call()
    clock.advance(LATER_S + 1)
    setup.broker.is_away = True
    assert not setup.relay.publish_unpublished()
    setup.broker.is_away = False

    assert setup.relay.publish_unpublished()

    assert setup.published_ids() == {ticket.id: 1}


def test_direct_runs_that_the_broker_refuses_delay_no_others(setup: Setup) -> None:
    setup.broker.refused = {"refused"}
    refused = [Direct().async_(queue="refused", in_=LATER_S, priority=5).call() for _ in range(3)]
    clock.advance(1)
    others = [Direct().async_(in_=LATER_S).call() for _ in range(3)]
    clock.advance(LATER_S + 1)

    setup.relay.publish_unpublished()

    assert setup.published_ids() == {ticket.id: 1 for ticket in others}
    assert setup.waiting() == len(refused), "the refused messages are not lost"


def test_direct_runs_that_the_broker_refused_are_published_when_it_accepts_them(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "SET_ASIDE_S", 0.0)
    setup.broker.refused = {"refused"}
    refused = [Direct().async_(queue="refused", in_=LATER_S).call() for _ in range(3)]
    clock.advance(LATER_S + 1)
    setup.relay.publish_unpublished()
    setup.broker.refused = set()

    setup.relay.publish_unpublished()

    assert setup.published_ids() == {ticket.id: 1 for ticket in refused}
    assert setup.waiting() == 0


# Runs with a record


def insert_unpublished(setup: Setup, **options: Any) -> str:
    """Return the id of a row that becomes due and has no message yet."""
    return Recorded().async_(in_=LATER_S, **options).call().id


def test_a_row_whose_message_the_broker_refused_is_marked_unpublished_at_once(setup: Setup) -> None:
    setup.broker.is_away = True
    ticket = Recorded().async_().call()
    assert setup.row(ticket.id).enqueued_at is None
    setup.broker.is_away = False

    assert setup.relay.publish_unpublished()

    assert setup.published_ids() == {ticket.id: 1}


def test_a_second_enqueue_with_the_same_token_publishes_no_message(setup: Setup) -> None:
    first, second = (Recorded().async_(idempotence_token="one").call() for _ in range(2))

    assert second.id == first.id
    assert setup.published_ids() == {first.id: 1}


def test_a_row_that_the_broker_refuses_is_skipped_for_a_limited_time(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.broker.refused = {"refused"}
    refused, other = insert_unpublished(setup, queue="refused"), insert_unpublished(setup)
    clock.advance(LATER_S + 1)
    now = relay_module.time.monotonic()
    monkeypatch.setattr(relay_module.time, "monotonic", lambda: now)

    assert setup.relay.publish_unpublished()
    setup.broker.refused = set()
    assert setup.relay.publish_unpublished()
    assert setup.published_ids() == {other: 1}
    assert setup.row(refused).enqueued_at is None, "the row is unpublished"

    now += SET_ASIDE_S + 1
    assert setup.relay.publish_unpublished()
    assert setup.published_ids() == {refused: 1}


def test_rows_refused_before_an_outage_are_marked_unpublished_like_the_rest(
    setup: Setup,
) -> None:
    setup.broker.refused = {"refused"}
    # The more urgent one is published first and refused; the broker becomes unreachable at the second one.
    first, second = insert_unpublished(setup, queue="refused", priority=5), insert_unpublished(setup)
    clock.advance(LATER_S + 1)
    deliver = setup.broker.enqueue

    def go_away(message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        setup.broker.is_away = message.queue_name != "refused"
        return deliver(message, delay=delay)

    setup.broker.enqueue = go_away  # type: ignore[method-assign]
    assert not setup.relay.publish_unpublished()

    assert [setup.row(id).enqueued_at for id in (first, second)] == [None, None]


# Messages that a broker may have lost


def test_rows_of_a_broker_without_a_count_are_republished_with_growing_pauses(uncounted: Setup) -> None:
    id = Recorded().async_().call().id
    assert uncounted.published_ids() == {id: 1}
    resend = BrokerRepublisher(uncounted.dispatcher, uncounted.runtime.store, uncounted.runtime.intervals)
    after_s = uncounted.runtime.intervals.resend_after_s
    sent_at: list[float] = []
    elapsed_s = 0.0

    while elapsed_s < 20 * after_s:
        if resend.run_once():
            sent_at.append(elapsed_s)
        clock.advance(after_s / 2)
        elapsed_s += after_s / 2

    waits = [later - earlier for earlier, later in zip([0.0, *sent_at], sent_at, strict=False)]
    assert waits == pytest.approx([after_s, 2 * after_s, 4 * after_s, 8 * after_s], abs=after_s / 2 + 1)
    assert uncounted.published_ids() == {id: 4}
    clock.advance(LONGEST_S)
    assert resend.run_once() == 1, "the pause is at most an hour"


def test_rows_that_the_broker_refused_at_the_republish_are_marked_unpublished(
    setup: Setup,
) -> None:
    ids = [Recorded().async_().call().id for _ in range(3)]
    setup.published_ids()
    resend = BrokerRepublisher(setup.dispatcher, setup.runtime.store, setup.runtime.intervals)
    clock.advance(setup.runtime.intervals.resend_after_s + 1)
    setup.broker.refused = {"default"}

    assert resend.run_once() == 0

    assert [setup.row(id).enqueued_at for id in ids] == [None] * 3
    setup.broker.refused = set()
    assert setup.relay.publish_unpublished()
    assert setup.published_ids() == dict.fromkeys(ids, 1)


def test_only_as_many_rows_are_republished_as_messages_are_missing(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [Recorded().async_().call().id for _ in range(5)]
    setup.published_ids()
    monkeypatch.setattr(setup.broker, "get_queue_message_counts", lambda _queue: (3,))
    resend = BrokerRepublisher(setup.dispatcher, setup.runtime.store, setup.runtime.intervals)
    clock.advance(setup.runtime.intervals.resend_after_s + 1)

    assert resend.run_once() == 2

    published = setup.published_ids()
    assert sum(published.values()) == 2
    assert set(published) < set(ids)


def test_a_long_queue_without_missing_messages_is_not_republished(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        Recorded().async_().call()
    setup.published_ids()
    monkeypatch.setattr(setup.broker, "get_queue_message_counts", lambda _queue: (5,))
    resend = BrokerRepublisher(setup.dispatcher, setup.runtime.store, setup.runtime.intervals)
    clock.advance(LONGEST_S)

    assert resend.run_once() == 0

    assert setup.published_ids() == Counter()
    with setup.runtime.store.database.connect() as connection:
        assert set(connection.execute(sa.select(records.c.send_count)).scalars()) == {1}


def test_a_queue_that_cannot_be_counted_delays_no_other(setup: Setup) -> None:
    for queue in ("a_broken_one", "default", "z_broken_too"):
        Recorded().async_(queue=queue).call()
    setup.published_ids()
    count = setup.broker.get_queue_message_counts

    def refuse(queue: str) -> tuple[int, ...]:
        if "broken" in queue:
            raise ValueError(f"{queue!r} is declared with other arguments")
        return count(queue)

    setup.broker.get_queue_message_counts = refuse  # type: ignore[method-assign]
    clock.advance(setup.runtime.intervals.resend_after_s + 1)

    assert not setup.relay.run_once(), "the pass reports that it was incomplete"

    assert sum(setup.published_ids().values()) == 1


def test_a_queue_that_is_full_delays_no_other(setup: Setup) -> None:
    for queue in ("a_broken_one", "default", "z_broken_too"):
        Recorded().async_(queue=queue).call()
    setup.published_ids()
    setup.broker.refused = {"a_broken_one", "z_broken_too"}
    clock.advance(setup.runtime.intervals.resend_after_s + 1)

    setup.relay.run_once()

    assert sum(setup.published_ids().values()) == 1


# Lost messages of the SQL broker


@pytest.fixture
def alone(tmp_path: Path) -> Generator[Runtime]:
    """A runtime with the SQL broker."""
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path / 'records.db'}")
    yield runtime
    clock.reset()
    runtime.close()
    install(None)


def republisher_of(runtime: Runtime) -> SqlRepublisher:
    broker: Any = runtime.broker
    return SqlRepublisher(runtime.dispatcher, broker, runtime.store, runtime.intervals)


def test_a_repeatedly_refused_message_is_published_with_growing_pauses(alone: Runtime) -> None:
    Recorded().async_().call()
    republisher, after_s, broker = republisher_of(alone), alone.intervals.resend_after_s, alone.broker
    assert isinstance(broker, SqlBroker)
    offered_at: list[float] = []
    for halves in range(40):
        if republisher.run_once():
            offered_at.append(halves * after_s / 2)
        # As Dramatiq does with a message whose actor raises an unexpected error: the message becomes dead.
        if (message := broker.claim()) is not None:
            message.nack()
        clock.advance(after_s / 2)

    waits = [later - earlier for earlier, later in zip([0.0, *offered_at], offered_at, strict=False)]
    assert waits == pytest.approx([after_s, 2 * after_s, 4 * after_s, 8 * after_s], abs=after_s / 2 + 1)


def test_more_rows_than_a_batch_are_republished_once_each(alone: Runtime) -> None:
    tickets = dexpy.enqueue_all([Recorded() for _ in range(2 * BATCH + 1)])
    republisher, broker = republisher_of(alone), alone.broker
    assert isinstance(broker, SqlBroker)
    broker.flush_all()
    clock.advance(alone.intervals.resend_after_s + 1)

    assert republisher.run_once() == len(tickets)
    assert republisher.run_once() == 0

    assert Counter(message.kwargs["record_id"] for message in broker.iter_messages("default")) == Counter(
        ticket.id for ticket in tickets
    )


def test_a_row_whose_message_is_held_by_a_worker_is_not_republished(alone: Runtime) -> None:
    Recorded().async_().call()
    lost = Recorded().async_().call()
    broker = alone.broker
    assert isinstance(broker, SqlBroker)
    claimed = broker.claim()
    assert claimed is not None
    broker.claim().ack()  # type: ignore[union-attr]
    clock.advance(alone.intervals.resend_after_s + 1)

    assert republisher_of(alone).run_once() == 1
    assert [message.kwargs["record_id"] for message in broker.iter_messages("default")][-1] == lost.id


# Runs of a dead worker


def lose_a_worker(runtime: Runtime) -> None:
    """Claim all records for a worker that is not registered, and run the recovery."""
    dispatcher = runtime.dispatcher
    running = {"status": "running", "claimed_by": "gone", "num_attempts": records.c.num_attempts + 1}
    with runtime.store.database.begin() as connection:
        connection.execute(sa.update(records).values(running))
    assert runtime.services.heartbeat is not None
    assert Recovery(dispatcher, runtime.store, runtime.services.heartbeat).run_once() == 1


def test_a_recovered_run_gets_a_message_although_its_first_one_was_acknowledged(alone: Runtime) -> None:
    """For example, a run by `perform`: its message was acknowledged meanwhile, because the record was running."""
    ticket = Recorded().async_().call()
    broker: Any = alone.broker
    broker.claim().ack()

    lose_a_worker(alone)

    assert broker.claim().kwargs["record_id"] == ticket.id
    assert broker.claim() is None


def test_a_second_enqueue_with_the_same_token_leaves_one_message_beside_its_row(alone: Runtime) -> None:
    first, second = (Recorded().async_(idempotence_token="one").call() for _ in range(2))
    broker: Any = alone.broker

    assert second.id == first.id
    assert broker.claim().kwargs["record_id"] == first.id
    assert broker.claim() is None


def test_a_recovered_run_waits_as_long_as_its_rule_defines(alone: Runtime) -> None:
    ticket = Recovering().async_().call()
    waits = []
    for _ in range(2):
        lose_a_worker(alone)
        row = alone.store.row(ticket.id)
        waits.append((row.scheduled_at - row.updated_at).total_seconds())

    assert waits == pytest.approx([60, 120], abs=1)
