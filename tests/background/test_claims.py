"""Which row a delivery runs, where messages come in any order, late, twice, and their answers not at all.

The broker is Dramatiq's stub: a plain queue, whose messages a test delivers by hand, in the order that it wants.
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
from dexpy.background import claims as claims_module
from dexpy.background.claims import Claims
from dexpy.background.relay import Relay
from dexpy.foundation.clock import clock
from dexpy.recording.tables import records
from dexpy.runtime import install

URGENT = 5
WAIT_S = 30.0
GONE = sa.exc.OperationalError("COMMIT", {}, Exception("database is locked"))
"""What SQLite says when somebody else does not let go: it will be back."""

ran: Counter[int] = Counter()
shouted: list[str] = []


class Note(Operation):
    """Says that it ran."""

    number: int = 0

    def perform(self) -> None:
        ran[self.number] += 1


class Renamed(Note, name="tests.renamed", aliases=("tests.before",)):
    """Once had another name."""


class Shout(Operation):
    """Another class, with other props."""

    word: str

    def perform(self) -> None:
        shouted.append(self.word)


class Desk:
    """One runtime, and the messages that wait in front of it."""

    def __init__(self, folder: Path) -> None:
        self.broker = StubBroker()
        self.runtime = dexpy.configure(database=f"sqlite:///{folder / 'records.db'}", broker=self.broker)
        self.store = self.runtime.store
        self.claims = Claims(self.store, self.runtime.dispatcher, lambda: "this")
        self.sent: dict[str, list[dramatiq.Message[Any]]] = {}

    def send(self, number: int = 0, **options: Any) -> str:
        """Enqueue one, and put its message aside; returns its id."""
        ticket = Note(number=number).async_(**options).call()
        self.collect()
        return ticket.id

    def collect(self) -> None:
        """Put the messages of the broker aside, by the id of their rows."""
        for queue in list(self.broker.queues.values()):
            while not queue.empty():
                one: Any = dramatiq.Message.decode(queue.get_nowait())
                self.sent.setdefault(one.kwargs["record_id"], []).append(one)

    def relay(self) -> None:
        """Let the relay send what is owed."""
        dispatcher = self.runtime.dispatcher
        assert dispatcher.heart is not None
        assert Relay(dispatcher, dispatcher.heart, self.runtime.pace).send()
        self.collect()

    @contextmanager
    def delivered(self, id: str, claims: Claims | None = None) -> Generator[str | None]:
        """The id of the row that the first message for a row gets, held while the block lasts."""
        message = self.sent[id][0]
        current = CurrentMessage()
        current.before_process_message(self.broker, message)
        try:
            with (claims or self.claims).taken(message.kwargs["class_name"], id) as row:
                yield None if row is None else row.id
        finally:
            current.after_process_message(self.broker, message)

    def deliver(self, id: str, claims: Claims | None = None) -> str | None:
        """The same, held no longer."""
        with self.delivered(id, claims) as got:
            return got

    def work(self) -> None:
        """Run every message as a worker does, until there is none and none is owed."""
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
        """Change a row past dexpy."""
        with self.store.database.begin() as connection:
            connection.execute(sa.update(records).where(records.c.id == id).values(**values))

    def is_owed(self, id: str) -> bool:
        """Whether a row waits, and has no message."""
        row = self.row(id)
        return row.status == "pending" and row.enqueued_at is None

    @contextmanager
    def statements(self) -> Generator[list[str]]:
        """What is said to the database meanwhile, by the first word of each."""
        said: list[str] = []

        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            said.append(statement.split()[0])

        sa.event.listen(self.store.database.engine, "before_cursor_execute", note)
        try:
            yield said
        finally:
            sa.event.remove(self.store.database.engine, "before_cursor_execute", note)


@pytest.fixture
def desk(tmp_path: Path) -> Generator[Desk]:
    ran.clear()
    found = Desk(tmp_path)
    yield found
    clock.reset()
    found.runtime.close()
    install(None)


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each delivery looks for what is more urgent, not one a second."""
    monkeypatch.setattr(claims_module, "LOOK_EVERY_S", 0.0)


# What is more urgent


def test_a_delivery_runs_what_is_more_urgent_and_its_own_row_is_owed_a_message(desk: Desk) -> None:
    calm, urgent = desk.send(), desk.send(priority=URGENT)

    assert desk.deliver(calm) == urgent

    assert desk.row(urgent).status == "running"
    assert desk.is_owed(calm)
    desk.relay()
    assert len(desk.sent[calm]) == 2
    assert desk.deliver(urgent) is None, "its message comes late"
    assert desk.deliver(calm) == calm


