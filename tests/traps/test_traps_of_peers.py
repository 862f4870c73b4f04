"""Fifteen bugs of other job queues, numbered; each has a test that reproduces it.

 1. test_only_the_worker_writes_a_row_that_it_has_claimed,
    test_a_publish_without_a_reply_does_not_overwrite_the_worker
 2. test_the_copies_of_a_message_are_one_run
 3. test_a_run_that_finishes_after_its_recovery_runs_no_hooks_and_enqueues_no_children,
    over servers: test_a_worker_that_resumes_after_its_recovery_writes_nothing
 4. test_an_earlier_claim_of_the_same_worker_writes_nothing
 5. test_a_worker_whose_clock_is_ahead_recovers_nothing_from_live_workers,
    over servers: test_workers_whose_clocks_are_wrong_recover_runs_of_dead_workers_only,
    test_a_delay_does_not_depend_on_a_wrong_clock; cron steps: to be tested with schedules.
 6. test_a_bad_row_or_an_unknown_class_does_not_stop_the_recovery_of_others,
    over servers: test_a_bad_row_an_unknown_class_or_a_cut_database_does_not_stop_the_relay
 7. test_a_shutdown_counts_no_attempt_and_a_killed_worker_counts_one
 8. test_unreadable_params_end_the_run_at_once,
    test_a_run_with_an_unreadable_trace_or_counter_still_succeeds
 9. test_a_message_whose_run_has_ended_is_acknowledged,
    test_a_message_is_acknowledged_despite_an_exception_after_the_end
10. test_a_result_without_a_json_form_neither_rolls_back_nor_repeats_the_work,
    test_a_result_of_the_wrong_type_is_detected_before_the_commit
11. test_a_retry_that_is_refused_names_the_reason, test_a_retry_whose_unique_key_is_held_names_the_holder
    (dexpy has no bulk actions that could exceed a filter)
12. test_a_secret_reaches_no_sink, test_a_secret_reaches_no_sink_of_a_worker,
    test_a_redactor_that_fails_hides_the_text_and_leaves_no_row_running,
    over servers: test_a_secret_reaches_no_server
13. test_counting_with_a_limit_costs_less_than_counting_all; counts of a dashboard: to be tested with the dashboard.
14. test_a_worker_that_restarts_with_the_same_pid_has_a_new_id
15. test_a_fork_does_not_share_the_connections_of_its_parent, with the same name over servers

Each test reproduces the bug; its name states the correct behaviour.
Tests after "over servers" are in ``tests/conformance/test_traps_on_servers.py``.
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
import pytest
from apps import mailer
from dramatiq.brokers.stub import StubBroker
from features.tables import attempts, messages, row, rows, sql
from harness.trap_workers import RECOVER_WITHIN_S, TrapDeployment
from harness.workers import HARNESS, eventually, is_alive
from sqlalchemy import event

import dexpy
from dexpy import Operation, PropsError, Recording, Retry, Unique, prop, records
from dexpy.errors import InvalidTransition, KeyTaken, ResultNotStored
from dexpy.recording.transitions import apply
from dexpy.runtime import Runtime, install
from dexpy.testing import Isolated

WAIT_S = 20.0
POLL_S = 0.02
SECRET = "hunter2-Ω'q"

performed: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    performed.clear()


class Note(Operation):
    what: int = 0

    def perform(self) -> int:
        performed.append(self.what)
        return self.what


# -------------------------------------------------------------------------------------------- 1: two writers


class FastBroker(StubBroker):
    """Runs each message before `enqueue` returns, like a worker that is faster than the enqueuing process."""

    answer_is_lost = False

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        actor = self.get_actor(message.actor_name)
        running = threading.Thread(target=actor, kwargs=message.kwargs, daemon=True)
        running.start()
        running.join(WAIT_S)
        self.observed = dexpy.records.get(message.kwargs["record_id"])
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


def test_only_the_worker_writes_a_row_that_it_has_claimed(fast: FastBroker) -> None:
    ticket = Note(what=1).async_().call()

    assert (fast.observed.id, fast.observed.status, performed) == (ticket.id, "done", [1])
    after = records.get(ticket.id)
    assert (after.status, after.result, after.num_attempts) == ("done", 1, 1)
    assert (after.updated_at, after.enqueued_at) == (fast.observed.updated_at, fast.observed.enqueued_at)


def test_a_publish_without_a_reply_does_not_overwrite_the_worker(fast: FastBroker) -> None:
    fast.answer_is_lost = True
    ticket = Note(what=1).async_().call()

    after = records.get(ticket.id)
    assert (after.status, after.result, after.num_attempts, performed) == ("done", 1, 1, [1])
    assert after.enqueued_at is not None, "the relay does not publish the record again"


# -------------------------------------------------------------------------------------------- 2 to 4: claim tokens


class Unsteady(Note):
    retry_on = (Retry(ConnectionError, attempts=3, wait=60, jitter=0),)

    def perform(self) -> int:
        super().perform()
        if len(performed) == 1:
            raise ConnectionError("once")
        return len(performed)


COPY = "INSERT INTO dexpy_messages ({0}) SELECT {0} FROM dexpy_messages".format(
    "queue, priority, due_at, message_id, payload, dead, created_at"
)


def test_the_copies_of_a_message_are_one_run(isolated_runtime: Isolated) -> None:
    ticket = Unsteady().async_().call()
    original = messages(isolated_runtime)[0]
    isolated_runtime.run_pending()
    assert (len(messages(isolated_runtime)), row(isolated_runtime, ticket.id)["status"]) == (1, "pending"), (
        "the retry is scheduled"
    )

    # As if the worker died before it acknowledged: the original message is delivered again, beside that of the retry.
    for _ in range(3):
        columns = {name: original[name] for name in ("queue", "priority", "due_at", "message_id", "payload", "dead")}
        names = ", ".join(columns)
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO dexpy_messages ({names}, created_at) VALUES ({marks}, ?)"
        sql(isolated_runtime, statement, *columns.values(), original["created_at"])
        isolated_runtime.run_pending()
    assert (len(performed), row(isolated_runtime, ticket.id)["num_attempts"]) == (1, 1), (
        "no copy runs before the retry is due"
    )

    isolated_runtime.advance(61)
    sql(isolated_runtime, COPY)
    isolated_runtime.run_pending()
    stored = row(isolated_runtime, ticket.id)
    assert (len(performed), stored["status"], stored["num_attempts"]) == (2, "done", 2)
    assert messages(isolated_runtime) == [], "all copies are gone"


class Late(mailer.MailerOperation):
    """Loses its claim to another worker while it runs, and continues as if nothing had happened."""

    def perform(self) -> None:
        claim_losses.pop()(self.run_id)
        self.note("late")
        Note(what=2).async_().call()
        mailer.SendMail(number=3).call()
        self.after_commit(lambda: performed.append("committed"))


claim_losses: list[Callable[[str], None]] = []


def test_a_run_that_finishes_after_its_recovery_runs_no_hooks_and_enqueues_no_children(
    isolated_runtime: Isolated, mailer_tables: None
) -> None:
    def recover(id: str) -> None:
        with isolated_runtime.runtime.store.begin() as connection:
            apply(connection, "recover", id, claim_token=1, wait_s=0, sent=True, **LOST)
            apply(connection, "claim", id, claimed_by="another")
        claimed_rows.append(row(isolated_runtime, id))

    claimed_rows: list[dict[str, Any]] = []
    claim_losses.append(recover)
    ticket = Late().async_().call()
    isolated_runtime.run_pending()

    assert (performed, sql(isolated_runtime, "SELECT * FROM effects")) == ([], []), "no hooks and no effects"
    assert (claimed_rows[0]["status"], claimed_rows[0]["claimed_by"], claimed_rows[0]["claim_token"]) == (
        "running",
        "another",
        2,
    )
    assert row(isolated_runtime, ticket.id) == claimed_rows[0], "the row belongs to the other worker"
    (inner,) = [each for each in rows(isolated_runtime) if each["id"] != ticket.id]
    assert (inner["status"], inner["error"]) == ("failed", "dexpy.errors.RolledBack"), (
        "the enqueued child was rolled back"
    )
    assert messages(isolated_runtime) == []
    assert attempts(isolated_runtime, ticket.id) == []


LOST = {"error": "dexpy.errors.WorkerLost", "failure": "lost", "error_message": "lost", "error_details": None}


class Twice(mailer.MailerOperation):
    """Waits for an event before it writes; each of its two runs has its own event."""

    def perform(self) -> int:
        with turn:
            number = len(performed)
            performed.append(f"begun {number}")
        assert words[number].wait(WAIT_S)
        self.note(f"run {number}")
        self.after_commit(lambda: performed.append(f"committed {number}"))
        return number


turn = threading.Lock()
words: list[threading.Event] = []


def test_an_earlier_claim_of_the_same_worker_writes_nothing(isolated_runtime: Isolated, mailer_tables: None) -> None:
    words[:] = [threading.Event(), threading.Event()]
    ticket = Twice().async_().call()
    kwargs, actor = (
        messages(isolated_runtime)[0]["message"]["kwargs"],
        isolated_runtime.runtime.broker.get_actor("dexpy.RecordJob"),
    )
    first, second = (threading.Thread(target=actor, kwargs=kwargs, daemon=True) for _ in range(2))
    first.start()
    try:
        eventually(lambda: performed == ["begun 0"], "the first run begins")
        claimed_first = row(isolated_runtime, ticket.id)
        with isolated_runtime.runtime.store.begin() as connection:
            assert apply(connection, "recover", ticket.id, claim_token=1, wait_s=0, sent=True, **LOST) is not None
        second.start()
        eventually(lambda: performed == ["begun 0", "begun 1"], "the second run begins")
        claimed_again = row(isolated_runtime, ticket.id)
        assert claimed_again["status"] == claimed_first["status"] == "running"
        assert claimed_again["claimed_by"] == claimed_first["claimed_by"]

        words[0].set()
        first.join(WAIT_S)
        assert row(isolated_runtime, ticket.id) == claimed_again, "the first run has written nothing"
        assert sql(isolated_runtime, "SELECT what FROM effects") == []
    finally:
        for word in words:
            word.set()
        second.join(WAIT_S)
    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], json.loads(stored["result"])) == ("done", {"value": 1})
    assert [each["what"] for each in sql(isolated_runtime, "SELECT what FROM effects")] == ["run 1"]
    assert performed[2:] == ["committed 1"]


# -------------------------------------------------------------------------------------- 5 to 7: recovery and shutdown


def test_a_worker_whose_clock_is_ahead_recovers_nothing_from_live_workers(deployment: TrapDeployment) -> None:
    deployment.recover_within_s = 600
    deployment.start("-Q", "default")
    ticket = deployment.send_batch(1)
    deployment.wait_until_begun(1)
    deployment.recover_within_s = RECOVER_WITHIN_S
    ahead = deployment.start_ahead(3600)
    running = deployment.row(ticket.id)

    # The other worker rarely checks for dead workers, so a recovered run shows that this one has checked.
    # The delay is longer than the clock is ahead: no worker may run the record before it is recovered.
    other = mailer.SendMailElsewhere(number=5).async_(in_=86_400).call()
    deployment.change(
        "UPDATE operation_records SET status = 'running', claimed_by = 'gone', claim_token = 1 WHERE id = ?", other.id
    )
    eventually(
        lambda: deployment.row(other.id)["num_lost"],
        "the run of the dead worker is recovered",
        WAIT_S,
        deployment.output,
    )

    assert deployment.row(ticket.id) == running
    assert [other.id in line for line in ahead.lines("run.recovered")] == [True]
    deployment.open_gate(1)
    assert ticket.result(WAIT_S, POLL_S) == 1
    assert deployment.row(ticket.id)["num_attempts"] == 1
    eventually(lambda: len(deployment.events_of(1)) == 2, "the run has committed", WAIT_S, deployment.output)
    assert [event for event, _ in deployment.events_of(1)] == ["begun", "committed"]


def test_a_bad_row_or_an_unknown_class_does_not_stop_the_recovery_of_others(deployment: TrapDeployment) -> None:
    worker = deployment.start(threads=6)
    tickets = [deployment.send_batch(batch) for batch in range(5)]
    pid = {deployment.wait_until_begun(batch) for batch in range(5)}.pop()
    garbled, unknown, conflicting, *good = tickets
    deployment.change("UPDATE operation_records SET params = '{\"batch\": ' WHERE id = ?", garbled.id)
    deployment.change("UPDATE operation_records SET operation = 'apps.mailer.Gone' WHERE id = ?", unknown.id)
    deployment.change(
        f"CREATE TRIGGER picky BEFORE UPDATE ON operation_records WHEN OLD.id = '{conflicting.id}' "
        "BEGIN SELECT RAISE(ABORT, 'stays as it is'); END"
    )

    os.kill(pid, signal.SIGKILL)

    for batch, ticket in enumerate(tickets[3:], 3):
        deployment.wait_until_begun(batch, times=2)
        deployment.open_gate(batch)
        assert ticket.result(WAIT_S, POLL_S) == batch
    assert deployment.wait_for_status(garbled.id, "failed")["failure"] == "undecodable"
    waiting = deployment.wait_for_status(unknown.id, "pending")
    assert (waiting["num_lost"], waiting["num_attempts"]) == (1, 1), (
        "this worker makes no decision about an unknown operation"
    )
    assert len(good) == len(tickets) - 3
    bad = deployment.row(conflicting.id)
    assert (bad["status"], bad["num_lost"]) == ("running", 0), "a row that cannot be updated stays as it is"
    assert conflicting.id in worker.lines("record.not_updated")[0], worker.output()
    deployment.change("DROP TRIGGER picky")
    deployment.wait_until_begun(2, times=2)
    deployment.open_gate(2)
    assert conflicting.result(WAIT_S, POLL_S) == 2


def test_a_shutdown_counts_no_attempt_and_a_killed_worker_counts_one(deployment: TrapDeployment) -> None:
    stopped = deployment.start("--shutdown-timeout", "0.5s")
    ticket = deployment.send_batch(1)
    deployment.wait_until_begun(1)
    stopped.signal(signal.SIGTERM)
    stopped.ended()
    released = deployment.row(ticket.id)
    assert (released["status"], released["num_attempts"], released["num_lost"]) == ("pending", 0, 0)
    assert records.attempts(ticket.id) == []

    deployment.start()
    killed = deployment.wait_until_begun(1, times=2)
    assert deployment.row(ticket.id)["num_attempts"] == 1
    os.kill(killed, signal.SIGKILL)
    deployment.wait_until_begun(1, times=3)
    deployment.open_gate(1)
    assert ticket.result(WAIT_S, POLL_S) == 1
    assert [(each.number, each.failure) for each in records.attempts(ticket.id)] == [(1, "lost"), (2, None)]
    assert deployment.row(ticket.id)["num_lost"] == 1
    assert not is_alive(killed)


# ------------------------------------------------------------------------------------------ 8 to 10: how runs end

UNREADABLE = {
    "no JSON": '{"what": ',
    "no object": "[7]",
    "null": "null",
    "nothing": None,
    "another type": '{"what": "seven"}',
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_params_end_the_run_at_once(isolated_runtime: Isolated, kind: str) -> None:
    ticket, sound = Note(what=1).async_().call(), Note(what=2).async_().call()
    sql(isolated_runtime, "UPDATE operation_records SET params = ? WHERE id = ?", UNREADABLE[kind], ticket.id)
    isolated_runtime.run_pending()

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["failure"], stored["num_attempts"]) == ("failed", "undecodable", 1)
    assert [each["failure"] for each in attempts(isolated_runtime, ticket.id)] == ["undecodable"]
    assert stored["params"] == UNREADABLE[kind], "the stored params are kept"
    assert (performed, messages(isolated_runtime), sound.reload().done) == ([2], [], True)
    assert [record.id for record in records.failed()] == [ticket.id], "the record can be queried"


WRONG_FORMS = ("[]", '"x"', "{}", '{"stack": 7}', '{"id": ')


@pytest.mark.parametrize("column", ["trace", "retry_counts"])
@pytest.mark.parametrize("form", WRONG_FORMS)
def test_a_run_with_an_unreadable_trace_or_counter_still_succeeds(
    isolated_runtime: Isolated, column: str, form: str
) -> None:
    ticket = Unsteady().async_().call()
    sql(isolated_runtime, f"UPDATE operation_records SET {column} = ? WHERE id = ?", form, ticket.id)
    isolated_runtime.run_pending()
    assert row(isolated_runtime, ticket.id)["status"] == "pending", "the first attempt fails"
    isolated_runtime.advance(61)
    isolated_runtime.run_pending()
    assert (row(isolated_runtime, ticket.id)["status"], len(performed)) == ("done", 2)


class Breaks(Note):
    def perform(self) -> int:
        super().perform()
        raise ValueError("broken")


SPOILED: dict[str, str | None] = {
    "as it is": None,
    "of an unknown class": "UPDATE operation_records SET operation = 'gone.Gone'",
    "with params that cannot be read": "UPDATE operation_records SET params = '{'",
    "that is deleted": "DELETE FROM operation_records",
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_message_whose_run_has_ended_is_acknowledged(isolated_runtime: Isolated, kind: str) -> None:
    done, failed, expired = Note(what=1).async_().call(), Breaks(what=2).async_().call(), Note(what=3).async_().call()
    sql(isolated_runtime, "CREATE TABLE copies AS SELECT * FROM dexpy_messages")
    expired.expire()
    isolated_runtime.run_pending()
    assert [each["status"] for each in rows(isolated_runtime)] == ["done", "failed", "expired"]
    if (spoil := SPOILED[kind]) is not None:
        sql(isolated_runtime, spoil)
        if "operation =" in spoil:
            sql(isolated_runtime, "UPDATE copies SET payload = replace(payload, 'test_traps_of_peers.', 'gone.')")
    before = rows(isolated_runtime)

    sql(isolated_runtime, "INSERT INTO dexpy_messages SELECT * FROM copies")
    isolated_runtime.run_pending()

    assert messages(isolated_runtime) == [], "all messages are acknowledged"
    assert rows(isolated_runtime) == before
    assert performed == [1, 2]
    assert {done.id, failed.id, expired.id} >= {each["id"] for each in before}


class Refuses(Note):
    def perform(self) -> int:
        raise dexpy.Error("refused", "no such recipient")


class EndsBadly(mailer.MailerOperation):
    """Raises after its commit."""

    raised: str

    def perform(self) -> None:
        self.note("ends")
        self.after_commit(self.fail)

    def fail(self) -> None:
        performed.append(self.raised)
        raise {"an exception": ValueError, "an exit": SystemExit, "a lost claim": dexpy.errors.LostClaim}[self.raised]


@pytest.mark.parametrize("raised", ["an exception", "an exit", "a lost claim"])
def test_a_message_is_acknowledged_despite_an_exception_after_the_end(
    isolated_runtime: Isolated, mailer_tables: None, raised: str
) -> None:
    ticket = EndsBadly(raised=raised).async_().call()
    isolated_runtime.run_pending()

    assert performed == [raised]
    assert row(isolated_runtime, ticket.id)["status"] == "done"
    assert (messages(isolated_runtime), attempts(isolated_runtime, ticket.id)) == ([], [])
    assert [each["what"] for each in sql(isolated_runtime, "SELECT what FROM effects")] == ["ends"]
    assert isolated_runtime.run_pending() == []


class Returns(mailer.MailerOperation):
    retry_on = (Retry(Exception, attempts=3, wait=0),)
    value: str

    def perform(self) -> object:
        performed.append(self.run_id)
        self.note(self.value)
        return {"an object": object(), "deep": {"a": [object()]}, "a generator": iter([1])}[self.value]


@pytest.mark.parametrize("value", ["an object", "deep", "a generator"])
def test_a_result_without_a_json_form_neither_rolls_back_nor_repeats_the_work(
    isolated_runtime: Isolated, mailer_tables: None, value: str
) -> None:
    ticket = Returns(value=value).async_().call()
    isolated_runtime.run_pending()

    record = records.get(ticket.id)
    assert (record.status, record.failure, record.num_attempts, len(performed)) == ("done", None, 1, 1)
    assert record.result is None
    assert record.result_error
    assert [each["what"] for each in sql(isolated_runtime, "SELECT what FROM effects")] == [value]
    with pytest.raises(ResultNotStored):
        ticket.result(WAIT_S)


class Promises(mailer.MailerOperation):
    def perform(self) -> int:
        self.note("promised")
        self.after_commit(lambda: performed.append("committed"))
        return "seven"  # type: ignore[return-value]


def test_a_result_of_the_wrong_type_is_detected_before_the_commit(
    isolated_runtime: Isolated, mailer_tables: None
) -> None:
    ticket = Promises().async_().call()
    isolated_runtime.run_pending()

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["failure"], stored["error"]) == ("failed", "crash", "dexpy.errors.ResultTypeError")
    assert (sql(isolated_runtime, "SELECT * FROM effects"), performed) == ([], [])


# ------------------------------------------------------------------------ 11 to 13: refused retries, secrets, counts


class Forgets(Note):
    record = Recording(params=False)

    def perform(self) -> int:
        raise ValueError("forgotten")


class Alone(Operation):
    """Is unique for each recipient."""

    recipient: int
    unique = Unique("recipient")

    def perform(self) -> None: ...


def test_a_retry_whose_unique_key_is_held_names_the_holder(isolated_runtime: Isolated) -> None:
    first = Alone(recipient=1).async_().call()
    first.fail("not now")
    second = Alone(recipient=1).async_().call()
    assert not second.duplicate

    before = row(isolated_runtime, first.id)
    with pytest.raises(KeyTaken) as refused:
        first.retry()
    assert second.id in str(refused.value)
    assert "unique" in str(refused.value)
    assert row(isolated_runtime, first.id) == before

    isolated_runtime.run_pending()
    first.retry()
    isolated_runtime.run_pending()
    assert first.reload().done


def test_a_retry_that_is_refused_names_the_reason(isolated_runtime: Isolated) -> None:
    done, waiting = Note().async_().call(), Note().async_(in_=60).call()
    Forgets().async_().call()
    isolated_runtime.run_pending()
    (forgotten,) = records.failed()

    for ticket, status, why in (
        (done, "done", "Expected a record that is failed, expired or cancelled"),
        (waiting, "pending", "Expected a record that is failed, expired or cancelled"),
        (forgotten.ticket, "failed", "Its params are not stored, so it cannot run again"),
    ):
        before = row(isolated_runtime, ticket.id)
        with pytest.raises(InvalidTransition) as refused:
            ticket.retry()
        assert str(refused.value) == f"{ticket.id}: cannot retry a run that is {status}. {why}. Nothing was changed."
        assert (refused.value.event, refused.value.status, refused.value.id) == ("retry", status, ticket.id)
        assert row(isolated_runtime, ticket.id) == before
    assert len(messages(isolated_runtime)) == 1


def forms_of(secret: str) -> set[str]:
    """The forms in which a secret may appear."""
    return {
        secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], secret.replace("'", "''"),
        secret.encode("unicode_escape").decode(), str(secret.encode())[2:-1], secret.partition("-")[0],
    }  # fmt: skip


def leaks(sinks: dict[str, str]) -> dict[str, str]:
    """Sink to its first line with the secret, for each sink that contains it."""
    return {
        name: next(line for line in text.splitlines() if any(form in line for form in forms_of(SECRET)))
        for name, text in sinks.items()
        if any(form in text for form in forms_of(SECRET))
    }


class Keeps(Operation):
    """Has sensitive props of several types."""

    word: str = prop(sensitive=True, max_length=len(SECRET))
    raw: bytes = prop(sensitive=True)
    table: dict[str, list[str]] = prop(sensitive=True)

    def perform(self) -> None: ...


def test_a_secret_reaches_no_sink(
    isolated_runtime: Isolated, mailer_tables: None, caplog: pytest.LogCaptureFixture
) -> None:
    sinks: dict[str, str] = {}
    caplog.set_level(logging.DEBUG)
    for ending in mailer.ENDINGS:
        operation = mailer.LogIn(secret=SECRET, ending=ending)
        sending = operation.async_()
        sinks[f"{ending}: repr"] = f"{operation} {operation!r} {sending!r} {operation.safe!r}"
        # The caller passed the secret itself, so its exception may contain it.
        with contextlib.suppress(Exception):
            operation.call()
        ticket = sending.call()
        sinks[f"{ending}: message"] = str(messages(isolated_runtime))
        assert ticket.id in sinks[f"{ending}: message"]
        isolated_runtime.run_pending()
        sinks[f"{ending}: ticket"] = f"{ticket.reload()!r} {ticket.to_dict()} {ticket.outcome}"
        try:
            ticket.result(WAIT_S)
        except Exception as caught:
            sinks[f"{ending}: outcome"] = f"{caught!r} {caught} {vars(caught)}"
        record = records.get(ticket.id)
        sinks[f"{ending}: record"] = f"{record!r} {record.error_message} {record.error_details}"
        sinks[f"{ending}: attempts"] = str(records.attempts(ticket.id)) + str(attempts(isolated_runtime, ticket.id))
        assert ending == "hook" or "mailer.py:" in sinks[f"{ending}: attempts"] or ending == "error"
    with pytest.raises(PropsError) as refused:
        Keeps(word=SECRET + "!", raw=SECRET, table={SECRET: [7]})  # type: ignore[arg-type,list-item]
    sinks["refusal"] = f"{refused.value} {refused.value!r} {refused.value.problems}"
    sinks["values"] = repr(Keeps(word=SECRET, raw=SECRET.encode(), table={SECRET: [SECRET]}))
    sinks["tables"] = str([{**each, "params": None} for each in rows(isolated_runtime)])
    sinks["log"] = caplog.text

    assert "run.failed operation=apps.mailer.LogIn" in sinks["log"]
    assert leaks(sinks) == {}


def test_a_secret_reaches_no_sink_of_a_worker(deployment: TrapDeployment) -> None:
    worker = deployment.start("-v")
    tickets = [mailer.LogIn(secret=SECRET, ending=ending).async_().call() for ending in mailer.ENDINGS]
    for ticket in tickets:
        deployment.wait_for_status(ticket.id, "done", "failed")
    waiting = mailer.AwaitFile(file=str(deployment.folder / "door")).async_().call()
    eventually(
        lambda: deployment.row(waiting.id)["num_attempts"] > 1, "AwaitFile is retried", WAIT_S, deployment.output
    )
    (deployment.folder / "door").touch()
    waiting.result(WAIT_S, POLL_S)
    worker.signal(signal.SIGTERM)
    worker.ended()

    deployment.change("UPDATE operation_records SET params = NULL")
    names = [each["name"] for each in deployment.sql("SELECT name FROM sqlite_master WHERE type = 'table'")]
    sinks = {name: str([dict(each) for each in deployment.sql(f"SELECT * FROM {name}")]) for name in names}
    assert "<sensitive>" in sinks["operation_records"]
    sinks["output"] = worker.output()
    assert sum("run.failed operation=apps.mailer.LogIn" in line for line in worker.output().splitlines()) >= 4
    assert leaks(sinks) == {}


def test_a_redactor_that_fails_hides_the_text_and_leaves_no_row_running(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(text: str) -> str:
        raise KeyError(text)

    runtime = dexpy.configure(database=f"sqlite:///{tmp_path}/records.db", redactor=fail)
    isolated_runtime = Isolated(runtime)
    crashes, refused = Breaks().async_().call(), Refuses().async_().call()
    with caplog.at_level(logging.DEBUG):
        isolated_runtime.run_pending()

    for ticket, message in ((crashes, "broken"), (refused, "no such recipient")):
        stored = row(isolated_runtime, ticket.id)
        assert (stored["status"], stored["error_message"]) == ("failed", "<sensitive>")
        assert message not in caplog.text + str(rows(isolated_runtime)) + str(attempts(isolated_runtime, ticket.id))
    install(None)
    runtime.close()


def steps_of(isolated_runtime: Isolated, query: Callable[[], Any]) -> int:
    """The number of steps of SQLite's virtual machine that a query takes."""
    engine, steps = isolated_runtime.runtime.store.database.engine, [0]

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


