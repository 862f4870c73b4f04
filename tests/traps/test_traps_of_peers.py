"""Fifteen traps that other job queues fell into, in order; each has a test that steps into it.

 1. test_enqueuer_and_worker_both_write_the_row,
    test_a_send_whose_answer_is_lost_takes_back_what_the_worker_wrote
 2. test_the_copies_of_a_message_are_as_many_runs
 3. test_who_finishes_after_its_rescue_still_has_its_hooks_and_children,
    over servers: test_a_worker_that_thaws_after_its_rescue_still_writes
 4. test_a_row_that_the_same_worker_has_claimed_again_looks_like_its_own
 5. test_a_worker_whose_clock_is_ahead_takes_the_living_for_dead,
    over servers: test_a_worker_whose_clock_is_wrong_takes_the_living_for_dead_or_lives_for_ever,
    test_a_delay_counts_by_a_clock_that_is_wrong; cron steps: to be written with schedules.
 6. test_one_bad_row_or_an_unknown_class_stops_the_rescue_of_all_others,
    over servers: test_a_bad_row_an_unknown_class_or_a_cut_database_stops_the_relay
 7. test_a_shutdown_costs_an_attempt_or_a_crash_costs_none
 8. test_params_that_cannot_be_read_are_tried_for_ever,
    test_what_else_a_row_says_in_a_form_that_nobody_knows_keeps_it_running
 9. test_a_message_whose_row_is_over_is_kept, test_an_exception_after_the_end_keeps_the_message
10. test_a_result_without_a_json_form_undoes_or_repeats_the_work,
    test_a_result_of_the_wrong_type_is_found_after_the_commit
11. test_a_retry_that_cannot_be_says_nothing_of_why, test_a_retry_runs_into_a_unique_key_and_says_nothing_of_why
    (there are no bulk actions that could go beyond a filter)
12. test_a_secret_leaks_at_one_of_its_sinks, test_a_secret_leaks_from_a_worker,
    test_a_redactor_that_fails_lets_the_secret_through_or_keeps_the_row_running,
    over servers: test_a_secret_leaks_from_a_server
13. test_counting_with_a_limit_costs_as_much_as_counting_all; counts of a page: to be written with the page.
14. test_a_worker_that_starts_anew_with_the_same_pid_has_the_same_name
15. test_a_fork_shares_the_connections_of_its_parent, with the same name over servers

A name says the trap as a sentence; the test shows that it does not close.
What stands after "over servers" is in ``tests/conformance/test_traps.py``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dramatiq
import harbour
import pytest
from dramatiq.brokers.stub import StubBroker
from features.tables import attempts, messages, row, rows, sql
from places import HERE, RESCUE_WITHIN_S, Place
from sqlalchemy import event
from workers import eventually, is_alive

import dexpy
from dexpy import (
    InvalidTransition,
    KeyTaken,
    Operation,
    PropsError,
    Record,
    ResultNotStored,
    Retry,
    Unique,
    prop,
    records,
)
from dexpy.recording.transitions import apply
from dexpy.runtime import Runtime, install
from dexpy.testing import Isolated

WAIT_S = 20.0
LOOK_S = 0.02
SECRET = "hunter2-Ω'q"

ran: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


class Note(Operation):
    what: int = 0

    def perform(self) -> int:
        ran.append(self.what)
        return self.what


# -------------------------------------------------------------------------------------------- 1: two writers


class FastBroker(StubBroker):
    """Has a worker so fast that a run is over before its message is sent, as the enqueuer sees it."""

    answer_is_lost = False

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        actor = self.get_actor(message.actor_name)
        running = threading.Thread(target=actor, kwargs=message.kwargs, daemon=True)
        running.start()
        running.join(WAIT_S)
        self.seen = dexpy.records.get(message.kwargs["record_id"])
        if self.answer_is_lost:
            raise ConnectionError("no answer")
        return message


@pytest.fixture
def fast(tmp_path: Path) -> Any:
    broker = FastBroker()
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path}/records.db", broker=broker)
    yield broker
    install(None)
    runtime.close()


def test_enqueuer_and_worker_both_write_the_row(fast: FastBroker) -> None:
    ticket = Note(what=1).async_().call()

    assert (fast.seen.id, fast.seen.status, ran) == (ticket.id, "done", [1])
    after = records.get(ticket.id)
    assert (after.status, after.result, after.num_attempts) == ("done", 1, 1)
    assert (after.updated_at, after.enqueued_at) == (fast.seen.updated_at, fast.seen.enqueued_at)


def test_a_send_whose_answer_is_lost_takes_back_what_the_worker_wrote(fast: FastBroker) -> None:
    fast.answer_is_lost = True
    ticket = Note(what=1).async_().call()

    after = records.get(ticket.id)
    assert (after.status, after.result, after.num_attempts, ran) == ("done", 1, 1, [1])
    assert after.enqueued_at is not None, "the relay owes nothing for it"


# -------------------------------------------------------------------------------------------- 2 to 4: fences


class Unsteady(Note):
    retry_on = (Retry(ConnectionError, attempts=3, wait=60, jitter=0),)

    def perform(self) -> int:
        super().perform()
        if len(ran) == 1:
            raise ConnectionError("once")
        return len(ran)


COPY = "INSERT INTO dexpy_messages ({0}) SELECT {0} FROM dexpy_messages".format(
    "queue, priority, due_at, message_id, payload, dead, created_at"
)


def test_the_copies_of_a_message_are_as_many_runs(test: Isolated) -> None:
    ticket = Unsteady().async_().call()
    original = messages(test)[0]
    test.run_pending()
    assert (len(messages(test)), row(test, ticket.id)["status"]) == (1, "pending"), "the retry waits"

    # Whoever ran it dies before the acknowledgement: the original is delivered again, beside the one of the retry.
    for _ in range(3):
        columns = {name: original[name] for name in ("queue", "priority", "due_at", "message_id", "payload", "dead")}
        names = ", ".join(columns)
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO dexpy_messages ({names}, created_at) VALUES ({marks}, ?)"
        sql(test, statement, *columns.values(), original["created_at"])
        test.run_pending()
    assert (len(ran), row(test, ticket.id)["num_attempts"]) == (1, 1), "none of them runs before its time"

    test.advance(61)
    sql(test, COPY)
    test.run_pending()
    stored = row(test, ticket.id)
    assert (len(ran), stored["status"], stored["num_attempts"]) == (2, "done", 2)
    assert messages(test) == [], "all copies are gone"


class Late(harbour.HarbourOperation):
    """Its claim goes to somebody else while it runs, and it goes on as if nothing had happened."""

    def perform(self) -> None:
        robberies.pop()(self.run_id)
        self.note("late")
        Note(what=2).async_().call()
        harbour.Whistle(number=3).call()
        self.after_commit(lambda: ran.append("committed"))


robberies: list[Callable[[str], None]] = []


def test_who_finishes_after_its_rescue_still_has_its_hooks_and_children(test: Isolated, harbour_tables: None) -> None:
    def rescue(id: str) -> None:
        with test.runtime.store.begin() as connection:
            apply(connection, "rescue", id, claim_token=1, wait_s=0, sent=True, **LOST)
            apply(connection, "claim", id, claimed_by="another")
        taken.append(row(test, id))

    taken: list[dict[str, Any]] = []
    robberies.append(rescue)
    ticket = Late().async_().call()
    test.run_pending()

    assert (ran, sql(test, "SELECT * FROM effects")) == ([], []), "neither hooks nor effects"
    assert (taken[0]["status"], taken[0]["claimed_by"], taken[0]["claim_token"]) == ("running", "another", 2)
    assert row(test, ticket.id) == taken[0], "it is the other one's now"
    (inner,) = [each for each in rows(test) if each["id"] != ticket.id]
    assert (inner["status"], inner["error"]) == ("failed", "dexpy.RolledBack"), (
        "of the child that it sent there is none"
    )
    assert messages(test) == []
    assert attempts(test, ticket.id) == []


LOST = {"error": "dexpy.WorkerLost", "failure": "lost", "error_message": "lost", "error_details": None}


class Twice(harbour.HarbourOperation):
    """Waits for a word before it writes; the first and the second run for a word each."""

    def perform(self) -> int:
        with turn:
            number = len(ran)
            ran.append(f"begun {number}")
        assert words[number].wait(WAIT_S)
        self.note(f"run {number}")
        self.after_commit(lambda: ran.append(f"committed {number}"))
        return number


turn = threading.Lock()
words: list[threading.Event] = []


def test_a_row_that_the_same_worker_has_claimed_again_looks_like_its_own(test: Isolated, harbour_tables: None) -> None:
    words[:] = [threading.Event(), threading.Event()]
    ticket = Twice().async_().call()
    kwargs, actor = messages(test)[0]["message"]["kwargs"], test.runtime.broker.get_actor("dexpy.RecordJob")
    first, second = (threading.Thread(target=actor, kwargs=kwargs, daemon=True) for _ in range(2))
    first.start()
    try:
        eventually(lambda: ran == ["begun 0"], "the first run begins")
        claimed_first = row(test, ticket.id)
        with test.runtime.store.begin() as connection:
            assert apply(connection, "rescue", ticket.id, claim_token=1, wait_s=0, sent=True, **LOST) is not None
        second.start()
        eventually(lambda: ran == ["begun 0", "begun 1"], "the second run begins")
        claimed_again = row(test, ticket.id)
        assert claimed_again["status"] == claimed_first["status"] == "running"
        assert claimed_again["claimed_by"] == claimed_first["claimed_by"]

        words[0].set()
        first.join(WAIT_S)
        assert row(test, ticket.id) == claimed_again, "the first one has written nothing"
        assert sql(test, "SELECT what FROM effects") == []
    finally:
        for word in words:
            word.set()
        second.join(WAIT_S)
    stored = row(test, ticket.id)
    assert (stored["status"], json.loads(stored["result"])) == ("done", {"value": 1})
    assert [each["what"] for each in sql(test, "SELECT what FROM effects")] == ["run 1"]
    assert ran[2:] == ["committed 1"]


# -------------------------------------------------------------------------------------- 5 to 7: the dead, the stopped


def test_a_worker_whose_clock_is_ahead_takes_the_living_for_dead(place: Place) -> None:
    place.rescue_within_s = 600
    place.start("-Q", "default")
    ticket = place.unload(1)
    place.begun(1)
    place.rescue_within_s = RESCUE_WITHIN_S
    ahead = place.start_ahead(3600)
    running = place.row(ticket.id)

    # The other one looks but seldom: what is taken up now shows that this one has looked.
    # Due late even by the clock that is ahead: nobody is to run it before it is lost.
    other = harbour.WhistleElsewhere(number=5).async_(in_=86_400).call()
    place.change("UPDATE operation_records SET status = 'running', claimed_by = 'gone', claim_token = 1 WHERE id = ?",
                 other.id)  # fmt: skip
    eventually(lambda: place.row(other.id)["num_lost"], "it takes up what a dead one held", WAIT_S, place.tell)

    assert place.row(ticket.id) == running
    assert [other.id in line for line in ahead.lines("lost.rescue")] == [True]
    place.open_gate(1)
    assert ticket.result(WAIT_S, LOOK_S) == 1
    assert place.row(ticket.id)["num_attempts"] == 1
    eventually(lambda: len(place.said(1)) == 2, "it has committed", WAIT_S, place.tell)
    assert [what for what, _ in place.said(1)] == ["begun", "committed"]


def test_one_bad_row_or_an_unknown_class_stops_the_rescue_of_all_others(place: Place) -> None:
    worker = place.start(threads=6)
    tickets = [place.unload(crate) for crate in range(5)]
    pid = {place.begun(crate) for crate in range(5)}.pop()
    garbled, unknown, conflicting, *good = tickets
    place.change("UPDATE operation_records SET params = '{\"crate\": ' WHERE id = ?", garbled.id)
    place.change("UPDATE operation_records SET name = 'harbour.Gone' WHERE id = ?", unknown.id)
    place.change(
        "INSERT INTO operation_attempts (record_id, number, claim_token, ended_at, failure)"
        " SELECT id, num_attempts, claim_token, created_at, 'crash' FROM operation_records WHERE id = ?",
        conflicting.id,
    )

    os.kill(pid, signal.SIGKILL)

    for crate, ticket in enumerate(tickets[3:], 3):
        place.begun(crate, times=2)
        place.open_gate(crate)
        assert ticket.result(WAIT_S, LOOK_S) == crate
    assert place.becomes(garbled.id, "failed")["failure"] == "undecodable"
    waiting = place.becomes(unknown.id, "pending")
    assert (waiting["num_lost"], waiting["num_attempts"]) == (1, 1), "what this worker does not know it does not judge"
    assert len(good) == len(tickets) - 3
    bad = place.row(conflicting.id)
    assert (bad["status"], bad["num_lost"]) == ("running", 0), "what cannot be written waits for who mends it"
    assert conflicting.id in worker.lines("rescue.failed")[0], worker.output()
    place.change("DELETE FROM operation_attempts WHERE record_id = ?", conflicting.id)
    place.begun(2, times=2)
    place.open_gate(2)
    assert conflicting.result(WAIT_S, LOOK_S) == 2


def test_a_shutdown_costs_an_attempt_or_a_crash_costs_none(place: Place) -> None:
    stopped = place.start("--shutdown-timeout", "0.5")
    ticket = place.unload(1)
    place.begun(1)
    stopped.signal(signal.SIGTERM)
    stopped.ended()
    given_back = place.row(ticket.id)
    assert (given_back["status"], given_back["num_attempts"], given_back["num_lost"]) == ("pending", 0, 0)
    assert records.attempts(ticket.id) == []

    place.start()
    killed = place.begun(1, times=2)
    assert place.row(ticket.id)["num_attempts"] == 1
    os.kill(killed, signal.SIGKILL)
    place.begun(1, times=3)
    place.open_gate(1)
    assert ticket.result(WAIT_S, LOOK_S) == 1
    assert [(each.number, each.failure) for each in records.attempts(ticket.id)] == [(1, "lost"), (2, None)]
    assert place.row(ticket.id)["num_lost"] == 1
    assert not is_alive(killed)


# ------------------------------------------------------------------------------------------ 8 to 10: ends

UNREADABLE = {
    "no JSON": '{"what": ',
    "no object": "[7]",
    "null": "null",
    "nothing": None,
    "another type": '{"what": "seven"}',
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_params_that_cannot_be_read_are_tried_for_ever(test: Isolated, kind: str) -> None:
    ticket, sound = Note(what=1).async_().call(), Note(what=2).async_().call()
    sql(test, "UPDATE operation_records SET params = ? WHERE id = ?", UNREADABLE[kind], ticket.id)
    test.run_pending()

    stored = row(test, ticket.id)
    assert (stored["status"], stored["failure"], stored["num_attempts"]) == ("failed", "undecodable", 1)
    assert [each["failure"] for each in attempts(test, ticket.id)] == ["undecodable"]
    assert stored["params"] == UNREADABLE[kind], "kept, for who mends them"
    assert (ran, messages(test), sound.reload().done) == ([2], [], True)
    assert [record.id for record in records.failed()] == [ticket.id], "and it can be asked about"


WRONG_FORMS = ("[]", '"x"', "{}", '{"stack": 7}', '{"id": ')


@pytest.mark.parametrize("column", ["trace", "retry_counts"])
@pytest.mark.parametrize("form", WRONG_FORMS)
def test_what_else_a_row_says_in_a_form_that_nobody_knows_keeps_it_running(
    test: Isolated, column: str, form: str
) -> None:
    ticket = Unsteady().async_().call()
    sql(test, f"UPDATE operation_records SET {column} = ? WHERE id = ?", form, ticket.id)
    test.run_pending()
    assert row(test, ticket.id)["status"] == "pending", "the first attempt fails"
    test.advance(61)
    test.run_pending()
    assert (row(test, ticket.id)["status"], len(ran)) == ("done", 2)


class Breaks(Note):
    def perform(self) -> int:
        super().perform()
        raise ValueError("broken")


SPOILED: dict[str, str | None] = {
    "as it is": None,
    "of an unknown class": "UPDATE operation_records SET name = 'gone.Gone'",
    "with params that cannot be read": "UPDATE operation_records SET params = '{'",
    "that is deleted": "DELETE FROM operation_records",
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_message_whose_row_is_over_is_kept(test: Isolated, kind: str) -> None:
    done, failed, expired = Note(what=1).async_().call(), Breaks(what=2).async_().call(), Note(what=3).async_().call()
    sql(test, "CREATE TABLE copies AS SELECT * FROM dexpy_messages")
    expired.expire()
    test.run_pending()
    assert [each["status"] for each in rows(test)] == ["done", "failed", "expired"]
    if (spoil := SPOILED[kind]) is not None:
        sql(test, spoil)
        if "name" in spoil:
            sql(test, "UPDATE copies SET payload = replace(payload, 'test_traps_of_peers.', 'gone.')")
    before = rows(test)

    sql(test, "INSERT INTO dexpy_messages SELECT * FROM copies")
    test.run_pending()

    assert messages(test) == [], "acknowledged: neither kept as dead nor sent again"
    assert rows(test) == before
    assert ran == [1, 2]
    assert {done.id, failed.id, expired.id} >= {each["id"] for each in before}


class Refuses(Note):
    def perform(self) -> int:
        raise dexpy.Error("refused", "no such berth")


class EndsBadly(harbour.HarbourOperation):
    """Is over and committed when something is raised after all."""

    raised: str

    def perform(self) -> None:
        self.note("ends")
        self.after_commit(self.fail)

    def fail(self) -> None:
        ran.append(self.raised)
        raise {"an exception": ValueError, "an exit": SystemExit, "a lost claim": dexpy.LostClaim}[self.raised]


@pytest.mark.parametrize("raised", ["an exception", "an exit", "a lost claim"])
def test_an_exception_after_the_end_keeps_the_message(test: Isolated, harbour_tables: None, raised: str) -> None:
    ticket = EndsBadly(raised=raised).async_().call()
    test.run_pending()

    assert ran == [raised]
    assert row(test, ticket.id)["status"] == "done"
    assert (messages(test), attempts(test, ticket.id)) == ([], [])
    assert [each["what"] for each in sql(test, "SELECT what FROM effects")] == ["ends"]
    assert test.run_pending() == []


class Returns(harbour.HarbourOperation):
    retry_on = (Retry(Exception, attempts=3, wait=0),)
    value: str

    def perform(self) -> object:
        ran.append(self.run_id)
        self.note(self.value)
        return {"an object": object(), "deep": {"a": [object()]}, "a generator": iter([1])}[self.value]


@pytest.mark.parametrize("value", ["an object", "deep", "a generator"])
def test_a_result_without_a_json_form_undoes_or_repeats_the_work(
    test: Isolated, harbour_tables: None, value: str
) -> None:
    ticket = Returns(value=value).async_().call()
    test.run_pending()

    record = records.get(ticket.id)
    assert (record.status, record.failure, record.num_attempts, len(ran)) == ("done", None, 1, 1)
    assert record.result is None
    assert record.result_error
    assert [each["what"] for each in sql(test, "SELECT what FROM effects")] == [value]
    with pytest.raises(ResultNotStored):
        ticket.result(WAIT_S)


class Promises(harbour.HarbourOperation):
    def perform(self) -> int:
        self.note("promised")
        self.after_commit(lambda: ran.append("committed"))
        return "seven"  # type: ignore[return-value]


def test_a_result_of_the_wrong_type_is_found_after_the_commit(test: Isolated, harbour_tables: None) -> None:
    ticket = Promises().async_().call()
    test.run_pending()

    stored = row(test, ticket.id)
    assert (stored["status"], stored["failure"], stored["error"]) == ("failed", "crash", "dexpy.ResultTypeError")
    assert (sql(test, "SELECT * FROM effects"), ran) == ([], [])


# ------------------------------------------------------------------------------------------ 11 to 13: who looks


class Forgets(Note):
    record = Record(params=False)

    def perform(self) -> int:
        raise ValueError("forgotten")


class Alone(Operation):
    """One at a time."""

    berth: int
    unique = Unique("berth")

    def perform(self) -> None: ...


def test_a_retry_runs_into_a_unique_key_and_says_nothing_of_why(test: Isolated) -> None:
    first = Alone(berth=1).async_().call()
    first.fail("not now")
    second = Alone(berth=1).async_().call()
    assert not second.duplicate

    before = row(test, first.id)
    with pytest.raises(KeyTaken) as refused:
        first.retry()
    assert second.id in str(refused.value)
    assert "unique" in str(refused.value)
    assert row(test, first.id) == before

    test.run_pending()
    first.retry()
    test.run_pending()
    assert first.reload().done


def test_a_retry_that_cannot_be_says_nothing_of_why(test: Isolated) -> None:
    done, waiting = Note().async_().call(), Note().async_(in_=60).call()
    Forgets().async_().call()
    test.run_pending()
    (forgotten,) = records.failed()

    for ticket, status, why in (
        (done, "done", "It can be done while a record is failed or expired"),
        (waiting, "pending", "It can be done while a record is failed or expired"),
        (forgotten.ticket, "failed", "Its record keeps no params to run it with again"),
    ):
        before = row(test, ticket.id)
        with pytest.raises(InvalidTransition) as refused:
            ticket.retry()
        assert (
            str(refused.value) == f"retry of {ticket.id} is not possible: it is {status}. {why}. Nothing was changed."
        )
        assert (refused.value.event, refused.value.status, refused.value.id) == ("retry", status, ticket.id)
        assert row(test, ticket.id) == before
    assert len(messages(test)) == 1


def forms_of(secret: str) -> set[str]:
    """How a secret may be written."""
    return {
        secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], secret.replace("'", "''"),
        secret.encode("unicode_escape").decode(), str(secret.encode())[2:-1], secret.partition("-")[0],
    }  # fmt: skip


def leaks(sinks: dict[str, str]) -> dict[str, str]:
    """The sinks that tell the secret, and the line that does."""
    return {
        name: next(line for line in text.splitlines() if any(form in line for form in forms_of(SECRET)))
        for name, text in sinks.items()
        if any(form in text for form in forms_of(SECRET))
    }


class Keeps(Operation):
    """Has its secret in every kind of value."""

    word: str = prop(sensitive=True, max_length=len(SECRET))
    raw: bytes = prop(sensitive=True)
    table: dict[str, list[str]] = prop(sensitive=True)

    def perform(self) -> None: ...


def test_a_secret_leaks_at_one_of_its_sinks(
    test: Isolated, harbour_tables: None, caplog: pytest.LogCaptureFixture
) -> None:
    sinks: dict[str, str] = {}
    caplog.set_level(logging.DEBUG)
    for ending in harbour.ENDINGS:
        operation = harbour.Moor(secret=SECRET, ending=ending)
        sinks[f"{ending}: repr"] = f"{operation} {operation!r} {operation.async_()!r} {operation.safe!r}"
        # Who calls it gets the exception as it was raised, and knows the secret anyway.
        with contextlib.suppress(Exception):
            operation.call()
        ticket = operation.async_().call()
        sinks[f"{ending}: message"] = str(messages(test))
        assert ticket.id in sinks[f"{ending}: message"]
        test.run_pending()
        sinks[f"{ending}: ticket"] = f"{ticket.reload()!r} {ticket.to_dict()} {ticket.outcome}"
        try:
            ticket.result(WAIT_S)
        except Exception as told:
            sinks[f"{ending}: outcome"] = f"{told!r} {told} {vars(told)}"
        record = records.get(ticket.id)
        sinks[f"{ending}: record"] = f"{record!r} {record.error_message} {record.error_details}"
        sinks[f"{ending}: attempts"] = str(records.attempts(ticket.id)) + str(attempts(test, ticket.id))
        assert ending == "hook" or "harbour.py:" in sinks[f"{ending}: attempts"] or ending == "error"
    with pytest.raises(PropsError) as refused:
        Keeps(word=SECRET + "!", raw=SECRET, table={SECRET: [7]})  # type: ignore[arg-type,list-item]
    sinks["refusal"] = f"{refused.value} {refused.value!r} {refused.value.problems}"
    sinks["values"] = repr(Keeps(word=SECRET, raw=SECRET.encode(), table={SECRET: [SECRET]}))
    sinks["tables"] = str([{**each, "params": None} for each in rows(test)])
    sinks["log"] = caplog.text

    assert "crashed operation=harbour.Moor" in sinks["log"]
    assert leaks(sinks) == {}


def test_a_secret_leaks_from_a_worker(place: Place) -> None:
    worker = place.start("-v")
    tickets = [harbour.Moor(secret=SECRET, ending=ending).async_().call() for ending in harbour.ENDINGS]
    for ticket in tickets:
        place.becomes(ticket.id, "done", "failed")
    knocking = harbour.Knock(file=str(place.folder / "door")).async_().call()
    eventually(lambda: place.row(knocking.id)["num_attempts"] > 1, "what came last is seen too", WAIT_S, place.tell)
    (place.folder / "door").touch()
    knocking.result(WAIT_S, LOOK_S)
    worker.signal(signal.SIGTERM)
    worker.ended()

    place.change("UPDATE operation_records SET params = NULL")
    names = [each["name"] for each in place.sql("SELECT name FROM sqlite_master WHERE type = 'table'")]
    sinks = {name: str([dict(each) for each in place.sql(f"SELECT * FROM {name}")]) for name in names}
    assert "<sensitive>" in sinks["operation_records"]
    sinks["output"] = worker.output()
    assert sum("crashed operation=harbour.Moor" in line for line in worker.output().splitlines()) >= 4
    assert leaks(sinks) == {}


def test_a_redactor_that_fails_lets_the_secret_through_or_keeps_the_row_running(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(text: str) -> str:
        raise KeyError(text)

    runtime = dexpy.configure(database=f"sqlite:///{tmp_path}/records.db", redactor=fail)
    test = Isolated(runtime)
    crashes, refused = Breaks().async_().call(), Refuses().async_().call()
    with caplog.at_level(logging.DEBUG):
        test.run_pending()

    for ticket, said in ((crashes, "broken"), (refused, "no such berth")):
        stored = row(test, ticket.id)
        assert (stored["status"], stored["error_message"]) == ("failed", "<sensitive>")
        assert said not in caplog.text + str(rows(test)) + str(attempts(test, ticket.id))
    install(None)
    runtime.close()


def steps_of(test: Isolated, query: Callable[[], Any]) -> int:
    """How many steps of SQLite's machine a query takes."""
    engine, steps = test.runtime.store.database.engine, [0]

    def step() -> int:
        steps[0] += 1
        return 0

    def watch(driver: Any, *_: Any) -> None:
        driver.set_progress_handler(step, 1)

    def look_away(driver: Any, *_: Any) -> None:
        driver.set_progress_handler(None, 0)

    event.listen(engine, "checkout", watch)
    event.listen(engine, "checkin", look_away)
    try:
        query()
    finally:
        event.remove(engine, "checkout", watch)
        event.remove(engine, "checkin", look_away)
    return steps[0]


