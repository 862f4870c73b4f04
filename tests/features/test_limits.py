"""What ends a background run from outside: timeout, cancellation, expiry, interrupts of Dramatiq.

A worker in this process runs the operations, with a real database and real threads.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
import sqlalchemy as sa
from dramatiq.middleware import Shutdown, TimeLimitExceeded
from sqlalchemy.orm import Session

import dexpy
from dexpy import (
    Async,
    Cancelled,
    Err,
    Error,
    Ok,
    Operation,
    OperationFailed,
    Recording,
    Retry,
    Ticket,
    TimedOut,
    WorkerLost,
    after,
    guard,
    records,
)
from dexpy.errors import DeclarationError, InvalidTransition, NotRecorded, NotRunning, OptionsError
from dexpy.maintenance.relay import Relay
from dexpy.recording import run_signals
from dexpy.testing import Isolated
from dexpy.worker import watchdog

from .ledger import Entry, lines
from .shop import Shop
from .tables import attempts, messages, row, rows, sql

WAIT_S = 20.0
LONG_S = 30.0
"""Longer than any test waits, in seconds."""

notes: list[Any] = []
"""The entries that runs have written, in order."""
signals: dict[str, threading.Event] = {}


def sign(name: str) -> threading.Event:
    """Return the event with a name, which runs and tests share."""
    return signals.setdefault(name, threading.Event())


def wait_for(name: str) -> None:
    assert sign(name).wait(WAIT_S), f"the event {name!r} was not set in time"


def sleep_in_slices(seconds: float = LONG_S) -> None:
    """Sleep so that an exception raised in this thread from outside can interrupt it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def _fresh() -> Generator[None]:
    notes.clear()
    signals.clear()
    yield
    for one in signals.values():
        one.set()


@contextmanager
def serving(isolated_runtime: Isolated, threads: int = 2, queues: set[str] | None = None) -> Generator[dramatiq.Worker]:
    """Start a worker in this process, for all queues or for some."""
    isolated_runtime.runtime.dispatcher.require_tables()
    isolated_runtime.runtime.broker.declare_queue("default")
    worker = dramatiq.Worker(isolated_runtime.runtime.broker, queues=queues, worker_threads=threads, worker_timeout=50)
    worker.start()
    try:
        yield worker
    finally:
        for one in signals.values():
            one.set()
        worker.stop(timeout=5000)


@pytest.fixture
def worker(shop: Shop) -> Generator[dramatiq.Worker]:
    with serving(shop.isolated_runtime) as started:
        yield started


def ended(ticket: Ticket[Any]) -> tuple[str, str | None]:
    """Wait until a run has ended, and return its status and failure."""
    until = time.monotonic() + WAIT_S
    while not ticket.reload().terminal:
        assert time.monotonic() < until, f"{ticket} has not ended"
        time.sleep(0.01)
    return ticket.status, ticket.failure


def eventually(observe: Callable[[], Any], description: str) -> Any:
    until = time.monotonic() + WAIT_S
    while not (result := observe()):
        assert time.monotonic() < until, description
        time.sleep(0.01)
    return result


def failures(isolated_runtime: Isolated, ticket: Ticket[Any]) -> list[str]:
    """Return the failures of the stored attempts."""
    return [each["failure"] for each in attempts(isolated_runtime, ticket.id)]


# ------------------------------------------------------------------------------------------------------- timeout


class Linger(Operation):
    """Writes a line and exceeds its timeout."""

    text: str = "lingered"
    timeout = 0.2

    def perform(self) -> None:
        try:
            self.session.add(Entry(text=self.text))
            self.session.flush()
            sleep_in_slices()
        except TimedOut:
            notes.append("told")
            raise
        finally:
            notes.append("tidied up")


class LingerTwice(Linger):
    retry_on = (Retry(TimedOut, attempts=2, wait=0),)


class LingerOnce(Linger):
    """Exceeds its timeout in the first attempt only."""

    timeout = timedelta(seconds=0.2)
    retry_on = (Retry(TimedOut, wait=0),)

    def perform(self) -> None:
        if not notes:
            super().perform()


class LingerAsync(Operation):
    """Exceeds its timeout in an ``async def perform``."""

    timeout = 0.2

    async def perform(self) -> None:
        def write(session: Session) -> None:
            session.add(Entry(text="lingered"))
            session.flush()

        try:
            await self.in_session(write)
            await asyncio.sleep(LONG_S)
        except asyncio.CancelledError:
            notes.append("told")
            await asyncio.sleep(0.01)
            raise
        finally:
            notes.append("tidied up")


class LingerInside(Operation):
    """Exceeds its timeout in a nested run."""

    timeout = 0.2

    def perform(self) -> None:
        Linger(text="inside").call()


