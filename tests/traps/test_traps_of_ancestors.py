"""Twenty bugs of earlier systems for operations and jobs, numbered; each has a test that reproduces it.

 1. test_a_run_that_succeeds_on_retry_keeps_no_old_error
 2. test_a_message_that_is_delivered_twice_runs_once
 3. test_a_guard_that_refuses_in_a_worker_ends_the_run
 4. test_a_lock_timeout_frees_the_idempotency_key
 5. test_the_run_of_a_killed_worker_is_recovered_and_its_late_writes_are_refused
 6. test_a_prop_that_was_added_after_the_enqueue_has_its_default
 7. test_a_value_round_trips_through_json,
    test_a_value_without_a_json_form_is_refused_at_the_enqueue
 8. test_a_delay_of_the_call_overrides_that_of_the_class
 9. test_a_rollback_leaves_no_row_and_no_message,
    over servers: test_a_broker_that_is_down_loses_nothing_that_was_committed
10. test_an_observer_in_the_base_class_leaves_the_retry_rule_in_force
11. test_attempts_3_allows_three_attempts_and_each_rule_counts_its_own
12. test_a_hundred_workers_with_one_row_claim_it_once,
    over servers: test_a_hundred_deliveries_of_one_row_claim_it_once;
    two schedulers and one tick: to be tested with schedules.
13. test_a_business_error_is_not_retried_like_a_crash
14. test_wait_does_not_report_a_failure_that_will_be_retried
15. test_a_run_that_is_running_or_has_ended_cannot_be_expired_or_failed
16. test_an_expired_idempotency_key_is_claimed_again_by_one_call_only
17. test_an_interrupt_leaves_no_row_running, test_a_time_limit_in_a_worker_leaves_no_row_running
18. test_a_queue_that_no_worker_serves_is_warned_of_and_loses_nothing
19. test_the_text_of_an_error_shows_no_secret
20. test_trace_and_actor_reach_the_worker, test_propagated_context_reaches_the_worker

Each test reproduces the bug; its name states the correct behaviour.
Tests after "over servers" are in ``tests/conformance/test_traps_on_servers.py``.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from apps import mailer
from dramatiq.middleware.shutdown import Shutdown
from dramatiq.middleware.time_limit import TimeLimitExceeded
from features.tables import attempts, messages, nothing_is_stored, row, rows, sql
from harness.trap_workers import TrapDeployment
from harness.workers import eventually, is_alive
from sqlalchemy.orm import Session

import dexpy
from dexpy import (
    Async,
    Err,
    Error,
    Lock,
    NotSerializable,
    Ok,
    Once,
    Operation,
    OperationFailed,
    Retry,
    Runtime,
    guard,
    prop,
    records,
)
from dexpy.errors import InvalidTransition, OptionsError
from dexpy.recording.transitions import apply
from dexpy.runtime import install
from dexpy.testing import Isolated

WAIT_S = 20.0
POLL_S = 0.02
THREADS = 4
SECRET = "hunter2-Ω"

script: list[BaseException | None] = []
"""What each run raises, in order; None lets it succeed."""
performed: list[Any] = []
"""One entry for each run of `perform`."""
observed: list[str] = []
"""The errors that an observer received."""


@pytest.fixture(autouse=True)
def _clean() -> None:
    for noted in (script, performed, observed):
        noted.clear()


@pytest.fixture(scope="module")
def served_deployment(tmp_path_factory: pytest.TempPathFactory) -> Generator[TrapDeployment]:
    """A deployment for all tests of this file, with one worker that serves all queues."""
    deployment = TrapDeployment(tmp_path_factory.mktemp("shop"))
    deployment.start(threads=THREADS)
    yield deployment
    deployment.close()


@pytest.fixture
def served(served_deployment: TrapDeployment, monkeypatch: pytest.MonkeyPatch) -> Generator[TrapDeployment]:
    """The deployment with the worker, its database configured in this process for one test."""
    runtime = dexpy.configure(database=served_deployment.url)
    yield served_deployment
    install(None)
    runtime.close()


class Scripted(Operation):
    """Raises the next exception of `script`, or succeeds."""

    number: int = 0

    def perform(self) -> int:
        performed.append(self.number)
        raised = script.pop(0) if script else None
        if raised is not None:
            raise raised
        return len(performed)


class Patient(Scripted):
    retry_on = (Retry(ConnectionError, attempts=3, wait=10, jitter=0),)


def run_out(isolated_runtime: Isolated) -> None:
    """Run until no message is left; the clock skips the waits between attempts."""
    isolated_runtime.run_pending()
    while messages(isolated_runtime):
        isolated_runtime.advance(3600)
        assert isolated_runtime.run_pending(), "the delayed message is due"


# -------------------------------------------------------------------------------------------- 1 to 5: claims of a row


def test_a_run_that_succeeds_on_retry_keeps_no_old_error(isolated_runtime: Isolated) -> None:
    script.append(ConnectionError("no line"))
    ticket = Patient().async_().call()
    run_out(isolated_runtime)

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["num_attempts"]) == ("done", 2)
    assert {name: stored[name] for name in stored if name.startswith(("error", "failure"))} == {
        "error": None, "error_message": None, "error_details": None, "failure": None,
    }  # fmt: skip
    first, second = records.attempts(ticket.id)
    assert (first.number, first.failure, first.error, first.error_message) == (1, "crash", "ConnectionError", "no line")
    assert (second.number, second.failure, second.error) == (2, None, None)


def test_a_message_that_is_delivered_twice_runs_once(isolated_runtime: Isolated) -> None:
    ticket = Scripted().async_().call()
    kwargs = messages(isolated_runtime)[0]["message"]["kwargs"]
    columns = "queue, priority, due_at, message_id, payload, dead, created_at"
    sql(isolated_runtime, f"INSERT INTO dexpy_messages ({columns}) SELECT {columns} FROM dexpy_messages")
    isolated_runtime.run_pending()
    over = row(isolated_runtime, ticket.id)
    assert (performed, over["status"], over["num_attempts"]) == ([0], "done", 1)

    # Twelve concurrent deliveries: of a run that has not ended, then of one that has.
    again, actor = Scripted(number=1).async_().call(), isolated_runtime.runtime.broker.get_actor("dexpy.RecordJob")
    gate = threading.Barrier(12)

    def deliver(id: str) -> None:
        gate.wait(10)
        actor(**{**kwargs, "record_id": id})

    for id in (again.id, ticket.id):
        threads = [threading.Thread(target=deliver, args=(id,), daemon=True) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
    assert performed == [0, 1]
    assert row(isolated_runtime, again.id)["num_attempts"] == 1
    assert row(isolated_runtime, ticket.id) == over


class Guarded(Scripted):
    @guard("The office is closed")
    def closed(self) -> bool:
        return self.number < 0


def test_a_guard_that_refuses_in_a_worker_ends_the_run(isolated_runtime: Isolated) -> None:
    ticket = Guarded(number=-1).async_().call()
    isolated_runtime.run_pending()

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["failure"], stored["error"]) == ("failed", "rejected", "closed")
    assert stored["completed_at"] is not None
    outcome = ticket.wait(WAIT_S)
    assert isinstance(outcome, Err)
    assert (outcome.code, outcome.rejected, performed) == ("closed", True, [])


def test_the_run_of_a_killed_worker_is_recovered_and_its_late_writes_are_refused(deployment: TrapDeployment) -> None:
    deployment.start()
    ticket = deployment.send_batch(1)
    killed = deployment.wait_until_begun(1)
    token = deployment.row(ticket.id)["claim_token"]

    os.kill(killed, signal.SIGKILL)

    assert deployment.wait_until_begun(1, times=2) != killed
    taken_up = deployment.row(ticket.id)
    assert (taken_up["status"], taken_up["num_attempts"]) == ("running", 2)
    store = dexpy.current_runtime().store
    late: dict[str, dict[str, Any]] = {
        "succeed": {"result": {"value": 0}},
        "crash": {"error": "x", "failure": "crash", "error_message": "x", "error_details": None},
        "release": {"sent": True},
    }
    for event, values in late.items():
        with store.begin() as connection:
            assert apply(connection, event, ticket.id, claim_token=token, **values) is None, event
    assert deployment.row(ticket.id) == taken_up

    deployment.open_gate(1)
    assert ticket.result(WAIT_S, POLL_S) == 1
    eventually(lambda: deployment.effects("mail%"), "the child runs", WAIT_S, deployment.output)
    assert deployment.effects() == ["batch 1", "mail 1"]
    lost, done = records.attempts(ticket.id)
    assert (lost.number, lost.failure, lost.error) == (1, "lost", "dexpy.errors.WorkerLost")
    assert (done.number, done.failure) == (2, None)
    assert not is_alive(killed)


# ------------------------------------------------------------------------------------------ 6 and 7: params


class Grown(Operation):
    old: int
    added: str = "by default"
    computed: list[int] = prop(factory=lambda: [7])

    def perform(self) -> list[Any]:
        performed.append([self.old, self.added, self.computed])
        return performed[-1]


class GrownDirect(Grown):
    record = False


def test_a_prop_that_was_added_after_the_enqueue_has_its_default(isolated_runtime: Isolated) -> None:
    Grown(old=1, added="now", computed=[]).async_().call()
    GrownDirect(old=2, added="now", computed=[]).async_().call()
    sql(isolated_runtime, """UPDATE operation_records SET params = '{"old": 1}'""")
    for message in messages(isolated_runtime):
        if "params" in message["message"]["kwargs"]:
            message["message"]["kwargs"]["params"] = {"old": 2}
            sql(
                isolated_runtime,
                "UPDATE dexpy_messages SET payload = ? WHERE id = ?",
                json.dumps(message["message"]),
                message["id"],
            )

    isolated_runtime.run_pending()

    assert performed == [[1, "by default", [7]], [2, "by default", [7]]]


class Flag(Enum):
    RED = "red"
    TWO = 2


class Values(Operation):
    moment: datetime
    naive: datetime
    day: date
    amount: Decimal
    flag: Flag
    other: Flag
    nested: dict[str, list[dict[str, date]]]
    plain: dict = prop(factory=dict)

    def perform(self) -> None:
        performed.append(self)


def test_a_value_round_trips_through_json(isolated_runtime: Isolated) -> None:
    original = Values(
        moment=datetime(2026, 10, 25, 2, 30, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        naive=datetime(2026, 10, 25, 2, 30, 0, 1),
        day=date(2024, 2, 29),
        amount=Decimal("0.10"),
        flag=Flag.RED,
        other=Flag.TWO,
        nested={"a": [{"b": date(1, 1, 1)}, {}], "": []},
        plain={"a": [1, 2.5, None, True, {"b": []}]},
    )
    original.async_().call()
    isolated_runtime.run_pending()

    (received,) = performed
    assert received == original
    for name in ("moment", "naive", "day", "amount", "flag", "other", "nested", "plain"):
        assert repr(getattr(received, name)) == repr(getattr(original, name)), name
    assert received.moment.utcoffset() == timedelta(hours=5, minutes=30)


class Loose(Operation):
    items: dict = prop(factory=dict)
    number: float = 0.0

    def perform(self) -> None: ...


NO_JSON: dict[str, tuple[dict[str, Any], str]] = {
    "not a number": ({"number": float("nan")}, "number"),
    "infinity": ({"items": {"a": [float("-inf")]}}, "items['a'][0]"),
    "a set": ({"items": {"a": [{"b": {1}}]}}, "items['a'][0]['b']"),
    "a function": ({"items": {"a": lambda: None}}, "items['a']"),
    "a key that is no text": ({"items": {"a": {1: 2}}}, "items['a']"),
    "an object": ({"items": {"a": [0, object()]}}, "items['a'][1]"),
}


@pytest.mark.parametrize("kind", NO_JSON)
def test_a_value_without_a_json_form_is_refused_at_the_enqueue(isolated_runtime: Isolated, kind: str) -> None:
    values, path = NO_JSON[kind]
    with pytest.raises(NotSerializable) as refused:
        Loose(**values).async_().call()
    assert isinstance(refused.value, TypeError)
    assert refused.value.path.lstrip(".").startswith(path), refused.value
    assert path in str(refused.value)
    assert nothing_is_stored(isolated_runtime)


# ------------------------------------------------------------------------------- 8 and 9: delays and transactions


class OnceUponATime(Scripted):
    async_ = Async(at=datetime(2100, 1, 1, tzinfo=timezone.utc))


def test_a_delay_of_the_call_overrides_that_of_the_class(isolated_runtime: Isolated) -> None:
    ticket = OnceUponATime().async_(in_=60).call()
    assert isolated_runtime.run_pending() == []
    isolated_runtime.advance(61)
    isolated_runtime.run_pending()
    assert ticket.reload().done

    moment = datetime(2100, 1, 1, tzinfo=timezone.utc)
    with pytest.raises(OptionsError, match="in_.*at|at.*in_"):
        Scripted().async_(in_=60, at=moment)
    with pytest.raises(dexpy.errors.DeclarationError, match="in_.*at|at.*in_"):

        class Both(Scripted):
            async_ = Async(in_=60, at=moment)


def test_a_rollback_leaves_no_row_and_no_message(isolated_runtime: Isolated, mailer_tables: None) -> None:
    engine = isolated_runtime.runtime.store.database.engine
    with Session(engine) as session, dexpy.session(session):
        session.add(mailer.Effect(what="with it", run=""))
        rolled_back = Scripted(number=1).async_().call()
        GrownDirect(old=1).async_(session=session).call()
        session.rollback()
    assert nothing_is_stored(isolated_runtime)
    with pytest.raises(dexpy.errors.RolledBack):
        rolled_back.wait(WAIT_S)

    with Session(engine) as session:
        committed = Scripted(number=2).async_(session=session).call()
        with session.begin_nested() as savepoint:
            Scripted(number=3).async_(session=session).call()
            savepoint.rollback()
        assert nothing_is_stored(isolated_runtime), "the row is not visible before the commit"
        session.commit()
    isolated_runtime.run_pending()
    assert (performed, committed.reload().done, len(rows(isolated_runtime))) == ([2], True, 1)


# -------------------------------------------------------------------------------------------- 10 to 16: retries, waits


class Watched(Scripted):
    """An application's base class that observes errors and retries connection errors."""

    retry_on = (Retry(ConnectionError, attempts=4, wait=10, jitter=0),)

    def on_error(self, error: Exception) -> None:
        observed.append(str(error))


