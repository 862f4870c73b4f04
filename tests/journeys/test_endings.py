"""Runs in real workers that are ended from outside: by a time limit, a person, an expiry, the death of the worker."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import shop as application
import sqlalchemy as sa
from shop import Increment
from shop_with_limits import (
    Dawdle,
    DawdleAsync,
    DawdleOnce,
    Ignore,
    KillAndEnd,
    KillOnce,
    LimitedOperation,
    Obey,
    ObeyAsync,
    Promise,
    Stick,
)
from workers import HERE, Shop, Worker, eventually, is_alive

import dexpy
from dexpy import OperationFailed, records
from dexpy.runtime import install

WAIT_S = 30.0
HARD_AFTER_S = 2.0
RESCUE_WITHIN_S = 5


def start(place: Shop, *arguments: str) -> Worker:
    """A worker that gives up soon what is stuck."""
    script = [sys.executable, str(HERE / "impatient.py"), str(HARD_AFTER_S), "worker", "shop_with_limits", "-p", "1"]
    worker = place.serve([*script, *arguments])
    worker.await_started(1)
    return worker


@pytest.fixture(scope="module")
def open_shop(tmp_path_factory: pytest.TempPathFactory) -> Generator[Shop]:
    place = Shop(tmp_path_factory.mktemp("shop"))
    (place.folder / "pyproject.toml").write_text(f"[tool.dexpy]\nrescue_within = {RESCUE_WITHIN_S}\n")
    engine = sa.create_engine(place.url)
    application.furnish(engine)
    engine.dispose()
    # Not the queue of promises: nobody is to keep those.
    start(place, "-Q", "default", "-t", "4")
    yield place
    place.close()


@pytest.fixture
def shop(open_shop: Shop) -> Generator[Shop]:
    """The shop with its worker, in force for one test."""
    runtime = dexpy.configure(database=open_shop.url)
    yield open_shop
    install(None)
    runtime.close()


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    return tmp_path / "diary"


def written(diary: Path) -> list[str]:
    return diary.read_text().splitlines() if diary.exists() else []


def failures(id: str) -> list[str | None]:
    """Of the attempts."""
    return [attempt.failure for attempt in records.attempts(id)]


def ended(shop: Shop, id: str) -> dict[str, Any]:
    return shop.becomes(id, "done", "failed", "expired", within_s=WAIT_S)


def ending_of(row: dict[str, Any]) -> tuple[str, str | None]:
    return row["status"], row["failure"]


# --------------------------------------------------------------------------------------------------- time limits


@pytest.mark.parametrize("operation", [Dawdle, DawdleAsync])
def test_a_run_that_takes_too_long_tidies_up_and_fails(
    shop: Shop, diary: Path, operation: type[LimitedOperation]
) -> None:
    ticket = operation(diary=str(diary)).async_().call()

    row = ended(shop, ticket.id)

    assert ending_of(row) == ("failed", "timeout")
    assert row["error"] == "dexpy.TimedOut"
    assert written(diary) == ["tidied up"]
    assert failures(ticket.id) == ["timeout"]
    assert shop.effects("dawdled") == []


def test_a_rule_that_names_it_gives_it_another_attempt(shop: Shop, diary: Path) -> None:
    ticket = DawdleOnce(diary=str(diary)).async_().call()

    assert ticket.result(WAIT_S) == 2
    assert failures(ticket.id) == ["timeout", None]
    assert shop.effects("in time") == ["in time"]


def test_a_run_that_nothing_gets_into_is_given_up_and_the_others_go_on(shop: Shop, diary: Path) -> None:
    (worker,) = shop.workers
    began = time.monotonic()
    ticket = Stick(diary=str(diary)).async_().call()

    row = ended(shop, ticket.id)

    assert ending_of(row) == ("failed", "timeout")
    assert written(diary) == ["stuck"]
    assert time.monotonic() - began >= Stick.timeout + HARD_AFTER_S
    (noted,) = worker.lines("run.stuck")
    assert ticket.id in noted
    assert Increment(number=1).async_().call().wait(WAIT_S)
    assert all(is_alive(pid) for pid in worker.children())


def test_a_worker_whose_threads_are_all_stuck_ends_and_another_takes_its_place(shop: Shop, diary: Path) -> None:
    worker = start(shop, "-Q", "narrow", "-t", "2")
    (first,) = worker.children()
    stuck = [Stick(diary=str(diary)).async_(queue="narrow").call() for _ in range(2)]
    waiting = Increment(number=2).async_(queue="narrow").call()
    try:
        assert waiting.wait(WAIT_S), worker.output()
        assert [ending_of(ended(shop, ticket.id)) for ticket in stuck] == [("failed", "timeout")] * 2
        assert shop.row(waiting.id)["num_attempts"] == 1
        assert len(worker.lines("worker.stuck")) == 1
        assert [is_alive(pid) for pid in worker.children()] == [False, True]
        assert worker.children()[0] == first
    finally:
        worker.stop()


# ----------------------------------------------------------------------------------------------------- called off


@pytest.mark.parametrize("operation", [Obey, ObeyAsync, Ignore])
def test_a_run_is_called_off_from_another_process(shop: Shop, diary: Path, operation: type[LimitedOperation]) -> None:
    ticket = operation(diary=str(diary)).async_().call()
    eventually(lambda: written(diary) == ["running"], "it runs", WAIT_S, shop.tell)

    cancelled = shop.run([sys.executable, "-c", f"import dexpy; dexpy.Ticket.get({ticket.id!r}).cancel()"])

    assert cancelled.returncode == 0, cancelled.stderr
    assert ending_of(ended(shop, ticket.id)) == ("expired", "cancelled")
    assert written(diary) == ["running", "ignored it" if operation is Ignore else "tidied up"]
    assert failures(ticket.id) == ["cancelled"]
    with pytest.raises(OperationFailed, match="cancelled"):
        ticket.result(1)


# -------------------------------------------------------------------------------------------------------- expired


def test_what_no_worker_has_begun_in_time_is_expired_by_one_that_does_not_serve_it(shop: Shop, diary: Path) -> None:
    ticket = Promise(diary=str(diary)).async_().call()
    assert ticket.pending

    assert ending_of(ended(shop, ticket.id)) == ("expired", "expired")

    begun = start(shop, "-Q", "promises", "-t", "1")
    kept = Promise(diary=str(diary)).async_(expires_in=60).call()
    shop.becomes(kept.id, "done", within_s=WAIT_S)
    left = "SELECT 1 FROM dexpy_messages WHERE queue = 'promises'"
    eventually(lambda: not shop.sql(left), "the late message came too", WAIT_S, shop.tell)
    assert written(diary) == ["ran"], "the one that was begun in time"
    begun.stop()


# ---------------------------------------------------------------------------------------------- its worker is lost


@pytest.mark.parametrize(
    ("operation", "ending", "attempts"),
    [(KillOnce, ("done", None), ["lost", None]), (KillAndEnd, ("failed", "lost"), ["lost"])],
)
def test_a_run_whose_worker_dies_ends_as_its_class_says(
    shop: Shop,
    diary: Path,
    operation: type[LimitedOperation],
    ending: tuple[str, str | None],
    attempts: list[str | None],
) -> None:
    ticket = operation(diary=str(diary)).async_().call()

    assert ending_of(ended(shop, ticket.id)) == ending

    assert failures(ticket.id) == attempts
    assert len(written(diary)) == len(attempts)
    survived = shop.sql("SELECT what FROM effects WHERE run = ?", ticket.id)
    assert [row["what"] for row in survived] == ["survived"] * (ending[0] == "done")