class LingerInvisibly(Operation):
    """Exceeds its timeout as a direct run."""

    timeout = 0.2
    record = Recording(params=False)

    def perform(self) -> None:
        sleep_in_slices()


class ComeToTerms(Operation):
    """Catches its timeout and succeeds."""

    timeout = 0.2

    def perform(self) -> str:
        try:
            sleep_in_slices()
        except TimedOut:
            self.session.add(Entry(text="in short"))
        return "in short"


class TakeTimeAfterwards(Operation):
    """Exceeds its timeout after `perform`."""

    timeout = 0.3

    @after
    def tidy(self) -> None:
        sleep_in_slices(1.0)
        self.session.add(Entry(text="afterwards"))

    def perform(self) -> None:
        notes.append("performed")


class Stick(Operation):
    """Waits so that no exception can interrupt it."""

    timeout = 0.2

    def perform(self) -> None:
        notes.append("stuck")
        signals["release"].wait()
        self.session.add(Entry(text="a zombie was here"))


class StickOnce(Stick):
    retry_on = (Retry(TimedOut, wait=0),)

    def perform(self) -> None:
        if not notes:
            super().perform()


class StickInGuard(Operation):
    timeout = 0.2

    @guard("Never")
    def stuck(self) -> bool:
        signals["release"].wait()
        return False

    def perform(self) -> None:
        self.session.add(Entry(text="a zombie was here"))


def test_a_run_that_times_out_is_interrupted_inside_perform_and_can_clean_up(
    shop: Shop, worker: dramatiq.Worker
) -> None:
    ticket = Linger().async_().call()

    assert ended(ticket) == ("failed", "timeout")
    assert notes == ["told", "tidied up"]
    assert lines(shop) == [], "its writes are rolled back"
    stored = row(shop.isolated_runtime, ticket.id)
    assert (stored["error"], stored["num_attempts"]) == ("dexpy.errors.TimedOut", 1)
    assert "exceeded the timeout of its class" in stored["error_message"]
    assert failures(shop.isolated_runtime, ticket) == ["timeout"]
    with pytest.raises(OperationFailed) as caught:
        ticket.result(1)
    assert (caught.value.failure, caught.value.exception_class) == ("timeout", "dexpy.errors.TimedOut")


def test_a_coroutine_that_times_out_is_cancelled_and_can_clean_up(shop: Shop, worker: dramatiq.Worker) -> None:
    ticket = LingerAsync().async_().call()

    assert ended(ticket) == ("failed", "timeout")
    assert notes == ["told", "tidied up"]
    assert lines(shop) == []
    assert row(shop.isolated_runtime, ticket.id)["error"] == "dexpy.errors.TimedOut"


def test_a_rule_for_timed_out_retries_the_run(shop: Shop, worker: dramatiq.Worker) -> None:
    hopeless = LingerTwice().async_().call()
    assert ended(hopeless) == ("failed", "timeout")
    assert failures(shop.isolated_runtime, hopeless) == ["timeout", "timeout"]

    notes.clear()
    healed = LingerOnce().async_().call()
    assert ended(healed) == ("done", None)
    assert failures(shop.isolated_runtime, healed) == ["timeout"]


def test_a_run_that_succeeds_after_its_interruption_is_done(shop: Shop, worker: dramatiq.Worker) -> None:
    ticket = ComeToTerms().async_().call()

    assert ticket.result(WAIT_S) == "in short"
    assert lines(shop) == ["in short"]


def test_the_timeout_of_the_outer_run_includes_its_nested_runs(shop: Shop, worker: dramatiq.Worker) -> None:
    ticket = LingerInside().async_().call()

    assert ended(ticket) == ("failed", "timeout")
    assert lines(shop) == []
    inner = records.where(parent=ticket.id).first()
    assert inner is not None
    assert (inner.status, inner.error) == ("failed", "dexpy.errors.TimedOut")


def test_a_timeout_is_never_raised_after_perform(shop: Shop, worker: dramatiq.Worker) -> None:
    ticket = TakeTimeAfterwards().async_().call()

    assert ended(ticket) == ("done", None)
    assert notes == ["performed"]
    assert lines(shop) == ["afterwards"]


def test_a_direct_run_has_the_timeout_too(shop: Shop, worker: dramatiq.Worker) -> None:
    LingerInvisibly().async_().call()

    stored = eventually(lambda: rows(shop.isolated_runtime), "the row is written")[0]
    assert (stored["status"], stored["failure"], stored["error"]) == ("failed", "timeout", "dexpy.errors.TimedOut")


def test_a_call_in_place_has_no_timeout(shop: Shop) -> None:
    class Unlimited(Linger):
        def perform(self) -> None:
            sleep_in_slices(0.5)

    Unlimited().call()