def test_what_is_more_urgent_is_run_as_the_class_that_it_is_of(desk: Desk) -> None:
    shouted.clear()
    calm, urgent = desk.send(7), Shout(word="help").async_(priority=URGENT).call().id

    desk.work()

    assert (ran, shouted) == (Counter([7]), ["help"])
    assert {(desk.row(id).status, desk.row(id).num_attempts) for id in (calm, urgent)} == {("done", 1)}


def test_a_message_that_comes_late_for_its_own_row_serves_one_that_is_owed_a_message(desk: Desk) -> None:
    calm, urgent = desk.send(), desk.send(priority=URGENT)
    assert desk.deliver(calm) == urgent

    assert desk.deliver(urgent) == calm

    desk.relay()
    assert len(desk.sent[calm]) == 1, "the relay owes it none any more"


def test_all_is_run_once_whatever_the_order_of_the_priorities(desk: Desk, looking: None) -> None:
    numbers = range(40)
    for number in numbers:
        desk.send(number, priority=number * 7 % 10)

    desk.work()

    assert ran == Counter(numbers)
    with desk.store.database.connect() as connection:
        ended = connection.execute(sa.select(records.c.status, records.c.num_attempts).distinct()).all()
    assert [tuple(row) for row in ended] == [("done", 1)]


def test_what_is_most_urgent_itself_looks_no_further(desk: Desk) -> None:
    first, second = desk.send(priority=URGENT), desk.send(priority=URGENT)
    desk.send()
    assert desk.deliver(second) == second

    with desk.statements() as said:
        assert desk.deliver(first) == first

    assert said == ["UPDATE"]


def test_in_a_queue_of_one_priority_a_claim_is_one_statement(desk: Desk) -> None:
    first, second = desk.send(), desk.send()
    with desk.statements() as said:
        assert desk.deliver(first) == first
        assert said == ["SELECT", "UPDATE"], "the look, once in a while"
        del said[:]
        assert desk.deliver(second) == second

    assert said == ["UPDATE"]


def test_what_was_looked_for_in_vain_is_not_looked_for_by_every_delivery(desk: Desk) -> None:
    desk.send(priority=URGENT, in_=3600)
    first, second = desk.send(), desk.send()
    assert desk.deliver(first) == first

    with desk.statements() as said:
        assert desk.deliver(second) == second

    assert said == ["UPDATE"]
    assert desk.row(first).enqueued_at is not None, "the search has left no trace"


def test_the_sql_broker_sorts_its_messages_and_nobody_looks_for_others(desk: Desk) -> None:
    runtime = dexpy.configure(database=desk.runtime.database_url)
    first = Note().async_().call()
    Note().async_(priority=URGENT).call()
    claims = Claims(runtime.store, runtime.dispatcher, lambda: "this")
    desk.store = runtime.store
    current: Any = CurrentMessage()
    current.before_process_message(runtime.broker, runtime.dispatcher.message_of(runtime.store.row(first.id)))

    with desk.statements() as said, claims.taken("Note", first.id) as row:
        assert row is not None
        assert row.id == first.id

    current.after_process_message(runtime.broker, None)
    assert said == ["UPDATE"]
    runtime.close()


NOT_FOR_US: dict[str, dict[str, Any]] = {
    "due later": {"scheduled_at": clock.now() + timedelta(days=1)},
    "too late": {"expires_at": clock.now() - timedelta(seconds=1)},
    "in another queue": {"queue": "other"},
    "running": {"status": "running"},
    "ended": {"status": "done"},
    "of an unknown class": {"name": "elsewhere.Unknown"},
    "of a key that has slots": {"concurrency_key": "whoever claims it has to ask for a slot"},
}


@pytest.mark.parametrize("name", NOT_FOR_US)
def test_what_is_more_urgent_and_not_to_be_run_is_left_alone(desk: Desk, name: str) -> None:
    calm, other = desk.send(), desk.send(priority=URGENT)
    desk.change(other, **NOT_FOR_US[name])
    before = tuple(desk.row(other))

    assert desk.deliver(calm) == calm

    assert tuple(desk.row(other)) == before


@pytest.mark.parametrize("name", NOT_FOR_US)
def test_behind_it_the_next_one_is_found(desk: Desk, name: str) -> None:
    calm = desk.send()
    for number in range(3):
        desk.change(desk.send(priority=URGENT + number), **NOT_FOR_US[name])
    next_one = desk.send(priority=URGENT)

    assert desk.deliver(calm) == next_one


def test_what_became_due_is_found_also_before_the_relay_has_sent_it(desk: Desk) -> None:
    calm, later = desk.send(), desk.send(priority=URGENT, in_=60)
    clock.advance(61)

    assert desk.deliver(calm) == later

    desk.relay()
    assert later not in desk.sent, "it runs, and needs no message"
    assert len(desk.sent[calm]) == 2