def test_counting_with_a_limit_costs_as_much_as_counting_all(test: Isolated) -> None:
    Note().async_().call()
    test.run_pending()
    columns = [name for name in rows(test)[0] if name != "id"]
    names, limit = ", ".join(columns), 20

    def grow(number: int) -> None:
        values = names.replace("status,", "'failed',", 1)
        statement = (
            f"WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            f" INSERT INTO operation_records (id, {names})"
            f" SELECT printf('op_%d_%06d', ?, i), {values} FROM n, operation_records WHERE status = 'done'"
        )
        sql(test, statement, number, number)

    queries = {
        "failed": records.failed(),
        "of a class": records.where(operation=Note, status="failed"),
        "newest": records.failed().newest_first(),
        "of a queue": records.where(queue="default", status="failed"),
    }
    grow(400)
    few = {name: steps_of(test, query.limit(limit).count) for name, query in queries.items()}
    few_all = {name: steps_of(test, query.count) for name, query in queries.items()}
    grow(8000)
    many = {name: steps_of(test, query.limit(limit).count) for name, query in queries.items()}
    many_all = {name: steps_of(test, query.count) for name, query in queries.items()}

    for name, query in queries.items():
        assert query.limit(limit).count() == limit
        assert many_all[name] > 5 * few_all[name], f"{name}: counting all of them grows with them"
        assert many[name] <= 1.2 * few[name], f"{name}: counting some does not"