@pytest.mark.parametrize("operation", [Stick, StickInGuard])
def test_a_run_that_cannot_be_interrupted_is_failed_and_writes_nothing_later(
    shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    operation: type[Operation],
) -> None:
    monkeypatch.setattr(watchdog, "HARD_AFTER_S", 0.3)
    caplog.set_level(logging.WARNING, "dexpy")
    sign("release")
    with serving(shop.isolated_runtime):
        ticket = operation().async_().call()

        assert ended(ticket) == ("failed", "timeout")
        assert any("run.stuck" in line and ticket.id in line for line in caplog.messages)
        stored = row(shop.isolated_runtime, ticket.id)
        sign("release").set()
        eventually(lambda: [line for line in caplog.messages if "claim.lost" in line], "the stuck run has ended")

    assert lines(shop) == []
    assert {**row(shop.isolated_runtime, ticket.id), "updated_at": None} == {**stored, "updated_at": None}
    assert failures(shop.isolated_runtime, ticket) == ["timeout"]


def test_a_stuck_run_with_a_rule_is_retried_while_it_is_still_stuck(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "HARD_AFTER_S", 0.3)
    sign("release")
    with serving(shop.isolated_runtime):
        ticket = StickOnce().async_().call()

        assert ended(ticket) == ("done", None)
        assert not sign("release").is_set()
    assert lines(shop) == []


class StickWithTheLock(Stick):
    """Holds SQLite's only write lock while it is stuck, so that its end cannot be written before."""

    def perform(self) -> None:
        wait_for("waiting")
        self.session.add(Entry(text="a zombie was here"))
        self.session.flush()
        signals["release"].wait()


class WaitToBeTold(Operation):
    timeout = 2.0

    def perform(self) -> None:
        sign("waiting").set()
        try:
            sleep_in_slices()
        except TimedOut:
            sign("told").set()
            raise


def test_a_stuck_run_whose_end_cannot_be_written_delays_no_other_timeout(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchdog, "HARD_AFTER_S", 0.3)
    sign("release")
    with serving(shop.isolated_runtime):
        # Both must be claimed before the lock is held, because a claim writes.
        tickets = [WaitToBeTold().async_().call(), StickWithTheLock().async_().call()]

        wait_for("told")

        assert any("run.stuck" in line and tickets[1].id in line for line in caplog.messages)
        sign("release").set()
        assert [ended(ticket) for ticket in tickets] == [("failed", "timeout")] * 2
    assert lines(shop) == []


@pytest.mark.parametrize("wrong", [0, -1, "3", True, float("inf"), timedelta(0)])
def test_an_invalid_limit_is_refused(wrong: Any) -> None:
    with pytest.raises(DeclarationError, match="Limited.*timeout"):
        type("Limited", (Operation,), {"timeout": wrong, "perform": lambda self: None})


# -------------------------------------------------------------------------------------------------------- cancel


class Patient(Operation):
    """Runs until it is cancelled; the base of operations that detect it in different ways.

    It flushes nothing before: a run that holds SQLite's only write lock cannot receive a request.
    """

    def perform(self) -> None:
        self.session.add(Entry(text="begun"))
        self.after_commit(lambda: notes.append("after the commit"))
        sign("running").set()
        try:
            with self.session.no_autoflush:
                self.go_on()
        finally:
            notes.append("tidied up")

    def go_on(self) -> None:
        raise NotImplementedError


class Asking(Patient):
    def go_on(self) -> None:
        while True:
            time.sleep(0.005)
            self.check_cancelled()


class Querying(Patient):
    def go_on(self) -> None:
        while True:
            time.sleep(0.005)
            self.session.execute(sa.select(Entry))


class QueryingAsBefore(Patient):
    """Uses the same session object for all queries."""

    def go_on(self) -> None:
        session = self.session
        while True:
            time.sleep(0.005)
            session.execute(sa.select(Entry))


class Calling(Patient):
    """Calls nested operations, which detect the cancellation."""

    def go_on(self) -> None:
        while True:
            time.sleep(0.005)
            Glance().call()


class Glance(Operation):
    record = False

    def perform(self) -> None:
        self.check_cancelled()


class Deaf(Patient):
    """Catches every Exception."""

    def go_on(self) -> None:
        try:
            while True:
                time.sleep(0.005)
                self.check_cancelled()
        except BaseException as error:
            notes.append(type(error))


class Awaiting(Operation):
    async def perform(self) -> None:
        sign("running").set()
        try:
            await asyncio.sleep(LONG_S)
        finally:
            notes.append("tidied up")


class DeafAwaiting(Operation):
    async def perform(self) -> str:
        sign("running").set()
        try:
            await asyncio.sleep(LONG_S)
        except asyncio.CancelledError:
            notes.append("tidied up")
        return "as if nothing had been"


