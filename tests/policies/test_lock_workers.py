"""`Lock` with real workers: two at once, and workers that are killed, frozen or terminated while they hold a lock."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import pytest
import sqlalchemy as sa
from apps import shop_limits
from apps.shop_limits import Contended, Locked, LockedForEver
from harness.marks import WAIT_S, assert_nothing_left, effects, marks, max_at_once, wait_until_final
from harness.policy_workers import RECOVER_WITHIN_S, PolicyPair
from harness.workers import eventually

from dexpy import Ticket
from dexpy.database.tables import records

APPLICATION = shop_limits
RUNS = 60
SLACK_S = 3.0
"""The time in which a busy machine starts a recovered run, in seconds."""

POINTS = ("lock_busy", "lock_acquired", "in_perform", "before_lock_release")


def test_two_workers_never_hold_a_lock_at_once(pair: PolicyPair) -> None:
    pair.start(threads=4)
    pair.start(threads=4)
    for number in range(RUNS):
        Contended(key="one", number=number, hold_s=0.01).async_().call()
        Locked(key="two", number=number + RUNS, hold_s=0.01).async_().call()
    rows = wait_until_final(pair)
    assert Counter(row.status for row in rows) == {"done": 2 * RUNS}, pair.output()
    assert max_at_once(pair) == {"one": 1, "two": 1}
    assert effects(pair) == Counter(range(2 * RUNS))
    assert len({mark.pid for mark in marks(pair)}) == 2, "both workers have run some"


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_that_is_killed_leaves_no_lock_behind(pair: PolicyPair, point: str) -> None:
    first = pair.start_killed_at(point, threads=2)
    for number in range(4):
        Locked(key="one", number=number, hold_s=1.3 if point == "lock_busy" else 0.05).async_().call()
    eventually(lambda: pair.reached(point), f"a worker dies at {point}", WAIT_S, pair.output)
    pid, survivor = pair.reached(point), pair.start(threads=2)
    first.stop()
    since = time.time()

    rows = wait_until_final(pair)

    assert Counter(row.status for row in rows) == {"done": 4}, pair.output()
    killed = {mark.pid for mark in marks(pair)} - set(survivor.children())
    assert max_at_once(pair, killed) == {"one": 1}
    assert effects(pair) == Counter(range(4))
    assert_nothing_left(pair)
    after = [mark.at for mark in marks(pair) if mark.what == "begin" and mark.pid != pid]
    assert min(after) - since < RECOVER_WITHIN_S + SLACK_S


def test_a_worker_that_is_frozen_with_a_lock_loses_it_with_its_run(pair: PolicyPair) -> None:
    if "sqlite" in pair.url:
        pytest.skip("on SQLite a frozen worker is alive and keeps its runs and locks")
    frozen = pair.start_killed_at("in_perform=wait", threads=1)
    ticket = Locked(key="one", number=1).async_().call()
    pid = eventually(lambda: pair.reached("in_perform"), "the first run holds the lock", WAIT_S, pair.output)
    os.kill(pid, signal.SIGSTOP)
    pair.start(threads=1)

    assert ticket.result(WAIT_S) == 1
    pair.release_waiting()
    os.kill(pid, signal.SIGCONT)
    eventually(
        lambda: frozen.lines("run.retry_scheduled") or frozen.lines("claim.lost"),
        "the resumed worker loses its claim or schedules a retry",
        WAIT_S,
        pair.output,
    )

    assert effects(pair) == Counter({1: 1}), "the transaction of the frozen worker was rolled back"
    (row,) = pair.sql(sa.select(records))
    assert (row.status, row.num_lost) == ("done", 1)


def test_a_run_that_waits_for_a_lock_is_released_when_its_worker_stops(pair: PolicyPair) -> None:
    pair.start(threads=1)
    Locked(key="one", number=1, hold_s=5.0).async_().call()
    eventually(lambda: marks(pair), "the first run holds the lock", WAIT_S, pair.output)
    ending = pair.start("--shutdown-timeout", "1s", threads=1)
    waiting = LockedForEver(key="one", number=2).async_().call()
    eventually(lambda: waiting.reload().running, "the second run has started", WAIT_S, pair.output)
    ending.signal(signal.SIGTERM)
    assert ending.ended() == 0, pair.output()
    rows = wait_until_final(pair)
    assert [(row.status, row.num_attempts, row.num_lost) for row in rows] == [("done", 1, 0)] * 2, pair.output()
    assert max_at_once(pair) == {"one": 1}


def test_a_run_that_waits_for_a_lock_can_be_cancelled(pair: PolicyPair) -> None:
    pair.start(threads=2)
    Locked(key="one", number=1, hold_s=4.0).async_().call()
    eventually(lambda: marks(pair), "the first run holds the lock", WAIT_S, pair.output)
    waiting: Ticket[int] = LockedForEver(key="one", number=2).async_().call()
    eventually(lambda: waiting.reload().running, "the second run has started", WAIT_S, pair.output)
    waiting.cancel()
    eventually(lambda: waiting.reload().terminal, "the second run stops waiting", 3.5, pair.output)
    assert (waiting.status, waiting.failure) == ("cancelled", "cancelled")
    wait_until_final(pair)
    assert effects(pair) == Counter({1: 1})