class WatchedToo(Watched):
    def on_error(self, error: Exception) -> None:
        super().on_error(error)
        raise RuntimeError("an observer that fails decides nothing either")


@pytest.mark.parametrize("kind", [Watched, WatchedToo])
def test_an_observer_in_the_base_class_leaves_the_retry_rule_in_force(
    isolated_runtime: Isolated, kind: type[Watched]
) -> None:
    rule = Watched.retry_on[0]
    script.extend(ConnectionError(f"time {number}") for number in range(1, 10))
    ticket = kind().async_().call()
    run_out(isolated_runtime)

    assert rule.attempts is not None
    assert len(performed) - 1 == rule.attempts - 1, "retried attempts - 1 times"
    assert observed == [f"time {number}" for number in range(1, rule.attempts + 1)]
    assert row(isolated_runtime, ticket.id)["status"] == "failed"


class TwoRules(Scripted):
    retry_on = (Retry(ConnectionError, attempts=3, wait=10), Retry(TimeoutError, KeyError, attempts=2, wait=10))


def test_attempts_3_allows_three_attempts_and_each_rule_counts_its_own(isolated_runtime: Isolated) -> None:
    script.extend(ConnectionError() for _ in range(9))
    ticket = Patient().async_().call()
    run_out(isolated_runtime)
    assert (
        len(performed),
        row(isolated_runtime, ticket.id)["num_attempts"],
        row(isolated_runtime, ticket.id)["status"],
    ) == (
        3,
        3,
        "failed",
    )

    performed.clear()
    script[:] = [ConnectionError(), TimeoutError(), ConnectionError(), None]
    ticket = TwoRules().async_().call()
    run_out(isolated_runtime)
    assert (len(performed), row(isolated_runtime, ticket.id)["status"]) == (4, "done"), (
        "neither rule has used up its attempts"
    )

    performed.clear()
    script[:] = [ConnectionError(), KeyError("a"), TimeoutError(), None]
    ticket = TwoRules().async_().call()
    run_out(isolated_runtime)
    assert (len(performed), row(isolated_runtime, ticket.id)["error"]) == (3, "TimeoutError"), (
        "both exceptions count for their common rule"
    )