class Untouched(Operation):
    """Uses no session, so it has not begun a transaction when it is cancelled."""

    def perform(self) -> None:
        sign("running").set()
        wait_for("go on")


class InParts(Operation):
    transaction = False

    def perform(self) -> None:
        with self.transaction() as session:
            session.add(Entry(text="first part"))
        sign("running").set()
        while True:
            time.sleep(0.005)
            with self.transaction() as session:
                session.execute(sa.select(Entry))


class Crashing(Operation):
    """Crashes on request; its rule would retry it."""

    retry_on = (Retry(ConnectionError, attempts=5, wait=0),)

    def perform(self) -> None:
        notes.append("ran")
        sign("running").set()
        wait_for("go on")
        raise ConnectionError("down")


class Waiting(Operation):
    """Has a long wait between its attempts."""

    retry_on = (Retry(ConnectionError, attempts=5, wait=3600, jitter=0),)

    def perform(self) -> None:
        notes.append("ran")
        raise ConnectionError("down")


@pytest.mark.parametrize("operation", [Asking, Querying, QueryingAsBefore, Calling, Deaf])
def test_a_running_run_sees_its_cancellation(shop: Shop, worker: dramatiq.Worker, operation: type[Operation]) -> None:
    ticket = operation().async_().call()
    wait_for("running")

    assert ticket.cancel() is ticket
    assert ticket.running, "the run has not ended yet"

    assert ended(ticket) == ("cancelled", "cancelled")
    assert notes == [*([Cancelled] if operation is Deaf else []), "tidied up"]
    assert lines(shop) == []
    assert failures(shop.isolated_runtime, ticket) == ["cancelled"]
    with pytest.raises(OperationFailed) as caught:
        ticket.result(1)
    assert caught.value.failure == "cancelled"


@pytest.mark.parametrize("operation", [Awaiting, DeafAwaiting])
def test_a_coroutine_sees_its_cancellation_at_its_next_await(
    shop: Shop, worker: dramatiq.Worker, operation: type[Operation]
) -> None:
    ticket = operation().async_().call()
    wait_for("running")

    ticket.cancel()

    assert ended(ticket) == ("cancelled", "cancelled")
    assert notes == ["tidied up"]


def test_a_run_that_never_checks_sees_its_cancellation_at_its_commit(shop: Shop, worker: dramatiq.Worker) -> None:
    ticket = Untouched().async_().call()
    wait_for("running")
    ticket.cancel()
    (run,) = shop.isolated_runtime.runtime.services.watchdog.runs
    eventually(lambda: run.cancel_token.is_cancelled, "the run receives the cancellation")

    sign("go on").set()

    assert ended(ticket) == ("cancelled", "cancelled")


def test_a_run_without_a_transaction_sees_its_cancellation_at_its_next_transaction(
    shop: Shop, worker: dramatiq.Worker
) -> None:
    ticket = InParts().async_().call()
    wait_for("running")

    ticket.cancel()

    assert ended(ticket) == ("cancelled", "cancelled")
    assert lines(shop) == ["first part"], "writes committed before are kept"


def test_a_run_that_is_cancelled_is_not_run_again(shop: Shop, worker: dramatiq.Worker) -> None:
    ticket = Crashing().async_().call()
    wait_for("running")

    ticket.cancel()
    sign("go on").set()

    assert ended(ticket) == ("cancelled", "cancelled")
    assert notes == ["ran"]
    eventually(lambda: not messages(shop.isolated_runtime), "the message is acknowledged")


def test_a_run_is_cancelled_between_its_attempts(shop: Shop, worker: dramatiq.Worker) -> None:
    ticket = Waiting().async_().call()
    eventually(
        lambda: ticket.reload().pending and failures(shop.isolated_runtime, ticket), "the first attempt has failed"
    )

    ticket.cancel()

    assert (ticket.status, ticket.failure) == ("cancelled", "cancelled")
    shop.isolated_runtime.advance(3700)
    eventually(lambda: not messages(shop.isolated_runtime), "the message of the retry is acknowledged")
    assert notes == ["ran"]


def test_a_pending_run_is_cancelled_at_once(isolated_runtime: Isolated) -> None:
    ticket = Waiting().async_().call()

    ticket.cancel()

    assert (ticket.status, ticket.failure) == ("cancelled", "cancelled")
    assert row(isolated_runtime, ticket.id)["completed_at"] is not None
    assert [each.status for each in isolated_runtime.run_pending()] == ["cancelled"]
    assert notes == []


def test_a_run_that_has_ended_cannot_be_cancelled(isolated_runtime: Isolated) -> None:
    ticket = Glance().async_().call()
    with pytest.raises(NotRecorded):
        ticket.cancel()
    done = Recorded().async_().call()
    isolated_runtime.run_pending()
    before = row(isolated_runtime, done.id)

    with pytest.raises(InvalidTransition, match="cannot cancel a run that is done"):
        done.cancel()

    assert row(isolated_runtime, done.id) == before
    assert sql(isolated_runtime, "SELECT * FROM operation_signals") == []