# ----------------------------------------------------------------------------------------- 14 and 15: processes


def test_a_worker_that_starts_anew_with_the_same_pid_has_the_same_name(test: Isolated) -> None:
    ids: list[str] = []
    for number in range(3):
        start = Runtime(test.runtime.settings)
        before = install(start)
        ticket = Note(what=number).async_().call()
        start.broker.get_actor("dexpy.RecordJob")(**messages(test)[-1]["message"]["kwargs"])
        assert ticket.reload().done
        heart = start.dispatcher.heart
        assert heart is not None
        ids.append(heart.worker_id)
        assert [each["id"] for each in sql(test, "SELECT id FROM operation_workers")] == [ids[-1]]
        assert heart.worker_id == ids[-1], "one start has one name"
        install(before)
        start.close()

    assert len(set(ids)) == len(ids)
    assert {id.split(":")[1] for id in ids} == {str(os.getpid())}, "the pid is the same, as in containers"


def test_a_fork_shares_the_connections_of_its_parent(place: Place) -> None:
    ended = place.run([sys.executable, str(HERE / "forks.py"), place.url])

    assert ended.returncode == 0, ended.stderr
    sides = {found["side"]: found for found in map(json.loads, ended.stdout.splitlines())}
    assert set(sides) == {"before", "child", "parent", "after"}
    before, child, parent, after = (set(sides[side]["connections"]) for side in ("before", "child", "parent", "after"))
    assert child
    assert not child & (before | parent | after)
    assert sides["child"]["worker"] != sides["parent"]["worker"] == sides["after"]["worker"]
    told = [each["what"] for each in place.sql("SELECT what FROM effects")]
    assert len(told) == len(set(told)) == 4 * 10
    assert records.pending().count() == records.done().count() == len(told)
    assert "Traceback" not in ended.stderr