def test_a_hundred_workers_with_one_row_claim_it_once(isolated_runtime: Isolated) -> None:
    ticket = Scripted().async_().call()
    kwargs = messages(isolated_runtime)[0]["message"]["kwargs"]
    workers = [Runtime(isolated_runtime.runtime.settings) for _ in range(100)]
    gate = threading.Barrier(len(workers))

    def deliver(worker: Runtime) -> None:
        actor = worker.start().dispatcher.broker.get_actor("dexpy.RecordJob")
        assert worker.services.heartbeat is not None
        ids.append(worker.services.heartbeat.start())
        gate.wait(60)
        actor(**kwargs)

    ids: list[str] = []
    threads = [threading.Thread(target=deliver, args=(worker,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for worker in workers:
        worker.close()

    assert len(set(ids)) == len(workers)
    stored = row(isolated_runtime, ticket.id)
    assert (performed, stored["status"], stored["num_attempts"], stored["claim_token"]) == ([0], "done", 1, 1)


class Refuses(Scripted):
    errors = {"not_today"}
    retry_on = (Retry(Exception, attempts=2, wait=10),)


def test_a_business_error_is_not_retried_like_a_crash(isolated_runtime: Isolated) -> None:
    script.append(Error("not_today", "Come tomorrow", details={"day": 1}))
    refused = Refuses().async_().call()
    run_out(isolated_runtime)
    assert len(performed) == 1
    stored = row(isolated_runtime, refused.id)
    assert (stored["status"], stored["failure"], stored["error"]) == ("failed", "business", "not_today")
    assert refused.wait(WAIT_S) == Err("not_today", "Come tomorrow", {"day": 1})

    performed.clear()
    script.append(ValueError())
    crashed = Refuses().async_().call()
    run_out(isolated_runtime)
    assert (len(performed), row(isolated_runtime, crashed.id)["status"]) == (2, "done")


def test_wait_does_not_report_a_failure_that_will_be_retried(isolated_runtime: Isolated) -> None:
    script.append(ConnectionError("this time"))
    ticket = Patient().async_().call()
    looks: list[int] = []
    outcomes: list[Any] = []

    def look_soon(number: int) -> float:
        looks.append(number)
        return POLL_S

    waiting = threading.Thread(target=lambda: outcomes.append(ticket.wait(WAIT_S, interval=look_soon)), daemon=True)
    waiting.start()
    isolated_runtime.run_pending()
    between = row(isolated_runtime, ticket.id)
    assert (between["status"], between["error"], between["num_attempts"]) == ("pending", "ConnectionError", 1)
    before = len(looks)
    eventually(lambda: len(looks) > before + 2, "the waiting thread polls between the attempts")
    run_out(isolated_runtime)
    waiting.join(WAIT_S)
    assert outcomes == [Ok(2)]


class EndsItself(Operation):
    """Tries to expire and to fail its own record, which is allowed only while it is pending."""

    def perform(self) -> None:
        ticket = records.get(self.run_id).ticket
        for event in (ticket.expire, lambda: ticket.fail("no")):
            with pytest.raises(InvalidTransition, match="a run that is running") as refused:
                event()
            performed.append((refused.value.status, records.get(self.run_id).status))


def test_a_run_that_is_running_or_has_ended_cannot_be_expired_or_failed(isolated_runtime: Isolated) -> None:
    EndsItself().async_().call()
    isolated_runtime.run_pending()
    assert performed == [("running", "running")] * 2

    script[:] = [None, KeyError("x")]
    done, failed = Scripted().async_().call(), Scripted().async_().call()
    isolated_runtime.run_pending()
    expired = Scripted().async_().call().expire()
    for ticket, status in ((done, "done"), (failed, "failed"), (expired, "expired")):
        before = row(isolated_runtime, ticket.id)
        assert before["status"] == status
        for event in (ticket.expire, lambda: ticket.fail("no")):  # noqa: B023 - called in this iteration
            with pytest.raises(InvalidTransition, match=f"a run that is {status}"):
                event()
        assert row(isolated_runtime, ticket.id) == before


# ----------------------------------------------------------------------------- 17 to 20: interrupts, warnings, errors


@pytest.mark.parametrize(
    ("interrupt", "status", "failure", "counted"),
    [(TimeLimitExceeded, "failed", "timeout", 1), (Shutdown, "pending", None, 0)],
)
def test_an_interrupt_leaves_no_row_running(
    isolated_runtime: Isolated, interrupt: type[BaseException], status: str, failure: str | None, counted: int
) -> None:
    script.append(interrupt())
    ticket = Scripted().async_().call()
    with pytest.raises(interrupt):
        isolated_runtime.run_pending()

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["failure"], stored["num_attempts"]) == (status, failure, counted)
    assert stored["claimed_by"] is None
    isolated_runtime.run_pending()
    assert (row(isolated_runtime, ticket.id)["status"], len(performed)) == (
        ("done", 2) if status == "pending" else (status, 1)
    )


def test_a_time_limit_in_a_worker_leaves_no_row_running(served: TrapDeployment) -> None:
    for ticket in [mailer.Overrun().async_().call() for _ in range(THREADS)]:
        with pytest.raises(OperationFailed) as failed:
            ticket.result(WAIT_S, POLL_S)
        assert failed.value.failure == "timeout"
        assert served.row(ticket.id)["num_attempts"] == 1
    assert mailer.SendMail(number=17).async_().call().result(WAIT_S, POLL_S) == 17, (
        "the worker's threads are free again"
    )


def test_a_queue_that_no_worker_serves_is_warned_of_and_loses_nothing(
    deployment: TrapDeployment, caplog: pytest.LogCaptureFixture
) -> None:
    deployment.start("-Q", "default")
    unserved = mailer.SendMailElsewhere(number=1).async_().call()
    mailer.SendMailElsewhere(number=2).async_().call()
    assert mailer.SendMail(number=3).async_().call().result(WAIT_S, POLL_S) == 3

    (warned,) = [record.getMessage() for record in caplog.records if "queue.unserved" in record.getMessage()]
    assert "queue=elsewhere" in warned
    assert deployment.status(unserved.id) == "pending"
    assert records.where(queue="elsewhere").pending().count() == 2
    deployment.start("-Q", "elsewhere")
    assert unserved.result(WAIT_S, POLL_S) == 1


class Login(Operation):
    password: str = prop(sensitive=True)
    business: bool
    errors = {"wrong"}

    def perform(self) -> None:
        if self.business:
            raise Error("wrong", f"{self.password} is wrong", details={"given": self.password})
        raise RuntimeError(f"cannot log in with {self.password}")


@pytest.mark.parametrize("business", [True, False])
def test_the_text_of_an_error_shows_no_secret(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture, business: bool
) -> None:
    with caplog.at_level(logging.INFO):
        ticket = Login(password=SECRET, business=business).async_().call()
        stored_messages = str(messages(isolated_runtime))
        isolated_runtime.run_pending()
    shown = json.dumps(ticket.reload().to_dict(), ensure_ascii=False)

    assert shown.count("<sensitive>") == (2 if business else 0), shown
    assert ("RuntimeError" in shown, "log in" in shown) == (False, False), (
        "neither the class nor the message of a crash is shown"
    )
    assert f"run_id={ticket.id}" in caplog.text
    assert attempts(isolated_runtime, ticket.id)
    for text in (shown, stored_messages, caplog.text):
        assert SECRET not in text
        assert SECRET.encode("unicode_escape").decode() not in text


class Replays(Operation):
    """Has an idempotency key, and does not wait for its lock."""

    account: int
    lock = Lock(template="account:{account}", timeout=0)
    once = Once("account")
    retry_on = (Retry("lock_timeout", attempts=1),)

    def perform(self) -> str:
        performed.append(self.account)
        return f"run {len(performed)}"


class Holds(Operation):
    """Holds the lock while another thread calls `Replays`."""

    account: int
    lock = Lock(template="account:{account}")

    def perform(self) -> str:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: Replays(account=self.account).safe.call()).result(WAIT_S).code  # type: ignore[union-attr]


locked, over = threading.Event(), threading.Event()


class Occupies(Operation):
    """Holds the lock until the test releases it."""

    account: int
    lock = Lock(template="account:{account}")

    def perform(self) -> None:
        locked.set()
        assert over.wait(WAIT_S)


def test_a_lock_timeout_frees_the_idempotency_key(isolated_runtime: Isolated) -> None:
    assert Holds(account=4).call() == "lock_timeout"
    assert performed == []
    assert Replays(account=4).call() == "run 1", "the key is free, so the operation runs"
    assert Replays(account=4).call() == "run 1", "the result is replayed"

    # In the background, while another run holds the lock.
    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(Occupies(account=5).call)
        assert locked.wait(WAIT_S)
        refused = Replays(account=5).async_().call()
        isolated_runtime.run_pending()
        over.set()
        holder.result(WAIT_S)
    assert (refused.reload().status, refused.failure) == ("failed", "business")
    assert Replays(account=5).call() == "run 2"


class Monthly(Operation):
    """Has an idempotency key that expires after a minute."""

    month: int
    once = Once("month", expires_in=60)

    def perform(self) -> int:
        performed.append(self.month)
        return len(performed)


def test_an_expired_idempotency_key_is_claimed_again_by_one_call_only(isolated_runtime: Isolated) -> None:
    assert [Monthly(month=1).call(), Monthly(month=1).call()] == [1, 1]
    isolated_runtime.advance(61)

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(lambda _: Monthly(month=1).call(), range(THREADS)))
    assert answers == [2] * THREADS, "one call runs, the others get its result"
    keys = sql(isolated_runtime, "SELECT once_key FROM operation_records ORDER BY id")
    assert [each["once_key"] is None for each in keys] == [True, False], (
        "the first row has lost its key, the second has it"
    )