class Recorded(Operation):
    def perform(self) -> None:
        self.check_cancelled()
        notes.append("ran")


def test_a_retry_deletes_the_cancellation_of_a_run(shop: Shop, worker: dramatiq.Worker) -> None:
    ticket = Asking().async_().call()
    wait_for("running")
    ticket.cancel()
    ended(ticket)
    sign("running").clear()

    ticket.retry()

    wait_for("running")
    sleep_in_slices(watchdog.CHECK_EVERY_S * 3)
    assert ticket.reload().running
    ticket.cancel()
    ended(ticket)


def test_a_run_that_is_cancelled_while_its_worker_stops_is_not_run_again(shop: Shop) -> None:
    with serving(shop.isolated_runtime, threads=1) as worker:
        ticket = Untouched().async_().call()
        wait_for("running")
        ticket.cancel()
        worker.stop(timeout=100)

        assert ended(ticket) == ("cancelled", "cancelled")
        assert failures(shop.isolated_runtime, ticket) == ["cancelled"]


class FailUnaware(Operation):
    """Does not detect its cancellation, and fails with an error that a rule retries."""

    retry_on = (Retry(ValueError, attempts=3, wait=3600),)

    def perform(self) -> None:
        Ticket.get(self.run_id).cancel()
        raise ValueError


def test_a_run_that_fails_before_it_sees_its_cancellation_does_not_wait_for_another_attempt(shop: Shop) -> None:
    ticket = FailUnaware().async_().call()

    shop.isolated_runtime.run_pending()

    assert (ticket.reload().status, ticket.failure) == ("cancelled", "cancelled")


class PerformAnother(Operation):
    """Performs a pending record, and continues after it."""

    other: str

    def perform(self) -> None:
        notes.append(Ticket.get(self.other).perform())
        sign("running").set()
        while not sign("over").wait(0.005):
            self.check_cancelled()


@pytest.fixture
def performing(shop: Shop) -> Generator[tuple[dramatiq.Worker, Ticket[None]]]:
    """A worker with one thread, and a run on it that has just performed another record."""
    # The queue is not served by the worker, so that the record stays pending until it is performed.
    other = Note(text="by hand").async_(queue="elsewhere").call()
    with serving(shop.isolated_runtime, threads=1, queues={"default"}) as worker:
        ticket = PerformAnother(other=other.id).async_().call()
        wait_for("running")
        assert (other.reload().status, notes) == ("done", ["by hand", True])
        yield worker, ticket


def test_a_run_that_has_performed_another_one_can_still_be_cancelled(
    performing: tuple[dramatiq.Worker, Ticket[None]],
) -> None:
    _, ticket = performing

    ticket.cancel()

    assert ended(ticket) == ("cancelled", "cancelled")


def test_a_run_that_has_performed_another_one_is_released_when_its_worker_stops(
    shop: Shop, performing: tuple[dramatiq.Worker, Ticket[None]]
) -> None:
    worker, ticket = performing

    worker.stop(timeout=100)

    stored = row(shop.isolated_runtime, ticket.id)
    assert (stored["status"], stored["num_attempts"]) == ("pending", 0)


def test_a_cancellation_that_an_attempt_missed_ends_the_next_one(shop: Shop) -> None:
    ticket = Recorded().async_().call()
    with shop.isolated_runtime.runtime.store.begin() as connection:
        connection.execute(sa.text("UPDATE operation_records SET claim_token = 1"))
        connection.execute(
            sa.text("INSERT INTO operation_signals (record_id, cancel_requested_at) VALUES (:id, '2026-01-01')"),
            {"id": ticket.id},
        )

    shop.isolated_runtime.run_pending()

    assert ended(ticket) == ("cancelled", "cancelled")
    assert notes == []


def test_a_cancellation_between_attempts_survives_the_cleanup(isolated_runtime: Isolated) -> None:
    waits, over = Recorded().async_().call(), Recorded().async_().call().cancel()
    with isolated_runtime.runtime.store.begin() as connection:
        for ticket in (waits, over):
            run_signals.request_cancel(connection, ticket.id)

    with isolated_runtime.runtime.store.begin() as connection:
        assert run_signals.delete_ended_requests(connection) == 1
        assert run_signals.cancelled_among(connection, [waits.id, over.id]) == {waits.id}


def test_check_cancelled_does_nothing_in_a_call_in_place_and_raises_outside_of_a_run(
    isolated_runtime: Isolated,
) -> None:
    Recorded().call()
    assert notes == ["ran"]

    with pytest.raises(NotRunning, match="check_cancelled"):
        Recorded().check_cancelled()


