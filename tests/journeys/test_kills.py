"""Processes on a SQLite file that are killed, frozen or stopped: every operation ends once, and nothing is lost.

``tests/conformance/test_server_kills.py`` has the tests on servers.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from apps.shop_failpoints import Mark, WaitForFile
from harness.kills import (
    RECOVER_WITHIN_S,
    WAIT_S,
    Kills,
    assert_done_once,
    assert_nothing_left,
    effects_of,
    kill_enqueuers_at_each_point,
    kill_workers_at_each_point,
    killed_pair,
    pid_of,
    run_crash_loops,
    wait_until_final,
)
from harness.workers import eventually

FROZEN_S = RECOVER_WITHIN_S / 2 + 1.0
"""Longer than the lease of a worker on a server, in seconds; on SQLite a frozen worker keeps its lock instead."""


@pytest.fixture
def kills(tmp_path: Path) -> Generator[Kills]:
    """Yield a SQLite file with records and messages, without a worker."""
    with killed_pair("sqlite+sql", tmp_path) as opened:
        yield opened


# -------------------------------------------------------------------------------------------------------- SIGKILL


def test_a_worker_that_is_killed_at_any_failpoint_loses_and_repeats_nothing(kills: Kills) -> None:
    kill_workers_at_each_point(kills)


def test_a_process_that_is_killed_while_it_enqueues_stores_all_or_nothing(kills: Kills) -> None:
    kill_enqueuers_at_each_point(kills)


def test_an_operation_that_kills_its_workers_ends_as_lost_and_others_continue(kills: Kills) -> None:
    run_crash_loops(kills)


# -------------------------------------------------------------------------------------------------------- SIGSTOP


def test_a_frozen_worker_is_not_recovered_and_continues_when_it_is_resumed(kills: Kills) -> None:
    pair = kills.pair
    healthy = pair.start("-Q", "elsewhere")
    frozen = kills.serve(["perform_started=wait", "before_commit=wait"], "-Q", "default", processes=2)
    waiting_without_lock = Mark(number=1).async_().call()
    stopped = [kills.wait_for("perform_started").pid]
    # This run waits with the write lock of the file.
    waiting_with_lock = Mark(number=2).async_().call()
    stopped.append(kills.wait_for("before_commit").pid)
    assert stopped[0] != stopped[1]

    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(FROZEN_S)
    rows = [pair.row(ticket.id) for ticket in (waiting_without_lock, waiting_with_lock)]
    claims = [(row["status"], row["claimed_by"], row["num_lost"]) for row in rows]
    kills.release()
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)

    assert [(status, num_lost) for status, _, num_lost in claims] == [("running", 0)] * 2, claims
    assert [pid_of(worker) for _, worker, _ in claims] == stopped
    ended = wait_until_final(pair)
    assert_done_once(pair, ended, effects_of([1, 2]))
    assert [row.num_attempts for row in ended] == [1, 1]
    assert not healthy.lines("worker.removed")
    assert not healthy.lines("run.recovered")
    assert not frozen.lines("worker.lease_expired")
    assert [row.pid for row in pair.sql("SELECT pid FROM effects ORDER BY what")] == stopped
    after = [Mark(number=3).async_(queue=queue).call() for queue in ("default", "elsewhere")]
    assert [ticket.result(WAIT_S) for ticket in after] == [3, 3]
    assert_nothing_left(pair)


# -------------------------------------------------------------------------------------------------------- SIGTERM


@pytest.mark.parametrize("program", ["dexpy worker", "dramatiq"])
def test_a_stopped_worker_releases_runs_that_it_cannot_finish(kills: Kills, program: str) -> None:
    pair, gate = kills.pair, kills.pair.folder / "gate"
    if program == "dramatiq":
        options = ["-p", "1", "-t", "2", "--worker-shutdown-timeout", "300"]
        worker = pair.dramatiq("dexpy.broker:from_settings", "apps.shop_failpoints", *options)
    else:
        worker = pair.start("--shutdown-timeout", "0.3s", threads=2)
    tickets = [WaitForFile(number=number, file=str(gate)).async_().call() for number in (1, 2)]
    for ticket in tickets:
        pair.wait_for_status(ticket.id, "running")

    worker.signal(signal.SIGTERM)

    assert worker.ended() == 0
    eventually(lambda: not worker.processes(), "all its processes end", details=worker.output)
    for ticket in tickets:
        row = pair.row(ticket.id)
        assert (row["status"], row["num_attempts"], row["num_lost"], row["claimed_by"]) == ("pending", 0, 0, None)
    assert pair.effects() == []
    gate.touch()
    pair.start()
    rows = wait_until_final(pair)
    assert_done_once(pair, rows, ["linger 1", "linger 2"])
    assert {row.num_attempts for row in rows} == {1}
    assert_nothing_left(pair)
