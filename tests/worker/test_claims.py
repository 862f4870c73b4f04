"""Which record a delivered message runs: messages arrive in any order, late or twice, and replies are lost.

The broker is Dramatiq's stub, a plain queue: the test delivers its messages by hand, in any order.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import copy_context
from datetime import timedelta
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import sqlalchemy as sa
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import CurrentMessage

import dexpy
from dexpy import Operation, Ticket
from dexpy.database.tables import records
from dexpy.foundation.clock import clock
from dexpy.maintenance.relay import Relay
from dexpy.runtime import install
from dexpy.worker import priority_overtaking
from dexpy.worker.claims import Claims

URGENT = 5
WAIT_S = 30.0
GONE = sa.exc.OperationalError("COMMIT", {}, Exception("database is locked"))
"""The error of SQLite while another connection holds the lock; a retry succeeds."""

run_counts: Counter[int] = Counter()
logged: list[str] = []


class Note(Operation):
    """Counts its runs."""

    number: int = 0

    def perform(self) -> None:
        run_counts[self.number] += 1


class Renamed(Note, name="tests.renamed", aliases=("tests.before",)):
    """Had another name before."""


class Shout(Operation):
    """Logs its word."""

    word: str

    def perform(self) -> None:
        logged.append(self.word)


class Inbox:
    """A runtime, and the published messages that have not been delivered yet."""

    def __init__(self, folder: Path) -> None:
        self.broker = StubBroker()
        self.runtime = dexpy.configure(database=f"sqlite:///{folder / 'records.db'}", broker=self.broker)
        self.store = self.runtime.store
        self.claims = Claims(self.store, self.runtime.dispatcher, lambda: "this")
        self.sent: dict[str, list[dramatiq.Message[Any]]] = {}

    def send(self, number: int = 0, **options: Any) -> str:
        """Enqueue a `Note`, collect its message and return its id."""
        ticket = Note(number=number).async_(**options).call()
        self.collect()
        return ticket.id

    def collect(self) -> None:
        """Move the broker's messages to `sent`, by record id."""
        for queue in list(self.broker.queues.values()):
            while not queue.empty():
                one: Any = dramatiq.Message.decode(queue.get_nowait())
                self.sent.setdefault(one.kwargs["record_id"], []).append(one)

    def relay(self) -> None:
        """Publish the unpublished rows, as the relay does, and collect their messages."""
        dispatcher = self.runtime.dispatcher
        assert self.runtime.services.heartbeat is not None
        assert Relay(dispatcher, self.runtime.services.heartbeat, self.runtime.intervals).publish_unpublished()
        self.collect()

    @contextmanager
    def delivered(self, id: str, claims: Claims | None = None) -> Generator[str | None]:
        """Deliver the first message of a row; yield the id of the row that it claims, and hold it in the block."""
        message = self.sent[id][0]
        current = CurrentMessage()
        current.before_process_message(self.broker, message)
        try:
            with (claims or self.claims).claim_for_message(message.kwargs["class_name"], id) as row:
                yield None if row is None else row.id
        finally:
            current.after_process_message(self.broker, message)

    def deliver(self, id: str, claims: Claims | None = None) -> str | None:
        """Deliver the first message of a row, and return the id of the row that it claims."""
        with self.delivered(id, claims) as claimed:
            return claimed

    def work(self) -> None:
        """Run messages as a worker does, until none is left and no row is unpublished."""
        while True:
            self.relay()
            waiting, self.sent = self.sent, {}
            if not waiting:
                return
            for message in (one for each in waiting.values() for one in each):
                self.broker.emit_before("process_message", message)
                self.broker.get_actor(message.actor_name)(*message.args, **message.kwargs)
                self.broker.emit_after("process_message", message)

    def row(self, id: str) -> Any:
        return self.store.row(id)

    def change(self, id: str, **values: Any) -> None:
        """Change a row by plain SQL, without dexpy."""
        with self.store.database.begin() as connection:
            connection.execute(sa.update(records).where(records.c.id == id).values(**values))

    def needs_message(self, id: str) -> bool:
        """Whether a row is pending and has no message."""
        row = self.row(id)
        return row.status == "pending" and row.enqueued_at is None

    @contextmanager
    def statements(self) -> Generator[list[str]]:
        """Collect the first word of each SQL statement that is executed in the block."""
        collected: list[str] = []
        # As a worker does every second: a claim reads no pauses.
        self.store.pauses.refresh()

        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            collected.append(statement.split()[0])

        sa.event.listen(self.store.database.engine, "before_cursor_execute", note)
        try:
            yield collected
        finally:
            sa.event.remove(self.store.database.engine, "before_cursor_execute", note)