# ---------------------------------------------------------------------------------------------------- expires_in


class Note(Operation):
    text: str = "noted"

    def perform(self) -> None:
        notes.append(self.text)


class Fleeting(Note):
    async_ = Async(expires_in=timedelta(minutes=1))


class Tenacious(Note):
    """Fails the first time."""

    retry_on = (Retry(ConnectionError, wait=120, jitter=0),)

    def perform(self) -> None:
        super().perform()
        if len(notes) == 1:
            raise ConnectionError("down")


class Direct(Note):
    record = False


class DirectFleeting(Fleeting):
    """Inherits an expiry that an unrecorded class cannot have."""

    record = False


def relay(isolated_runtime: Isolated) -> Relay:
    """Return a relay that a test runs itself."""
    heartbeat = isolated_runtime.runtime.services.heartbeat
    assert heartbeat is not None
    return Relay(isolated_runtime.runtime.dispatcher, heartbeat, isolated_runtime.runtime.intervals)


def test_a_message_that_another_broker_refused_is_published_by_the_sql_broker(
    isolated_runtime: Isolated,
) -> None:
    ticket = Note().async_().call()
    # As if the enqueuing process was configured with an unreachable broker.
    with isolated_runtime.runtime.store.begin() as connection:
        connection.execute(sa.text("UPDATE operation_records SET enqueued_at = NULL, scheduled_at = created_at"))
        connection.execute(sa.text("DELETE FROM dexpy_messages"))
    assert isolated_runtime.run_pending() == []

    assert relay(isolated_runtime).run_once()
    assert relay(isolated_runtime).run_once()

    assert [run.id for run in isolated_runtime.run_pending()] == [ticket.id]
    assert ticket.reload().done


def test_a_message_counts_as_missing_from_the_due_time_of_its_record(isolated_runtime: Isolated) -> None:
    """A burst worker waits for unpublished messages, and must not wait for scheduled ones."""
    Note().async_(in_=60).call()
    with isolated_runtime.runtime.store.begin() as connection:
        connection.execute(sa.text("UPDATE operation_records SET enqueued_at = NULL"))
    assert not isolated_runtime.runtime.store.has_unpublished(None)

    isolated_runtime.advance(61)

    assert isolated_runtime.runtime.store.has_unpublished(None)
    assert isolated_runtime.runtime.store.has_unpublished(["default"])
    assert not isolated_runtime.runtime.store.has_unpublished(["other"])


@pytest.mark.parametrize(
    "send",
    [
        lambda: Note().async_(expires_in=60).call(),
        lambda: Note().async_(expires_in=timedelta(minutes=1)).call(),
        lambda: Fleeting().async_().call(),
        lambda: Fleeting().async_(queue="mailers", in_=30).call(),
        lambda: Fleeting().async_(expires_in=10, in_=5).call(),
    ],
    ids=["in seconds", "as a timedelta", "declared", "declared, and sent later", "declared otherwise"],
)
def test_the_relay_expires_runs_that_no_worker_has_started_in_time(
    isolated_runtime: Isolated, send: Callable[[], Any]
) -> None:
    ticket = send()
    assert relay(isolated_runtime).run_once()
    assert ticket.reload().pending

    isolated_runtime.advance(61)
    assert relay(isolated_runtime).run_once()

    assert (ticket.reload().status, ticket.failure) == ("expired", "expired")
    stored = row(isolated_runtime, ticket.id)
    assert stored["completed_at"] is not None
    assert stored["error_message"] == "Expired before it was started."
    with pytest.raises(OperationFailed) as caught:
        ticket.result(1)
    assert caught.value.failure == "expired"
    assert [each.status for each in isolated_runtime.run_pending()] == ["expired"]
    assert notes == []


def test_a_run_that_is_started_in_time_runs(isolated_runtime: Isolated) -> None:
    ticket = Fleeting().async_(in_=50).call()

    isolated_runtime.advance(55)
    isolated_runtime.run_pending()

    assert ticket.reload().done


def test_a_message_after_the_expiry_expires_its_run_and_is_acknowledged(isolated_runtime: Isolated) -> None:
    late, other = Fleeting().async_().call(), Note().async_().call()
    isolated_runtime.advance(61)

    runs = isolated_runtime.run_pending()

    assert [each.id for each in runs] == [late.id, other.id], "each message is delivered once"
    assert (late.reload().status, late.failure, other.reload().status) == ("expired", "expired", "done")
    assert notes == ["noted"]
    assert messages(isolated_runtime) == []
    assert attempts(isolated_runtime, late.id) == []