def test_a_class_is_known_by_its_old_names_too(desk: Desk) -> None:
    calm, urgent = desk.send(), desk.send(priority=URGENT)
    desk.change(urgent, name="tests.before")

    assert desk.deliver(calm) == urgent


def test_a_message_of_a_release_before_says_no_priority_and_is_run_all_the_same(desk: Desk) -> None:
    urgent, more_urgent = desk.send(priority=URGENT), desk.send(priority=URGENT + 1)
    for id in (urgent, more_urgent):
        desk.sent[id][0].options["dexpy"].pop("priority")

    assert {desk.deliver(urgent), desk.deliver(more_urgent)} == {urgent, more_urgent}


# Late, early, twice


def test_a_message_that_is_delivered_ten_times_starts_one_run_and_moves_nothing_else(desk: Desk) -> None:
    once, others = desk.send(), [desk.send() for _ in range(20)]

    assert [desk.deliver(once) for _ in range(10)] == [once] + [None] * 9

    assert {(desk.row(id).status, desk.is_owed(id)) for id in others} == {("pending", False)}
    assert [desk.deliver(id) for id in others] == others


def test_a_message_before_its_time_is_owed_again_and_serves_another(desk: Desk) -> None:
    early, displaced, urgent = desk.send(), desk.send(), desk.send(priority=URGENT)
    assert desk.deliver(displaced) == urgent
    desk.change(early, scheduled_at=clock.now() + timedelta(seconds=60))

    assert desk.deliver(early) == displaced

    assert desk.is_owed(early)
    clock.advance(61)
    desk.relay()
    assert desk.deliver(early) == early


def test_the_message_of_a_row_that_is_gone_serves_another(desk: Desk) -> None:
    gone, displaced, urgent = desk.send(), desk.send(), desk.send(priority=URGENT)
    assert desk.deliver(displaced) == urgent
    with desk.store.database.begin() as connection:
        connection.execute(sa.delete(records).where(records.c.id == gone))

    assert desk.deliver(gone) == displaced


def test_a_late_message_leaves_what_is_owed_and_unknown(desk: Desk) -> None:
    calm, urgent, unknown = desk.send(), desk.send(priority=URGENT), desk.send()
    assert desk.deliver(calm) == urgent
    desk.change(unknown, name="elsewhere.Unknown", enqueued_at=None, scheduled_at=clock.now() - timedelta(days=1))

    assert desk.deliver(urgent) == calm
    assert desk.deliver(urgent) is None
    assert desk.is_owed(unknown)


def test_a_late_message_leaves_what_is_owed_and_has_to_ask_for_a_slot(desk: Desk) -> None:
    ended, limited = desk.send(), desk.send()
    desk.change(ended, status="done")
    since = clock.now() - timedelta(seconds=1)
    desk.change(limited, concurrency_key="of its class", enqueued_at=None, scheduled_at=since)

    assert desk.deliver(ended) is None

    assert desk.is_owed(limited)


def test_a_row_that_was_passed_over_and_then_cancelled_is_not_run(desk: Desk) -> None:
    calm, urgent = desk.send(), desk.send(priority=URGENT)
    assert desk.deliver(calm) == urgent
    Ticket.get(calm).cancel()

    assert desk.deliver(urgent) is None
    desk.relay()
    assert len(desk.sent[calm]) == 1


def test_a_message_that_cannot_be_sent_leaves_nobody_without_one_when_its_row_runs_already(desk: Desk) -> None:
    calm, urgent = desk.send(), desk.send(priority=URGENT)
    assert desk.deliver(calm) == urgent

    # What the sender of the urgent one says when the broker has not taken its message after all.
    desk.runtime.dispatcher.owe([desk.row(urgent)])

    assert desk.row(urgent).status == "running"
    assert desk.is_owed(calm)