def test_counting_with_a_limit_costs_less_than_counting_all(isolated_runtime: Isolated) -> None:
    Note().async_().call()
    isolated_runtime.run_pending()
    columns = [name for name in rows(isolated_runtime)[0] if name != "id"]
    names, limit = ", ".join(columns), 20

    def grow(number: int) -> None:
        values = names.replace("status,", "'failed',", 1)
        statement = (
            f"WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            f" INSERT INTO operation_records (id, {names})"
            f" SELECT printf('op_%d_%06d', ?, i), {values} FROM n, operation_records WHERE status = 'done'"
        )
        sql(isolated_runtime, statement, number, number)

    queries = {
        "failed": records.failed(),
        "of a class": records.where(operation=Note, status="failed"),
        "newest": records.failed().newest_first(),
        "of a queue": records.where(queue="default", status="failed"),
    }
    grow(400)
    few = {name: steps_of(isolated_runtime, query.limit(limit).count) for name, query in queries.items()}
    few_all = {name: steps_of(isolated_runtime, query.count) for name, query in queries.items()}
    grow(8000)
    many = {name: steps_of(isolated_runtime, query.limit(limit).count) for name, query in queries.items()}
    many_all = {name: steps_of(isolated_runtime, query.count) for name, query in queries.items()}

    for name, query in queries.items():
        assert query.limit(limit).count() == limit
        assert many_all[name] > 5 * few_all[name], f"{name}: counting all rows takes longer with more rows"
        assert many[name] <= 1.2 * few[name], f"{name}: counting up to the limit does not"