def test_an_attempt_after_the_expiry_is_not_started(isolated_runtime: Isolated) -> None:
    ticket = Tenacious().async_(expires_in=60).call()
    isolated_runtime.run_pending()
    assert ticket.reload().pending

    isolated_runtime.advance(121)
    isolated_runtime.run_pending()

    assert (ticket.reload().status, ticket.failure) == ("expired", "expired")
    assert failures(isolated_runtime, ticket) == ["crash"]
    assert notes == ["noted"]


def test_an_expired_run_can_be_retried(isolated_runtime: Isolated) -> None:
    ticket = Fleeting().async_().call()
    isolated_runtime.advance(61)
    isolated_runtime.run_pending()

    ticket.retry()
    isolated_runtime.advance(3600)
    isolated_runtime.run_pending()

    assert ticket.reload().done


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"expires_in": 0}, "more than 0"),
        ({"expires_in": timedelta(0)}, "more than 0"),
        ({"expires_in": -1}, "0 or more seconds"),
        ({"expires_in": "60"}, "seconds or a timedelta"),
        ({"expires_in": True}, "seconds or a timedelta"),
        ({"expires_in": float("nan")}, "finite delay"),
        ({"expires_in": 5, "in_": 5}, "expires_in: expected more than the delay of 5 s, got 5 s"),
        ({"expires_in": 5, "in_": timedelta(hours=1)}, "expected more than the delay of 3600 s, got 5 s"),
    ],
)
def test_an_invalid_expiry_is_refused_at_the_call(
    isolated_runtime: Isolated, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(OptionsError, match=expected):
        Note().async_(**options).call()
    assert rows(isolated_runtime) == []


def test_a_declared_delay_and_a_shorter_expiry_of_the_call_are_refused(isolated_runtime: Isolated) -> None:
    with pytest.raises(
        OptionsError, match="Fleeting.async_: expires_in: expected more than the delay of 61 s, got 60 s"
    ):
        Fleeting().async_(in_=61).call()
    with pytest.raises(DeclarationError, match="Wrong.async_: expires_in=0"):
        type("Wrong", (Operation,), {"async_": Async(expires_in=0), "perform": lambda self: None})


def test_a_direct_run_cannot_expire_and_is_refused_at_the_call(isolated_runtime: Isolated) -> None:
    with pytest.raises(OptionsError, match="Direct.async_: expires_in requires a record.*Leave it out"):
        Direct().async_(expires_in=60).call()
    assert messages(isolated_runtime) == []

    DirectFleeting().async_().call()
    isolated_runtime.advance(61)
    isolated_runtime.run_pending()
    assert notes == ["noted"], "the expiry of the base class does not apply"


def test_without_a_database_a_declared_expiry_is_refused(isolated_runtime: Isolated) -> None:
    from dramatiq.brokers.stub import StubBroker

    runtime = dexpy.configure(broker=StubBroker())
    try:
        assert not runtime.is_recording
        with pytest.raises(OptionsError, match="turn recording on"):
            Fleeting().async_().call()
    finally:
        runtime.close()


# ----------------------------------------------------------------------------------------------------- max_lost


class NeverAgain(Note):
    max_lost = 0


class LostFiveTimes(Note):
    max_lost = 5


class LostByRule(Note):
    retry_on = (Retry(WorkerLost, attempts=7),)


class LostForEver(Note):
    retry_on = (Retry(WorkerLost, attempts=None),)


class LostAndDiscarded(Note):
    discard_on = (WorkerLost,)


class LostWithWideRule(Note):
    retry_on = (Retry(Exception, attempts=9),)


class LostLikeItsBase(LostFiveTimes):
    async_ = Async(queue="mailers")


@pytest.mark.parametrize(
    ("operation", "limit"),
    [
        (Note, 4),
        (NeverAgain, 1),
        (LostFiveTimes, 6),
        (LostByRule, 7),
        (LostForEver, 2**31 - 1),
        (LostAndDiscarded, 1),
        (LostWithWideRule, 4),
        (LostLikeItsBase, 6),
    ],
)
def test_a_record_stores_how_many_workers_it_may_lose(
    isolated_runtime: Isolated, operation: type[Note], limit: int
) -> None:
    ticket = operation().async_().call()

    assert row(isolated_runtime, ticket.id)["loss_limit"] == limit
    assert row(isolated_runtime, ticket.id)["num_lost"] == 0


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"max_lost": -1}, "max_lost: expected an int of at least 0, got -1"),
        ({"max_lost": 2**31}, "max_lost: expected an int of at least 0, got 2147483648"),
        ({"max_lost": True}, "max_lost: expected .*, got True"),
        ({"max_lost": 2.0}, "max_lost: expected .*, got 2.0"),
        ({"max_lost": "3"}, "max_lost: expected .*, got '3'"),
    ],
)
def test_an_invalid_policy_for_lost_workers_is_refused(declared: dict[str, Any], expected: str) -> None:
    with pytest.raises(DeclarationError, match=f"Wrong.{expected}"):
        type("Wrong", (Operation,), {**declared, "perform": lambda self: None})


