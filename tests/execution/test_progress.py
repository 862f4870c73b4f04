"""The progress of a run: visible while it runs, written at intervals, without blocking the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from apps import shop_steps
from apps.shop_steps import Line

import dexpy
from dexpy import Operation, Retry, Ticket, prop, records
from dexpy.database.tables import signals as signals_table
from dexpy.errors import InvalidTransition, OptionsError
from dexpy.execution.durable import progress, progress_writer
from dexpy.recording import run_signals
from dexpy.recording.progress import Progress
from dexpy.recording.transitions import apply
from dexpy.testing import Isolated

observed: list[Any] = []
"""The progress that another session read while the run was running."""


@pytest.fixture(autouse=True)
def tables(engine: sa.Engine) -> None:
    shop_steps.create_tables(engine)
    observed.clear()


@pytest.fixture(autouse=True)
def no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set an interval that no test exceeds, even on a slow machine."""
    monkeypatch.setattr(progress_writer, "WRITE_EVERY_S", 3600.0)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list of the written progress, in order."""
    collected: list[Any] = []
    original = run_signals.write_progress

    def keeping(connection: Any, record_id: str, token: int, progress_reports: Any) -> None:
        collected.append(progress_reports["done"])
        original(connection, record_id, token, progress_reports)

    monkeypatch.setattr(run_signals, "write_progress", keeping)
    return collected


def observe(run_id: str) -> None:
    """Record the progress of a run as another session reads it."""
    progress = Ticket.get(run_id).progress
    observed.append(None if progress is None else progress.done)


class Count(Operation):
    """Reports each number as progress, and reads it in another session."""

    upto: int
    writes: bool = False

    def perform(self) -> int:
        for number in range(1, self.upto + 1):
            if self.writes:
                self.session.add(Line(what=f"number {number}", attempt=""))
                self.session.flush()
            self.report_progress(number, self.upto, f"number {number}")
            observe(self.run_id)
        return self.upto


def test_the_first_progress_is_stored_at_once_and_the_last_one_stays(
    isolated_runtime: Isolated, writes: list[Any]
) -> None:
    ticket = Count(upto=50).async_().call()
    assert ticket.progress is None
    isolated_runtime.run_pending()

    assert observed == [1] * 50
    assert writes == [1, 50]
    progress = ticket.reload().progress
    assert progress is not None
    assert (progress.done, progress.total, progress.note, progress.fraction) == (50, 50, "number 50", 1.0)
    assert abs(progress.at - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert ticket.done


def test_progress_is_written_again_after_an_interval(
    isolated_runtime: Isolated, writes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_writer, "WRITE_EVERY_S", 0.0)
    Count(upto=3).async_().call()
    isolated_runtime.run_pending()

    assert (observed, writes) == ([1, 2, 3], [1, 2, 3])


def test_a_run_that_holds_sqlites_write_lock_does_not_wait_for_itself(
    isolated_runtime: Isolated, writes: list[Any], engine: sa.Engine
) -> None:
    began = time.monotonic()
    ticket = Count(upto=3, writes=True).async_().call()
    isolated_runtime.run_pending()

    assert time.monotonic() - began < 10
    # On SQLite it is written with the commit, so no other session reads it before.
    assert observed == ([None] * 3 if engine.dialect.name == "sqlite" else [1] * 3)
    assert ticket.reload().progress == Progress(3, 3, "number 3", ticket.progress.at)  # type: ignore[union-attr]
    assert writes[-1] == 3


class Fail(Operation):
    retry_on = (Retry(ConnectionError, attempts=2, wait=60),)

    def perform(self) -> None:
        self.session.add(Line(what="rolled back", attempt=""))
        self.session.flush()
        self.report_progress(1, 10)
        self.report_progress(2, 10)
        raise ConnectionError


def test_a_run_that_fails_keeps_its_last_progress_and_retry_deletes_it(isolated_runtime: Isolated) -> None:
    ticket = Fail().async_().call()
    isolated_runtime.run_pending()
    assert ticket.reload().pending
    assert ticket.progress is not None
    assert (ticket.progress.done, ticket.progress.fraction) == (2, 0.2)

    isolated_runtime.advance(61)
    ticket.reschedule(at=datetime(2020, 1, 1, tzinfo=timezone.utc))
    isolated_runtime.run_pending()
    assert ticket.reload().failed
    assert ticket.progress is not None

    assert ticket.retry().progress is None
    assert ticket.reload().progress is None


class Stepwise(Operation):
    def perform(self) -> None:
        self.step(self.first)
        observe(self.run_id)
        for number in self.each("numbers", [2, 3]):
            self.session.add(Line(what=f"number {number}", attempt=""))
            self.session.flush()
            self.report_progress(number)

    def first(self) -> None:
        self.session.add(Line(what="first", attempt=""))
        self.session.flush()
        self.report_progress(0)
        self.report_progress(1, note="the last of the step")


def test_the_last_progress_is_written_before_the_end_of_a_step(isolated_runtime: Isolated) -> None:
    ticket = Stepwise().async_().call()
    isolated_runtime.run_pending()

    assert observed == [1]
    assert ticket.reload().progress is not None
    assert ticket.progress is not None
    assert (ticket.progress.done, ticket.progress.total, ticket.progress.fraction) == (3, None, None)


class Coroutine(Operation):
    async def perform(self) -> None:
        self.report_progress(1, 2)
        await self.in_session(lambda _: observe(self.run_id))
        self.report_progress(2, 2)


def test_a_coroutine_reports_progress_without_waiting(isolated_runtime: Isolated) -> None:
    ticket = Coroutine().async_().call()
    isolated_runtime.run_pending()

    assert observed == [1]
    assert ticket.reload().progress is not None


class Secretive(Operation):
    code: str = prop(sensitive=True)

    def perform(self) -> None:
        self.report_progress(1, note=f"working on {self.code} " + "x" * 2000)


def test_notes_are_redacted_and_shortened(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    ticket = Secretive(code="hunter2hunter2").async_().call()
    isolated_runtime.run_pending()

    note = ticket.reload().progress.note  # type: ignore[union-attr]
    assert note is not None
    assert note.startswith("working on <sensitive>")
    assert len(note) == progress.MAX_NOTE_LENGTH
    with engine.connect() as connection:
        assert "hunter2" not in str(connection.execute(sa.select(signals_table)).all())


def test_progress_that_cannot_be_written_does_not_fail_the_run(
    isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> None:
        raise ConnectionError("gone")

    monkeypatch.setattr(run_signals, "write_progress", fails)
    ticket = Count(upto=2).async_().call()
    isolated_runtime.run_pending()

    assert ticket.result(1) == 2
    assert "progress.not_written" in caplog.text


def test_a_worker_that_lost_its_claim_writes_no_progress(isolated_runtime: Isolated) -> None:
    ticket = Count(upto=1).async_().call()
    isolated_runtime.run_pending()
    row = isolated_runtime.runtime.store.row(ticket.id)
    with isolated_runtime.runtime.store.begin() as connection:
        run_signals.write_progress(connection, row.id, row.claim_token - 1, {"done": 99})
        run_signals.write_progress(connection, row.id, row.claim_token, {"done": 98})

    assert ticket.reload().progress.done == 1  # type: ignore[union-attr]


def test_a_worker_whose_run_was_recovered_writes_no_progress_for_its_successor(isolated_runtime: Isolated) -> None:
    progress_reports = sa.select(signals_table.c.progress)
    ticket = Count(upto=1).async_().call()
    with isolated_runtime.runtime.store.begin() as connection:
        before = apply(connection, "claim", ticket.id, claimed_by="frozen")
    assert before is not None
    lost = {"error": None, "failure": "lost", "error_message": "lost", "error_details": None}
    with isolated_runtime.runtime.store.begin() as connection:
        apply(connection, "recover", ticket.id, claim_token=before.claim_token, wait_s=0, sent=True, **lost)
    with isolated_runtime.runtime.store.begin() as connection:
        now = apply(connection, "claim", ticket.id, claimed_by="other")
    assert now is not None

    with isolated_runtime.runtime.store.begin() as connection:
        # The run has a new claim: progress with the old token is written neither first nor later.
        run_signals.write_progress(connection, ticket.id, before.claim_token, {"done": 99})
    assert isolated_runtime.runtime.store.rows(progress_reports) == []
    with isolated_runtime.runtime.store.begin() as connection:
        run_signals.write_progress(connection, ticket.id, now.claim_token, {"done": 1})
        run_signals.write_progress(connection, ticket.id, before.claim_token, {"done": 99})

    assert [row.progress for row in isolated_runtime.runtime.store.rows(progress_reports)] == [{"done": 1}]


def test_the_last_progress_survives_the_cleanup_and_is_deleted_with_its_record(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    ticket = Count(upto=1).async_().call()
    isolated_runtime.run_pending()
    with isolated_runtime.runtime.store.begin() as connection:
        run_signals.request_cancel(connection, ticket.id)
    with isolated_runtime.runtime.store.begin() as connection:
        assert run_signals.delete_ended_requests(connection) == 1
        assert not run_signals.is_cancel_requested(connection, ticket.id)
        assert run_signals.delete_ended_requests(connection) == 0
    assert ticket.reload().progress is not None

    assert records.prune(older_than=timedelta(0)) == 1
    with engine.connect() as connection:
        assert connection.execute(sa.select(signals_table)).all() == []


def test_the_last_progress_survives_a_cancel_that_came_too_late(isolated_runtime: Isolated) -> None:
    ticket = Count(upto=1).async_().call()
    isolated_runtime.run_pending()

    with pytest.raises(InvalidTransition):
        ticket.cancel()

    assert ticket.reload().progress.done == 1  # type: ignore[union-attr]


def test_a_call_in_place_stores_no_progress(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    class Alone(Operation):
        def perform(self) -> int:
            self.report_progress(1, 2, "half")
            return 1

    assert Alone().call() == 1
    with engine.connect() as connection:
        assert connection.execute(sa.select(signals_table)).all() == []


class Odd(Operation):
    def perform(self) -> None:
        progress_reports[0](self)


progress_reports: list[Callable[[Any], None]] = []


def test_invalid_progress_is_refused(isolated_runtime: Isolated) -> None:
    refused: dict[str, Callable[[Any], None]] = {
        r"Odd\.report_progress: done: expected a number >= 0, got '1'\.": lambda op: op.report_progress("1"),
        r"done: expected a number >= 0, got True": lambda op: op.report_progress(True),
        r"done: expected a number >= 0, got -1": lambda op: op.report_progress(-1),
        r"done: expected a number >= 0, got nan": lambda op: op.report_progress(float("nan")),
        r"total: expected a number >= 0, got '2'": lambda op: op.report_progress(1, "2"),
        r"report_progress: note: expected str, got 3\.": lambda op: op.report_progress(1, 2, 3),
    }
    for message, says in refused.items():
        progress_reports[:] = [says]
        with pytest.raises(OptionsError, match=message):
            Odd().call()


def test_progress_outside_of_a_run_is_refused(isolated_runtime: Isolated) -> None:
    with pytest.raises(dexpy.errors.NotRunning, match=r"Count\.report_progress\(\): available only during a run"):
        Count(upto=1).report_progress(1)


@pytest.mark.parametrize(
    ("done", "total", "fraction"), [(1, 4, 0.25), (5, 4, 1.0), (0, 0, 1.0), (3, None, None), (0.5, 2.0, 0.25)]
)
def test_a_fraction_is_between_zero_and_one(done: float, total: float | None, fraction: float | None) -> None:
    assert Progress(done, total, None, datetime.now(timezone.utc)).fraction == fraction


def test_progress_in_an_unknown_form_is_none() -> None:
    assert [Progress.from_json(stored) for stored in (None, "x", {}, {"done": 1, "at": "x"})] == [None] * 4
