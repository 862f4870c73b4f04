"""Runs in real workers that end by a timeout, a cancellation, an expiry or the death of their worker."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from apps import accounts as application
from apps.accounts import Increment
from apps.accounts_timeouts import (
    CancellableAsyncReport,
    CancellableReport,
    ExpiringReport,
    KillWorkerOnce,
    KillWorkerWithoutRetry,
    ReportThatIgnoresCancellation,
    SlowAsyncReport,
    SlowFirstReport,
    SlowReport,
    TimedOperation,
    UninterruptibleReport,
)
from harness.workers import HARNESS, Deployment, Worker, eventually, is_alive

import dexpy
from dexpy import OperationFailed, records
from dexpy.runtime import install

WAIT_S = 30.0
HARD_AFTER_S = 2.0
RECOVER_WITHIN_S = 5


def start(deployment: Deployment, *arguments: str) -> Worker:
    """Start a worker that soon fails runs that it cannot interrupt."""
    script = [
        sys.executable,
        str(HARNESS / "short_hard_timeout.py"),
        str(HARD_AFTER_S),
        "worker",
        "apps.accounts_timeouts",
        "-p",
        "1",
    ]
    worker = deployment.serve([*script, *arguments])
    worker.await_started(1)
    return worker


@pytest.fixture(scope="module")
def served_deployment(tmp_path_factory: pytest.TempPathFactory) -> Generator[Deployment]:
    deployment = Deployment(tmp_path_factory.mktemp("shop"))
    (deployment.folder / "pyproject.toml").write_text(f'[tool.dexpy]\nrecover_within = "{RECOVER_WITHIN_S}s"\n')
    engine = sa.create_engine(deployment.url)
    application.create_tables(engine)
    engine.dispose()
    # Not the queue `promises`: the runs on it must expire.
    start(deployment, "-Q", "default", "-t", "4")
    yield deployment
    deployment.close()


@pytest.fixture
def deployment(served_deployment: Deployment) -> Generator[Deployment]:
    """Yield the deployment with its worker, with its database configured for one test."""
    runtime = dexpy.configure(database=served_deployment.url)
    yield served_deployment
    install(None)
    runtime.close()


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    return tmp_path / "diary"


def diary_lines(diary: Path) -> list[str]:
    return diary.read_text().splitlines() if diary.exists() else []


def failures(id: str) -> list[str | None]:
    """Return the failures of the attempts of a run, in order."""
    return [attempt.failure for attempt in records.attempts(id)]


def ended(deployment: Deployment, id: str) -> dict[str, Any]:
    return deployment.wait_for_status(id, "done", "failed", "expired", "cancelled", within_s=WAIT_S)


def outcome_of(row: dict[str, Any]) -> tuple[str, str | None]:
    return row["status"], row["failure"]


# --------------------------------------------------------------------------------------------------- time limits


@pytest.mark.parametrize("operation", [SlowReport, SlowAsyncReport])
def test_a_run_that_times_out_cleans_up_and_fails(
    deployment: Deployment, diary: Path, operation: type[TimedOperation]
) -> None:
    ticket = operation(diary=str(diary)).async_().call()

    row = ended(deployment, ticket.id)

    assert outcome_of(row) == ("failed", "timeout")
    assert row["error"] == "dexpy.errors.TimedOut"
    assert diary_lines(diary) == ["cleaned up"]
    assert failures(ticket.id) == ["timeout"]
    assert deployment.effects("timed out") == []


def test_a_rule_for_timed_out_gives_the_run_another_attempt(deployment: Deployment, diary: Path) -> None:
    ticket = SlowFirstReport(diary=str(diary)).async_().call()

    assert ticket.result(WAIT_S) == 2
    assert failures(ticket.id) == ["timeout", None]
    assert deployment.effects("in time") == ["in time"]


def test_a_run_that_cannot_be_interrupted_is_failed_and_others_continue(deployment: Deployment, diary: Path) -> None:
    (worker,) = deployment.workers
    began = time.monotonic()
    ticket = UninterruptibleReport(diary=str(diary)).async_().call()

    row = ended(deployment, ticket.id)

    assert outcome_of(row) == ("failed", "timeout")
    assert diary_lines(diary) == ["stuck"]
    assert time.monotonic() - began >= UninterruptibleReport.timeout + HARD_AFTER_S
    (noted,) = worker.lines("run.stuck")
    assert ticket.id in noted
    assert Increment(number=1).async_().call().wait(WAIT_S)
    assert all(is_alive(pid) for pid in worker.children())


def test_a_worker_whose_threads_are_all_stuck_is_replaced(deployment: Deployment, diary: Path) -> None:
    worker = start(deployment, "-Q", "narrow", "-t", "2")
    (first,) = worker.children()
    stuck = [UninterruptibleReport(diary=str(diary)).async_(queue="narrow").call() for _ in range(2)]
    waiting = Increment(number=2).async_(queue="narrow").call()
    try:
        assert waiting.wait(WAIT_S), worker.output()
        assert [outcome_of(ended(deployment, ticket.id)) for ticket in stuck] == [("failed", "timeout")] * 2
        assert deployment.row(waiting.id)["num_attempts"] == 1
        assert len(worker.lines("worker.stuck")) == 1
        assert [is_alive(pid) for pid in worker.children()] == [False, True]
        assert worker.children()[0] == first
    finally:
        worker.stop()


# --------------------------------------------------------------------------------------------------------- cancellation


@pytest.mark.parametrize("operation", [CancellableReport, CancellableAsyncReport, ReportThatIgnoresCancellation])
def test_a_run_is_cancelled_from_another_process(
    deployment: Deployment, diary: Path, operation: type[TimedOperation]
) -> None:
    ticket = operation(diary=str(diary)).async_().call()
    eventually(lambda: diary_lines(diary) == ["running"], "it runs", WAIT_S, deployment.output)

    cancelled = deployment.run([sys.executable, "-c", f"import dexpy; dexpy.Ticket.get({ticket.id!r}).cancel()"])

    assert cancelled.returncode == 0, cancelled.stderr
    assert outcome_of(ended(deployment, ticket.id)) == ("cancelled", "cancelled")
    assert diary_lines(diary) == [
        "running",
        "ignored cancellation" if operation is ReportThatIgnoresCancellation else "cleaned up",
    ]
    assert failures(ticket.id) == ["cancelled"]
    with pytest.raises(OperationFailed, match="cancelled"):
        ticket.result(1)


# -------------------------------------------------------------------------------------------------------- expired


def test_a_run_that_no_worker_started_in_time_is_expired_by_a_worker_of_another_queue(
    deployment: Deployment, diary: Path
) -> None:
    ticket = ExpiringReport(diary=str(diary)).async_().call()
    assert ticket.pending

    assert outcome_of(ended(deployment, ticket.id)) == ("expired", "expired")

    worker = start(deployment, "-Q", "promises", "-t", "1")
    in_time = ExpiringReport(diary=str(diary)).async_(expires_in=60).call()
    deployment.wait_for_status(in_time.id, "done", within_s=WAIT_S)
    query = "SELECT 1 FROM dexpy_messages WHERE queue = 'promises'"
    eventually(
        lambda: not deployment.sql(query), "the message of the expired run is acknowledged", WAIT_S, deployment.output
    )
    assert diary_lines(diary) == ["ran"], "only the run that started in time"
    worker.stop()


# ---------------------------------------------------------------------------------------------- the worker is lost


@pytest.mark.parametrize(
    ("operation", "ending", "attempts"),
    [(KillWorkerOnce, ("done", None), ["lost", None]), (KillWorkerWithoutRetry, ("failed", "lost"), ["lost"])],
)
def test_a_run_whose_worker_dies_ends_by_the_policy_of_its_class(
    deployment: Deployment,
    diary: Path,
    operation: type[TimedOperation],
    ending: tuple[str, str | None],
    attempts: list[str | None],
) -> None:
    ticket = operation(diary=str(diary)).async_().call()

    assert outcome_of(ended(deployment, ticket.id)) == ending

    assert failures(ticket.id) == attempts
    assert len(diary_lines(diary)) == len(attempts)
    survived = deployment.sql("SELECT what FROM effects WHERE run = ?", ticket.id)
    assert [row["what"] for row in survived] == ["survived"] * (ending[0] == "done")