# ----------------------------------------------------------------------------------------- 14 and 15: processes


def test_a_worker_that_restarts_with_the_same_pid_has_a_new_id(isolated_runtime: Isolated) -> None:
    ids: list[str] = []
    for number in range(3):
        start = Runtime(isolated_runtime.runtime.settings)
        before = install(start)
        ticket = Note(what=number).async_().call()
        start.broker.get_actor("dexpy.RecordJob")(**messages(isolated_runtime)[-1]["message"]["kwargs"])
        assert ticket.reload().done
        heartbeat = start.services.heartbeat
        assert heartbeat is not None
        ids.append(heartbeat.start())
        assert [each["id"] for each in sql(isolated_runtime, "SELECT id FROM operation_workers")] == [ids[-1]]
        assert heartbeat.start() == ids[-1], "the id of a started worker does not change"
        install(before)
        start.close()

    assert len(set(ids)) == len(ids)
    assert {id.split(":")[1] for id in ids} == {str(os.getpid())}, "the pid is the same, as in containers"


def test_a_fork_does_not_share_the_connections_of_its_parent(deployment: TrapDeployment) -> None:
    ended = deployment.run([sys.executable, str(HARNESS / "forking_program.py"), deployment.url])

    assert ended.returncode == 0, ended.stderr
    sides = {report["side"]: report for report in map(json.loads, ended.stdout.splitlines())}
    assert set(sides) == {"before", "child", "parent", "after"}
    before, child, parent, after = (set(sides[side]["connections"]) for side in ("before", "child", "parent", "after"))
    assert child
    assert not child & (before | parent | after)
    assert sides["child"]["worker"] != sides["parent"]["worker"] == sides["after"]["worker"]
    effects = [each["what"] for each in deployment.sql("SELECT what FROM effects")]
    assert len(effects) == len(set(effects)) == 4 * 10
    assert records.pending().count() == records.done().count() == len(effects)
    assert "Traceback" not in ended.stderr
