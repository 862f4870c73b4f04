"""`Concurrency` with real workers: two workers, and workers that are killed while they acquire or release a slot."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import pytest
import sqlalchemy as sa
from apps import shop_limits
from apps.shop_limits import Limited, Single
from harness.marks import WAIT_S, assert_nothing_left, effects, marks, max_at_once, wait_until_final
from harness.policy_workers import ON_SERVERS, RECOVER_WITHIN_S, PolicyPair
from harness.workers import eventually

from dexpy.database.tables import records

APPLICATION = shop_limits
RUNS = 200
SLACK_S = 3.0
"""The time in which a busy machine starts a run whose slot is free, in seconds."""

POINTS = ("concurrency_key_locked", "run_blocked", "in_perform", "before_slot_release", "slots_filled")


def test_two_workers_never_run_more_than_the_limit(pair: PolicyPair) -> None:
    workers = [pair.start(threads=4), pair.start(threads=4)]
    began = time.monotonic()
    operations = [Limited(key="one", number=number, hold_s=0.02) for number in range(RUNS)]
    for operation in operations:
        operation.async_().call()
    rows = wait_until_final(pair)
    took_s = time.monotonic() - began

    assert Counter(row.status for row in rows) == {"done": RUNS}, pair.output()
    assert {row.num_attempts for row in rows} == {1}
    assert max_at_once(pair) == {"one": 2}, "at most two at once, and two at some time"
    assert effects(pair) == Counter(range(RUNS))
    assert len({mark.pid for mark in marks(pair)}) == len(workers), "both workers have run some"
    assert_nothing_left(pair)
    print(f"{RUNS} runs of 20 ms, two at a time: {took_s:.2f} s")


def test_a_blocked_run_occupies_no_thread(pair: PolicyPair) -> None:
    pair.start(threads=2)
    long = Single(key="one", number=0, hold_s=1.5).async_().call()
    eventually(lambda: marks(pair), "the first run has started", WAIT_S, pair.output)
    waiting = [Single(key="one", number=number).async_().call() for number in range(1, 6)]
    blocked = sa.select(records.c.id).where(records.c.blocked_key.is_not(None))
    eventually(lambda: len(pair.sql(blocked)) == len(waiting), "the other runs are blocked", WAIT_S, pair.output)
    other = Single(key="two", number=9).async_().call()
    assert other.result(WAIT_S) == 9
    assert long.reload().running
    wait_until_final(pair)
    order = [mark.number for mark in marks(pair) if mark.what == "begin" and mark.key == "one"]
    assert order == [0, 1, 2, 3, 4, 5], "blocked runs start in the order of their age"


@pytest.mark.parametrize("point", POINTS)
def test_the_slot_of_a_killed_worker_becomes_free(pair: PolicyPair, point: str) -> None:
    first = pair.start_killed_at(point, threads=2)
    for number in range(6):
        Single(key="one", number=number, hold_s=0.1).async_().call()
    eventually(lambda: pair.reached(point), f"a worker dies at {point}", WAIT_S, pair.output)
    pid, survivor = pair.reached(point), pair.start(threads=2)
    first.stop()
    since = time.time()

    rows = wait_until_final(pair)

    assert Counter(row.status for row in rows) == {"done": 6}, pair.output()
    killed = {mark.pid for mark in marks(pair)} - set(survivor.children())
    assert max_at_once(pair, killed) == {"one": 1}
    assert effects(pair) == Counter(range(6))
    assert_nothing_left(pair)
    after = [mark.at for mark in marks(pair) if mark.what == "begin" and mark.pid != pid]
    assert min(after) - since < RECOVER_WITHIN_S + SLACK_S


@ON_SERVERS
def test_a_worker_frozen_while_it_claims_a_slot_blocks_the_key_no_longer_than_its_lease(
    pair: PolicyPair,
) -> None:
    first = pair.start_killed_at("in_perform=wait", threads=2)
    Single(key="one", number=0).async_().call()
    eventually(lambda: pair.reached("in_perform"), "the first run has started", WAIT_S, pair.output)
    for number in range(1, 4):
        Single(key="one", number=number).async_().call()
    blocked = sa.select(records.c.id).where(records.c.blocked_key.is_not(None))
    eventually(lambda: len(pair.sql(blocked)) == 3, "the other runs are blocked", WAIT_S, pair.output)
    pair.start_killed_at("concurrency_key_locked=wait", threads=1)
    # The first worker must not start the next run when its own ends, so that the second worker claims it.
    first.signal(signal.SIGTERM)
    eventually(lambda: first.lines("worker.draining"), "the first worker has begun to stop", WAIT_S, pair.output)
    pair.release_waiting("in_perform")
    assert first.ended() == 0
    eventually(
        lambda: pair.reached("concurrency_key_locked"), "the second worker is at the failpoint", WAIT_S, pair.output
    )
    frozen = pair.reached("concurrency_key_locked")
    assert frozen is not None
    os.kill(frozen, signal.SIGSTOP)
    since = time.time()
    try:
        pair.start(threads=2)
        rows = wait_until_final(pair)
        assert Counter(row.status for row in rows) == {"done": 4}, pair.output()
        started = [mark.at for mark in marks(pair) if mark.what == "begin" and mark.number > 0]
        assert min(started) - since < RECOVER_WITHIN_S + SLACK_S
    finally:
        pair.release_waiting()
        os.kill(frozen, signal.SIGCONT)
    assert effects(pair) == Counter(range(4))
    assert_nothing_left(pair)