@pytest.mark.parametrize("record", [False, Recording(params=False)], ids=["no record", "no params"])
@pytest.mark.parametrize(
    ("declared", "named"),
    [
        ({"max_lost": 3}, "max_lost"),
        ({"async_": Async(expires_in=60)}, "async_ with expires_in"),
    ],
    ids=["max_lost", "expires_in"],
)
def test_an_unrecorded_class_that_declares_what_needs_a_record_is_refused(
    record: Any, declared: dict[str, Any], named: str
) -> None:
    with pytest.raises(DeclarationError, match=f"Wrong: {named} requires a record.*Remove one of them"):
        type("Wrong", (Operation,), {**declared, "record": record, "perform": lambda self: None})


def test_an_unrecorded_class_may_have_a_base_that_declares_it(isolated_runtime: Isolated) -> None:
    class Common(Operation):
        max_lost = 2
        async_ = Async(expires_in=60, queue="mailers")

        def perform(self) -> None: ...

    class Bare(Common):
        record = False
        timeout = 5

    assert Bare.contract.options == dexpy.Operation.async_.merged_over(Async(queue="mailers"))
    assert Bare.contract.timeout_s == 5


# ------------------------------------------------------------------------------------------ interrupts of Dramatiq


class Interrupted(Operation):
    """Raises an interrupt in its first attempt, as middleware of an application raises it in threads."""

    kind: str
    retry_on = (Retry(Exception, attempts=5, wait=0),)

    def perform(self) -> None:
        notes.append(self.kind)
        self.session.add(Entry(text="interrupted"))
        if len(notes) == 1:
            raise {"limit": TimeLimitExceeded, "shutdown": Shutdown}[self.kind]()


class InterruptedDirectly(Interrupted):
    record = Recording(params=False)


def test_a_time_limit_of_dramatiq_ends_a_run_as_a_timeout(shop: Shop) -> None:
    ticket = Interrupted(kind="limit").async_().call()

    with pytest.raises(TimeLimitExceeded):
        shop.isolated_runtime.run_pending()

    assert ended(ticket) == ("failed", "timeout")
    assert failures(shop.isolated_runtime, ticket) == ["timeout"]
    assert lines(shop) == []


def test_a_shutdown_of_dramatiq_releases_a_run(shop: Shop) -> None:
    ticket = Interrupted(kind="shutdown").async_().call()

    with pytest.raises(Shutdown):
        shop.isolated_runtime.run_pending()

    stored = row(shop.isolated_runtime, ticket.id)
    assert (stored["status"], stored["num_attempts"], stored["claimed_by"]) == ("pending", 0, None)
    assert (lines(shop), attempts(shop.isolated_runtime, ticket.id)) == ([], [])
    shop.isolated_runtime.run_pending()
    assert ended(ticket) == ("done", None)
    assert lines(shop) == ["interrupted"]


def test_a_direct_run_is_ended_by_a_time_limit_and_republished_at_a_shutdown(shop: Shop) -> None:
    InterruptedDirectly(kind="limit").async_().call()
    with pytest.raises(TimeLimitExceeded):
        shop.isolated_runtime.run_pending()
    (stored,) = rows(shop.isolated_runtime)
    assert (stored["status"], stored["failure"]) == ("failed", "timeout")

    notes.clear()
    ticket = InterruptedDirectly(kind="shutdown").async_().call()
    with pytest.raises(Shutdown):
        shop.isolated_runtime.run_pending()
    assert len(rows(shop.isolated_runtime)) == 1
    shop.isolated_runtime.run_pending()
    assert row(shop.isolated_runtime, ticket.id)["status"] == "done"


# --------------------------------------------------------------------------------------- ends before a cancellation


class Refusing(Operation):
    """Ends with a business error before it detects its cancellation; the error is stored."""

    def perform(self) -> None:
        sign("running").set()
        wait_for("go on")
        raise Error("no_balance")


def test_a_run_that_ends_before_it_sees_its_cancellation_keeps_its_end(shop: Shop, worker: dramatiq.Worker) -> None:
    ticket = Refusing().async_().call()
    wait_for("running")

    ticket.cancel()
    sign("go on").set()

    assert ended(ticket) == ("failed", "business")
    assert ticket.wait(1) == Err("no_balance", "no_balance")


def test_a_cancelled_run_delays_no_other(shop: Shop, worker: dramatiq.Worker) -> None:
    cancelled = Asking().async_().call()
    wait_for("running")
    cancelled.cancel()
    ended(cancelled)

    assert Note(text="next").async_().call().wait(WAIT_S) == Ok(None)
