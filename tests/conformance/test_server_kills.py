"""Processes that are killed and frozen, on servers: every operation ends once, within the promise, and nothing is lost.

The same on a SQLite file is in ``tests/journeys/test_kills.py``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
import sqlalchemy as sa
from deaths import (
    WAIT_S,
    Deaths,
    all_final,
    die_again_and_again,
    effects_of,
    is_done_once,
    is_offered_in_time,
    is_quiet,
    kill_enqueuers_at_each_point,
    kill_workers_at_each_point,
    lines_of,
    lost_attempts,
    mortal_pair,
    now,
    pid_of,
    worker_ids,
)
from market import Customer
from mortals import Hold, Mark
from workers import eventually

from dexpy.recording.tables import attempts

PAIRS = ["postgresql+redis", "postgresql+rabbitmq", "mariadb+sql"]


@pytest.fixture
def deaths(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Deaths]:
    """A pair, named by an indirect parameter, that nobody serves yet."""
    with mortal_pair(request.param, tmp_path) as found:
        yield found


def on(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("deaths", names, indirect=True)


@on(*PAIRS)
def test_a_worker_that_is_killed_at_any_point_of_a_run_loses_nothing_and_does_nothing_twice(deaths: Deaths) -> None:
    kill_workers_at_each_point(deaths)


@on(*PAIRS)
def test_a_process_that_is_killed_while_it_enqueues_leaves_all_or_nothing(deaths: Deaths) -> None:
    kill_enqueuers_at_each_point(deaths)


@on("postgresql+rabbitmq")
def test_an_operation_that_kills_its_workers_ends_as_lost_and_the_others_go_on(deaths: Deaths) -> None:
    die_again_and_again(deaths)


@on("postgresql+redis", "mariadb+sql")
def test_a_worker_that_is_frozen_past_its_lease_can_do_nothing_more_when_it_is_thawed(deaths: Deaths) -> None:
    pair, ledger = deaths.pair, deaths.pair.folder / "ledger"
    frozen = deaths.serve(["in_perform=wait", "before_commit=wait"], threads=2)
    holding = Hold(customer=1, ledger=str(ledger)).async_().call()
    pid = deaths.at("in_perform").pid
    committing = Hold(customer=2, ledger=str(ledger)).async_().call()
    assert deaths.at("before_commit").pid == pid
    # Perhaps fetched by it, and perhaps not: they lie behind what it runs.
    for number in (5, 6):
        Mark(number=number).async_().call()
    successor = pair.start()
    (old_id,) = worker_ids(pair, pid)

    os.kill(pid, signal.SIGSTOP)
    frozen_at = now(pair)
    rows = all_final(pair)

    # Both ran to their end although the frozen one had locked the rows that they write.
    assert len(rows) == 6
    is_done_once(pair, rows, ["hold 1", "hold 2", *effects_of([1, 2, 5, 6])])
    (healthy,) = successor.children()
    for ticket in (holding, committing):
        (lost,) = lost_attempts(pair, ticket.id)
        assert lost.worker == old_id
        is_offered_in_time(pair, next(row for row in rows if row.id == ticket.id), frozen_at)
    assert worker_ids(pair, pid) == []

    deaths.go()
    os.kill(pid, signal.SIGCONT)

    eventually(lambda: frozen.lines("worker.taken_for_dead"), "it is told", WAIT_S, pair.tell)
    eventually(lambda: len(frozen.lines("claim.lost")) == 2, "both of its runs are undone", WAIT_S, pair.tell)
    (new_id,) = eventually(lambda: worker_ids(pair, pid), "it has a new name", WAIT_S, pair.tell)
    assert new_id != old_id
    is_quiet(pair)
    assert sorted(lines_of(ledger)) == [f"1 {healthy}", f"2 {healthy}"], "its hooks have not run"
    assert all_final(pair) == rows, "neither it nor what it had enqueued has left anything"
    assert set(pair.sql(sa.select(Customer.name).where(Customer.id <= 2))) == {(f"held by {healthy}",)}
    is_done_once(pair, rows, ["hold 1", "hold 2", *effects_of([1, 2, 5, 6])])

    successor.stop()
    after = [Mark(number=number).async_().call() for number in (3, 4)]
    assert [ticket.result(WAIT_S) for ticket in after] == [3, 4]
    assert {pid} == {row.pid for row in pair.sql("SELECT pid FROM effects WHERE what IN ('mark 3', 'mark 4')")}
    assert {pid_of(row.worker) for row in pair.sql(sa.select(attempts))} == {pid}