@pytest.fixture
def inbox(tmp_path: Path) -> Generator[Inbox]:
    run_counts.clear()
    opened = Inbox(tmp_path)
    yield opened
    clock.reset()
    opened.runtime.close()
    install(None)


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each delivery search for more urgent rows, instead of one delivery a second."""
    monkeypatch.setattr(priority_overtaking, "PRIORITY_POLL_S", 0.0)


# More urgent rows


def test_a_delivery_runs_a_more_urgent_row_and_its_own_row_is_marked_unpublished(inbox: Inbox) -> None:
    calm, urgent = inbox.send(), inbox.send(priority=URGENT)

    assert inbox.deliver(calm) == urgent

    assert inbox.row(urgent).status == "running"
    assert inbox.needs_message(calm)
    inbox.relay()
    assert len(inbox.sent[calm]) == 2
    assert inbox.deliver(urgent) is None, "its own message comes late and runs nothing"
    assert inbox.deliver(calm) == calm


def test_a_more_urgent_row_is_run_as_its_own_class(inbox: Inbox) -> None:
    logged.clear()
    calm, urgent = inbox.send(7), Shout(word="help").async_(priority=URGENT).call().id

    inbox.work()

    assert (run_counts, logged) == (Counter([7]), ["help"])
    assert {(inbox.row(id).status, inbox.row(id).num_attempts) for id in (calm, urgent)} == {("done", 1)}


def test_a_message_of_an_ended_row_runs_an_unpublished_row(inbox: Inbox) -> None:
    calm, urgent = inbox.send(), inbox.send(priority=URGENT)
    assert inbox.deliver(calm) == urgent

    assert inbox.deliver(urgent) == calm

    inbox.relay()
    assert len(inbox.sent[calm]) == 1, "the relay does not republish its message"


def test_every_row_is_run_once_with_priorities_in_any_order(inbox: Inbox, looking: None) -> None:
    numbers = range(40)
    for number in numbers:
        inbox.send(number, priority=number * 7 % 10)

    inbox.work()

    assert run_counts == Counter(numbers)
    with inbox.store.database.connect() as connection:
        ended = connection.execute(sa.select(records.c.status, records.c.num_attempts).distinct()).all()
    assert [tuple(row) for row in ended] == [("done", 1)]


def test_a_delivery_of_the_most_urgent_row_searches_no_further(inbox: Inbox) -> None:
    first, second = inbox.send(priority=URGENT), inbox.send(priority=URGENT)
    inbox.send()
    assert inbox.deliver(second) == second

    with inbox.statements() as statements:
        assert inbox.deliver(first) == first

    assert statements == ["UPDATE"]


def test_in_a_queue_of_one_priority_a_claim_is_one_statement(inbox: Inbox) -> None:
    first, second = inbox.send(), inbox.send()
    with inbox.statements() as statements:
        assert inbox.deliver(first) == first
        assert statements == ["SELECT", "UPDATE"], "the first delivery searches for more urgent rows"
        del statements[:]
        assert inbox.deliver(second) == second

    assert statements == ["UPDATE"]


def test_a_search_without_a_result_is_not_repeated_by_every_delivery(inbox: Inbox) -> None:
    inbox.send(priority=URGENT, in_=3600)
    first, second = inbox.send(), inbox.send()
    assert inbox.deliver(first) == first

    with inbox.statements() as statements:
        assert inbox.deliver(second) == second

    assert statements == ["UPDATE"]
    assert inbox.row(first).enqueued_at is not None, "the search has changed nothing"


def test_the_sql_broker_sorts_its_messages_and_no_delivery_searches_for_others(inbox: Inbox) -> None:
    runtime = dexpy.configure(database=inbox.runtime.database_url)
    first = Note().async_().call()
    Note().async_(priority=URGENT).call()
    claims = Claims(runtime.store, runtime.dispatcher, lambda: "this")
    inbox.store = runtime.store
    name = runtime.store.row(first.id).operation
    current: Any = CurrentMessage()
    current.before_process_message(runtime.broker, runtime.dispatcher.message_of(runtime.store.row(first.id)))

    with inbox.statements() as statements, claims.claim_for_message(name, first.id) as row:
        assert row is not None
        assert row.id == first.id

    current.after_process_message(runtime.broker, None)
    assert statements == ["UPDATE"]
    runtime.close()


NOT_FOR_US: dict[str, dict[str, Any]] = {
    "due later": {"scheduled_at": clock.now() + timedelta(days=1)},
    "too late": {"expires_at": clock.now() - timedelta(seconds=1)},
    "in another queue": {"queue": "other"},
    "running": {"status": "running"},
    "ended": {"status": "done"},
    "of an unknown class": {"operation": "elsewhere.Unknown"},
    "of a key that has slots": {"concurrency_key": "claiming it requires a slot"},
}


@pytest.mark.parametrize("name", NOT_FOR_US)
def test_a_more_urgent_row_that_may_not_run_is_skipped(inbox: Inbox, name: str) -> None:
    calm, other = inbox.send(), inbox.send(priority=URGENT)
    inbox.change(other, **NOT_FOR_US[name])
    before = tuple(inbox.row(other))

    assert inbox.deliver(calm) == calm

    assert tuple(inbox.row(other)) == before


@pytest.mark.parametrize("name", NOT_FOR_US)
def test_the_row_after_a_skipped_row_is_found(inbox: Inbox, name: str) -> None:
    calm = inbox.send()
    for number in range(3):
        inbox.change(inbox.send(priority=URGENT + number), **NOT_FOR_US[name])
    next_one = inbox.send(priority=URGENT)

    assert inbox.deliver(calm) == next_one


def test_a_row_that_became_due_is_found_before_the_relay_publishes_it(inbox: Inbox) -> None:
    calm, later = inbox.send(), inbox.send(priority=URGENT, in_=60)
    clock.advance(61)

    assert inbox.deliver(calm) == later

    inbox.relay()
    assert later not in inbox.sent, "it is running and needs no message"
    assert len(inbox.sent[calm]) == 2


def test_a_row_with_an_earlier_name_of_its_class_is_run(inbox: Inbox) -> None:
    calm, urgent = inbox.send(), inbox.send(priority=URGENT)
    inbox.change(urgent, operation="tests.before")

    assert inbox.deliver(calm) == urgent


def test_a_message_of_an_earlier_release_without_a_priority_is_run(inbox: Inbox) -> None:
    urgent, more_urgent = inbox.send(priority=URGENT), inbox.send(priority=URGENT + 1)
    for id in (urgent, more_urgent):
        inbox.sent[id][0].options["dexpy"].pop("priority")

    assert {inbox.deliver(urgent), inbox.deliver(more_urgent)} == {urgent, more_urgent}


# Late, early and repeated messages


def test_a_message_that_is_delivered_ten_times_starts_one_run_and_changes_nothing_else(inbox: Inbox) -> None:
    once, others = inbox.send(), [inbox.send() for _ in range(20)]

    assert [inbox.deliver(once) for _ in range(10)] == [once] + [None] * 9

    assert {(inbox.row(id).status, inbox.needs_message(id)) for id in others} == {("pending", False)}
    assert [inbox.deliver(id) for id in others] == others


def test_an_early_message_is_republished_and_runs_another_row(inbox: Inbox) -> None:
    early, displaced, urgent = inbox.send(), inbox.send(), inbox.send(priority=URGENT)
    assert inbox.deliver(displaced) == urgent
    inbox.change(early, scheduled_at=clock.now() + timedelta(seconds=60))

    assert inbox.deliver(early) == displaced

    assert inbox.needs_message(early)
    clock.advance(61)
    inbox.relay()
    assert inbox.deliver(early) == early


def test_the_message_of_a_deleted_row_runs_another_row(inbox: Inbox) -> None:
    deleted, displaced, urgent = inbox.send(), inbox.send(), inbox.send(priority=URGENT)
    assert inbox.deliver(displaced) == urgent
    with inbox.store.database.begin() as connection:
        connection.execute(sa.delete(records).where(records.c.id == deleted))

    assert inbox.deliver(deleted) == displaced


def test_a_late_message_skips_an_unpublished_row_of_an_unknown_operation(inbox: Inbox) -> None:
    calm, urgent, unknown = inbox.send(), inbox.send(priority=URGENT), inbox.send()
    assert inbox.deliver(calm) == urgent
    inbox.change(unknown, operation="elsewhere.Unknown", enqueued_at=None, scheduled_at=clock.now() - timedelta(days=1))

    assert inbox.deliver(urgent) == calm
    assert inbox.deliver(urgent) is None
    assert inbox.needs_message(unknown)


def test_a_late_message_skips_an_unpublished_row_that_needs_a_slot(inbox: Inbox) -> None:
    ended, limited = inbox.send(), inbox.send()
    inbox.change(ended, status="done")
    since = clock.now() - timedelta(seconds=1)
    inbox.change(limited, concurrency_key="of its class", enqueued_at=None, scheduled_at=since)

    assert inbox.deliver(ended) is None

    assert inbox.needs_message(limited)


def test_a_skipped_and_cancelled_row_is_not_run(inbox: Inbox) -> None:
    calm, urgent = inbox.send(), inbox.send(priority=URGENT)
    assert inbox.deliver(calm) == urgent
    Ticket.get(calm).cancel()

    assert inbox.deliver(urgent) is None
    inbox.relay()
    assert len(inbox.sent[calm]) == 1


def test_a_failed_publish_does_not_mark_a_running_row_as_unpublished(inbox: Inbox) -> None:
    calm, urgent = inbox.send(), inbox.send(priority=URGENT)
    assert inbox.deliver(calm) == urgent

    # As the dispatcher does when the broker refuses the message of the urgent row.
    inbox.runtime.dispatcher.mark_unpublished([inbox.row(urgent)])

    assert inbox.row(urgent).status == "running"
    assert inbox.needs_message(calm)


# Races


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """Run actions concurrently, each in its own thread, and return their results."""
    start, results = threading.Barrier(len(actions), timeout=WAIT_S), [None] * len(actions)

    def run(index: int) -> None:
        start.wait()
        results[index] = actions[index]()

    threads = [threading.Thread(target=copy_context().run, args=(run, index)) for index in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_many_deliveries_after_a_few_urgent_rows_run_each_of_them_once(inbox: Inbox, looking: None) -> None:
    calm = [inbox.send() for _ in range(8)]
    urgent = [inbox.send(priority=URGENT) for _ in range(3)]

    claimed = at_once(*[lambda id=id: inbox.deliver(id) for id in calm])

    assert len(set(claimed)) == len(calm)
    assert None not in claimed
    assert set(urgent) <= set(claimed)
    running = {id for id in (*calm, *urgent) if inbox.row(id).status == "running"}
    assert running == set(claimed)
    assert {id for id in calm if inbox.needs_message(id)} == set(calm) - running


def test_two_processes_after_one_urgent_row_run_it_once(inbox: Inbox) -> None:
    others = [Claims(inbox.store, inbox.runtime.dispatcher, lambda name=name: name) for name in ("one", "two")]
    calm = [inbox.send() for _ in others]
    urgent = inbox.send(priority=URGENT)

    claimed = at_once(*[lambda i=i: inbox.deliver(calm[i], others[i]) for i in range(2)])

    assert urgent in claimed
    assert len(set(claimed)) == 2
    assert [inbox.row(id).num_attempts for id in claimed] == [1, 1]


# Lost replies


@contextmanager
def losing(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, *, after_commit: bool, times: int = 1
) -> Generator[list[str]]:
    """Let the next writing transactions raise a connection error, before or after their commit."""
    begin, lost = inbox.store.database.begin, []

    @contextmanager
    def begin_and_lose() -> Generator[sa.Connection]:
        wrote: list[str] = []
        with begin() as connection:
            sa.event.listen(connection, "before_cursor_execute", lambda *args: wrote.append(args[2].split()[0]))
            yield connection
            loses = "UPDATE" in wrote and len(lost) < times
            if loses and not after_commit:
                lost.append("before")
                raise GONE
        if loses:
            lost.append("after")
            raise GONE

    with monkeypatch.context() as patch:
        patch.setattr(inbox.store.database, "begin", begin_and_lose)
        yield lost


@pytest.mark.parametrize("after_commit", [True, False])
def test_a_row_whose_claim_lost_its_reply_is_run_once(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, after_commit: bool
) -> None:
    record_id = inbox.send()

    with losing(inbox, monkeypatch, after_commit=after_commit) as lost:
        assert inbox.deliver(record_id) == record_id

    assert lost
    assert inbox.row(record_id).num_attempts == 1


@pytest.mark.parametrize("after_commit", [True, False])
def test_a_more_urgent_row_whose_claim_lost_its_reply_is_run_once_and_no_other(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, after_commit: bool
) -> None:
    calm, urgent, next_one = inbox.send(), inbox.send(priority=URGENT), inbox.send(priority=URGENT)

    with losing(inbox, monkeypatch, after_commit=after_commit) as lost:
        claimed = inbox.deliver(calm)

    assert lost
    assert [claimed, inbox.row(urgent).num_attempts, inbox.row(next_one).status] == [urgent, 1, "pending"]
    assert inbox.needs_message(calm)


@pytest.mark.parametrize("after_commit", [True, False])
def test_a_late_message_that_lost_its_reply_runs_one_row(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, after_commit: bool
) -> None:
    calm, another = inbox.send(), inbox.send()
    first, second = inbox.send(priority=URGENT), inbox.send(priority=URGENT)

    with inbox.delivered(calm), inbox.delivered(another):
        assert [inbox.row(id).status for id in (first, second)] == ["running"] * 2
        assert inbox.needs_message(calm)
        assert inbox.needs_message(another)
        with losing(inbox, monkeypatch, after_commit=after_commit, times=2) as lost:
            claimed = at_once(lambda: inbox.deliver(first))[0]

    assert len(lost) == 2, "the claim of its own row and the claim of another row"
    assert claimed in (calm, another)
    assert sum(inbox.needs_message(id) for id in (calm, another)) == 1


def test_two_deliveries_of_one_row_that_both_lose_their_replies_run_it_once(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_id, observe = inbox.send(), inbox.store.rows
    looked, answered = threading.Barrier(2, timeout=WAIT_S), threading.Barrier(2, timeout=WAIT_S)
    met: set[int] = set()

    def look_together(query: Any) -> Any:
        rows = observe(query)
        if threading.get_ident() not in met:
            met.add(threading.get_ident())
            looked.wait()
        return rows

    def deliver() -> str | None:
        with inbox.delivered(record_id) as claimed:
            answered.wait()
            return claimed

    monkeypatch.setattr(inbox.store, "rows", look_together)
    with losing(inbox, monkeypatch, after_commit=True, times=2) as lost:
        claimed = at_once(deliver, deliver)

    assert len(lost) == 2
    assert set(claimed) == {None, record_id}


def test_a_row_that_another_worker_claimed_after_a_lost_reply_is_left_to_it(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_id, observe = inbox.send(), inbox.store.rows

    def look_too_late(query: Any) -> Any:
        inbox.change(record_id, status="running", claimed_by="other", claim_token=1)
        return observe(query)

    monkeypatch.setattr(inbox.store, "rows", look_too_late)
    with losing(inbox, monkeypatch, after_commit=False):
        assert inbox.deliver(record_id) is None


def test_a_row_that_this_process_runs_is_not_started_again_by_its_own_message(inbox: Inbox) -> None:
    calm, urgent = inbox.send(), inbox.send(priority=URGENT)

    with inbox.delivered(calm) as claimed:
        assert claimed == urgent
        assert at_once(lambda: inbox.deliver(urgent))[0] == calm