# Races


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """What these give when they begin in the same moment, each in a thread of its own."""
    start, found = threading.Barrier(len(actions), timeout=WAIT_S), [None] * len(actions)

    def run(index: int) -> None:
        start.wait()
        found[index] = actions[index]()

    threads = [threading.Thread(target=copy_context().run, args=(run, index)) for index in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_many_deliveries_after_a_few_urgent_rows_run_each_of_them_once(desk: Desk, looking: None) -> None:
    calm = [desk.send() for _ in range(8)]
    urgent = [desk.send(priority=URGENT) for _ in range(3)]

    got = at_once(*[lambda id=id: desk.deliver(id) for id in calm])

    assert len(set(got)) == len(calm)
    assert None not in got
    assert set(urgent) <= set(got)
    running = {id for id in (*calm, *urgent) if desk.row(id).status == "running"}
    assert running == set(got)
    assert {id for id in calm if desk.is_owed(id)} == set(calm) - running


def test_two_processes_after_one_urgent_row_run_it_once(desk: Desk) -> None:
    others = [Claims(desk.store, desk.runtime.dispatcher, lambda name=name: name) for name in ("one", "two")]
    calm = [desk.send() for _ in others]
    urgent = desk.send(priority=URGENT)

    got = at_once(*[lambda i=i: desk.deliver(calm[i], others[i]) for i in range(2)])

    assert urgent in got
    assert len(set(got)) == 2
    assert [desk.row(id).num_attempts for id in got] == [1, 1]


# Answers that are lost


@contextmanager
def losing(desk: Desk, monkeypatch: pytest.MonkeyPatch, *, after_commit: bool, times: int = 1) -> Generator[list[str]]:
    """The next writing transactions end without an answer, having been committed or not."""
    begin, lost = desk.store.database.begin, []

    @contextmanager
    def begin_and_lose() -> Generator[sa.Connection]:
        wrote: list[str] = []
        with begin() as connection:
            sa.event.listen(connection, "before_cursor_execute", lambda *given: wrote.append(given[2].split()[0]))
            yield connection
            loses = "UPDATE" in wrote and len(lost) < times
            if loses and not after_commit:
                lost.append("before")
                raise GONE
        if loses:
            lost.append("after")
            raise GONE

    with monkeypatch.context() as patch:
        patch.setattr(desk.store.database, "begin", begin_and_lose)
        yield lost


@pytest.mark.parametrize("after_commit", [True, False])
def test_a_row_whose_claim_got_no_answer_is_run_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, after_commit: bool
) -> None:
    own = desk.send()

    with losing(desk, monkeypatch, after_commit=after_commit) as lost:
        assert desk.deliver(own) == own

    assert lost
    assert desk.row(own).num_attempts == 1


@pytest.mark.parametrize("after_commit", [True, False])
def test_a_more_urgent_row_whose_claim_got_no_answer_is_run_once_and_no_other(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, after_commit: bool
) -> None:
    calm, urgent, next_one = desk.send(), desk.send(priority=URGENT), desk.send(priority=URGENT)

    with losing(desk, monkeypatch, after_commit=after_commit) as lost:
        got = desk.deliver(calm)

    assert lost
    assert [got, desk.row(urgent).num_attempts, desk.row(next_one).status] == [urgent, 1, "pending"]
    assert desk.is_owed(calm)


@pytest.mark.parametrize("after_commit", [True, False])
def test_a_late_message_whose_answer_is_lost_runs_one_row(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, after_commit: bool
) -> None:
    calm, another = desk.send(), desk.send()
    first, second = desk.send(priority=URGENT), desk.send(priority=URGENT)

    with desk.delivered(calm), desk.delivered(another):
        assert [desk.row(id).status for id in (first, second)] == ["running"] * 2
        assert desk.is_owed(calm)
        assert desk.is_owed(another)
        with losing(desk, monkeypatch, after_commit=after_commit, times=2) as lost:
            got = at_once(lambda: desk.deliver(first))[0]

    assert len(lost) == 2, "the claim of its own row, and that of another one"
    assert got in (calm, another)
    assert sum(desk.is_owed(id) for id in (calm, another)) == 1


def test_two_deliveries_of_one_row_that_both_lose_their_answers_run_it_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, look = desk.send(), desk.store.rows
    looked, answered = threading.Barrier(2, timeout=WAIT_S), threading.Barrier(2, timeout=WAIT_S)
    met: set[int] = set()

    def look_together(query: Any) -> Any:
        found = look(query)
        if threading.get_ident() not in met:
            met.add(threading.get_ident())
            looked.wait()
        return found

    def deliver() -> str | None:
        with desk.delivered(own) as got:
            answered.wait()
            return got

    monkeypatch.setattr(desk.store, "rows", look_together)
    with losing(desk, monkeypatch, after_commit=True, times=2) as lost:
        got = at_once(deliver, deliver)

    assert len(lost) == 2
    assert set(got) == {None, own}


def test_a_row_that_another_worker_claimed_while_the_answer_was_lost_is_left_to_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, look = desk.send(), desk.store.rows

    def look_too_late(query: Any) -> Any:
        desk.change(own, status="running", claimed_by="other", claim_token=1)
        return look(query)

    monkeypatch.setattr(desk.store, "rows", look_too_late)
    with losing(desk, monkeypatch, after_commit=False):
        assert desk.deliver(own) is None


def test_a_row_that_this_process_runs_is_not_begun_again_by_its_own_message(desk: Desk) -> None:
    calm, urgent = desk.send(), desk.send(priority=URGENT)

    with desk.delivered(calm) as got:
        assert got == urgent
        assert at_once(lambda: desk.deliver(urgent))[0] == calm
