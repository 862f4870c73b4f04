"""`Rate` with real workers: several workers, and workers that are killed or frozen while a run starts or waits.

The starts are measured from the column `started_at` of records and attempts, by the clock of the database.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from apps import shop_limits
from apps.shop_limits import Rated, RatedRetried, RatedSingle, Single
from harness.marks import WAIT_S, assert_nothing_left, effects, marks, max_at_once, wait_until_final
from harness.policy_workers import ON_SERVERS, PolicyPair
from harness.workers import eventually

import dexpy
from dexpy.database.tables import attempts, records

APPLICATION = shop_limits
LIMIT, PER_S = 10, 2.5
RUNS = 3 * LIMIT
SLACK_S = 10.0
"""The time that a busy machine may need for the starts that are allowed, in seconds."""
POINTS = (
    "rate_start_stored",
    "starts_offered",
    pytest.param("rate_key_locked", marks=pytest.mark.servers),
    pytest.param("run_blocked", marks=pytest.mark.servers),
    pytest.param("in_perform", marks=pytest.mark.servers),
)


def starts(pair: PolicyPair) -> list[datetime]:
    """Return the starts of all attempts, in order."""
    times: list[datetime] = []
    for table in (records, attempts):
        times += [row.started_at for row in pair.sql(sa.select(table.c.started_at)) if row.started_at is not None]
    # The last attempt of a failed run is in both tables.
    return sorted(set(times))


def most_in_a_window(times: list[datetime], per_s: float) -> int:
    """Return the largest number of starts in any window that includes its begin and not its end."""
    window = timedelta(seconds=per_s)
    return max(sum(begin <= each < begin + window for each in times) for begin in times)


def throttled(pair: PolicyPair) -> list[Any]:
    return list(pair.sql(sa.select(records.c.id).where(records.c.blocked_key.is_not(None))))


def test_workers_together_start_no_more_runs_in_a_window_than_the_limit(pair: PolicyPair) -> None:
    workers = [pair.start(threads=4), pair.start(threads=4)]
    began = time.monotonic()
    dexpy.enqueue_all([Rated(key="one", number=number) for number in range(RUNS)])
    other = Single(key="two", number=99).async_().call()
    assert other.result(WAIT_S) == 99, "a waiting run occupies no thread"
    rows = wait_until_final(pair)
    took_s = time.monotonic() - began

    limited = [row for row in rows if row.rate_key is not None]
    assert Counter(row.status for row in limited) == {"done": RUNS}, pair.output()
    assert {row.num_attempts for row in limited} == {1}, "waiting costs no attempt"
    times = sorted(row.started_at for row in limited)
    assert most_in_a_window(times, PER_S) == LIMIT
    # A run starts soon after it may, and in the order of the enqueues, but for the runs of one burst.
    assert times[-1] - times[0] < timedelta(seconds=2 * PER_S + SLACK_S), times
    order = [int(row.params["number"]) for row in sorted(limited, key=lambda row: row.started_at)]
    assert max(abs(number - position) for position, number in enumerate(order)) < 2 * LIMIT, order
    assert len({mark.pid for mark in marks(pair)}) == len(workers), "both workers have run some"
    assert_nothing_left(pair)
    print(f"{RUNS} runs, {LIMIT} in {PER_S} s: {took_s:.2f} s")


@pytest.mark.parametrize("point", POINTS)
def test_the_limit_holds_when_a_worker_is_killed(pair: PolicyPair, point: str) -> None:
    first = pair.start_killed_at(point, threads=2)
    dexpy.enqueue_all([Rated(key="one", number=number) for number in range(2 * LIMIT + 1)])
    eventually(lambda: pair.reached(point), f"a worker dies at {point}", WAIT_S, pair.output)
    pair.start(threads=2)
    first.stop()

    rows = wait_until_final(pair)

    assert Counter(row.status for row in rows) == {"done": 2 * LIMIT + 1}, pair.output()
    assert most_in_a_window(starts(pair), PER_S) <= LIMIT
    assert effects(pair) == Counter(range(2 * LIMIT + 1))
    assert_nothing_left(pair)


@pytest.mark.servers
def test_each_attempt_counts(pair: PolicyPair) -> None:
    pair.start(threads=4)
    for number in range(8):
        RatedRetried(key="one", number=number).async_().call()
    rows = wait_until_final(pair)
    assert Counter(row.status for row in rows) == {"done": 4, "failed": 4}, pair.output()
    times = starts(pair)
    assert len(times) == 4 + 4 * 3
    assert most_in_a_window(times, 1.0) <= 5


@pytest.mark.servers
def test_a_rate_and_a_concurrency_limit_hold_together(pair: PolicyPair) -> None:
    pair.start(threads=4)
    pair.start(threads=4)
    keys = ("one", "two", "three")
    dexpy.enqueue_all([RatedSingle(key=keys[number % 3], number=number, hold_s=0.02) for number in range(24)])
    rows = wait_until_final(pair)
    assert Counter(row.status for row in rows) == {"done": 24}, pair.output()
    assert {row.num_attempts for row in rows} == {1}
    assert most_in_a_window(starts(pair), 1.0) <= 8
    assert max_at_once(pair) == {"one": 1, "two": 1, "three": 1}
    assert_nothing_left(pair)


@ON_SERVERS
def test_a_worker_frozen_while_a_run_starts_delays_the_others_no_longer_than_its_lease(pair: PolicyPair) -> None:
    pair.start_killed_at("rate_start_stored=freeze", threads=1)
    dexpy.enqueue_all([Rated(key="one", number=number) for number in range(LIMIT + 2)])
    eventually(lambda: pair.reached("rate_start_stored"), "a worker is frozen", WAIT_S, pair.output)
    frozen = pair.reached("rate_start_stored")
    assert frozen is not None
    try:
        pair.start(threads=2)
        rows = wait_until_final(pair)
        assert Counter(row.status for row in rows) == {"done": LIMIT + 2}, pair.output()
    finally:
        pair.release_waiting()
        os.kill(frozen, signal.SIGCONT)
    assert most_in_a_window(starts(pair), PER_S) <= LIMIT
    assert effects(pair) == Counter(range(LIMIT + 2))
    assert throttled(pair) == []