def test_propagated_context_reaches_the_worker(served: TrapDeployment) -> None:
    with dexpy.context(mailer_locale=dexpy.Propagate("nl"), mailer_theme="fog"):
        ticket = mailer.ReadContext(number=201).async_().call()
    result = ticket.result(WAIT_S, POLL_S)

    assert result == {"locale": "nl", "theme": None, "nested": "nl"}, "only propagated values reach the worker"
    child = served.wait_for_status(
        records.where(operation=mailer.ReadContext, params={"number": 202}).first().id, "done"
    )  # type: ignore[union-attr]
    assert '"locale": "nl"' in child["result"], "the value reaches the child run too"


def test_trace_and_actor_reach_the_worker(served: TrapDeployment) -> None:
    actor = {"type": "user", "id": 7}
    with dexpy.trace(actor=actor, trace_id="request-20"):
        ticket = mailer.SendTwice(number=200).async_().call()
    result = ticket.result(WAIT_S, POLL_S)

    served.wait_for_status(result["child"], "done")
    matching = list(records.for_trace("request-20"))
    assert [record.operation for record in matching] == [
        "apps.mailer.SendTwice",
        "apps.mailer.SendMail",
        "apps.mailer.SendMail",
    ]
    for record in matching:
        assert (record.trace["actor"], record.actor_type, record.actor_id) == (actor, "user", "7")
        assert record.status == "done"
    assert [record.parent_id for record in matching] == [None, ticket.id, ticket.id]
    runs = served.sql("SELECT run FROM effects WHERE what LIKE 'mail 20_' ORDER BY run")
    assert [each["run"] for each in runs] == [record.id for record in matching[1:]]
