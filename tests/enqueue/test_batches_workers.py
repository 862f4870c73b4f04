"""Batches with real workers that are killed and frozen: each callback runs once, after all runs have ended."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import attrs
import pytest
from apps import shop_statements
from apps.shop_statements import AddMore, Report, Statement
from harness.marks import WAIT_S
from harness.policy_workers import PolicyPair, open_pair
from harness.workers import Worker, eventually, is_alive

import dexpy
from dexpy.runtime import install

APPLICATION = shop_statements


@attrs.frozen
class Chaos:
    """How workers are disturbed while a batch runs.

    Attributes:
        runs: The number of runs that add another one each.
        takes_s: The duration of a run, in seconds.
        longest_freeze_s: The longest time that a process is frozen.
    """

    runs: int
    takes_s: float
    longest_freeze_s: float


SHORT = Chaos(100, 0.02, 0.5)
LONG = Chaos(400, 0.1, 12.0)
"""A frozen process is longer away than its lease."""

CHAOS = [
    pytest.param("sqlite+sql", SHORT),
    pytest.param("postgresql+redis", LONG, marks=[pytest.mark.servers, pytest.mark.timeout(300)]),
    pytest.param("mariadb+sql", LONG, marks=[pytest.mark.servers, pytest.mark.wide, pytest.mark.timeout(300)]),
    pytest.param("postgresql+rabbitmq", LONG, marks=[pytest.mark.servers, pytest.mark.wide, pytest.mark.timeout(300)]),
]
FAILPOINTS = [
    pytest.param(pair, point, marks=marks, id=f"{pair}-{point}")
    for pair, marks in (
        ("sqlite+sql", []),
        ("postgresql+redis", [pytest.mark.servers]),
        ("mariadb+sql", [pytest.mark.servers]),
        ("postgresql+rabbitmq", [pytest.mark.servers, pytest.mark.wide]),
    )
    for point in ("before_commit", "batch_run_ended", "before_batch_commit", "after_batch_commit")
    # The others need a broker apart from the database, or are shown by other tests of kills.
    if not pair.startswith("sqlite") or point in ("batch_run_ended", "before_batch_commit")
]


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[PolicyPair]:
    """A pair whose workers recover lost runs soon, configured in this process."""
    with open_pair(request.param, tmp_path, shop_statements) as policy_pair:
        policy_pair.configure()
        yield policy_pair
    install(None)


def callbacks() -> dict[str, Any]:
    return {"on_finish": Report(what="finish"), "on_success": Report(what="success")}


def effects(pair: PolicyPair) -> Counter[str]:
    return Counter(pair.effects())


@contextlib.contextmanager
def frozen(worker: Worker) -> Generator[None]:
    """Freeze the processes that run operations."""
    pids = [pid for pid in worker.children() if is_alive(pid)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize(("pair", "chaos"), CHAOS, indirect=["pair"])
def test_the_callbacks_run_once_after_all_runs_while_workers_are_killed_and_frozen(
    pair: PolicyPair, chaos: Chaos
) -> None:
    seed = random.randrange(10**6)
    disturbances = random.Random(seed)
    workers = [pair.start(threads=4) for _ in range(3)]
    with dexpy.batch(name=f"seed {seed}", **callbacks()) as batch:
        for number in range(chaos.runs):
            batch.add(Statement(customer=number, takes_s=chaos.takes_s))
        batch.add_all(AddMore(customer=1000 * number, count=1) for number in range(1, 4))
    ticket, deadline, done = batch.ticket, time.monotonic() + 240, [f"seed {seed}"]
    while not ticket.reload().finished:
        assert time.monotonic() < deadline, f"{done} {ticket.counts}\n{pair.output()}"
        index = disturbances.randrange(3)
        if disturbances.random() < 0.5:
            workers[index].stop()
            done.append(f"killed {index}")
            workers[index] = pair.start(threads=4)
        else:
            freeze_s = disturbances.uniform(0.05, chaos.longest_freeze_s)
            done.append(f"froze {index} for {freeze_s:.1f} s")
            with frozen(workers[index]):
                time.sleep(freeze_s)

    def have_run() -> bool:
        tickets = [ticket.callback("finish"), ticket.callback("success")]
        return all(each is not None and each.terminal for each in tickets)

    eventually(have_run, "the callbacks run", WAIT_S, pair.output)
    total = chaos.runs + 6
    assert ticket.reload().counts == {"done": total}, done
    statements = {f"statement {number}": 1 for number in [*range(chaos.runs), 1001, 2001, 3001]}
    reports = {f"finish done {total} of {total}": 1, f"success done {total} of {total}": 1}
    assert effects(pair) == statements | reports, done
    assert sorted(pair.effects()[-2:]) == sorted(reports), "the callbacks ran last"


@pytest.mark.parametrize(("pair", "point"), FAILPOINTS, indirect=["pair"])
def test_a_worker_killed_around_the_last_end_neither_loses_nor_doubles_the_callbacks(
    pair: PolicyPair, point: str
) -> None:
    doomed = pair.start_killed_at(point, threads=1)
    with dexpy.batch(**callbacks()) as batch:
        batch.add(Statement(customer=1))
    eventually(lambda: pair.reached(point), f"a worker dies at {point}", WAIT_S, pair.output)
    doomed.stop()
    pair.start(threads=2)
    ticket = batch.ticket
    assert ticket.wait(WAIT_S), pair.output()

    def have_run() -> bool:
        tickets = [ticket.callback("finish"), ticket.callback("success")]
        return all(each is not None and each.terminal for each in tickets)

    eventually(have_run, "the callbacks run", WAIT_S, pair.output)
    assert effects(pair) == {"statement 1": 1, "finish done 1 of 1": 1, "success done 1 of 1": 1}
