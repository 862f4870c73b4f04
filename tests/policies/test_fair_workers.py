"""`Fair` with real workers: a key with many runs does not delay the first run of another, and nothing is lost."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timezone

import pytest
import sqlalchemy as sa
from apps import shop_limits
from apps.shop_limits import Exported, ExportedOnce
from harness.marks import WAIT_S, assert_nothing_left, effects, marks, max_at_once, wait_until_final
from harness.policy_workers import PolicyPair
from harness.workers import eventually

import dexpy
from dexpy.database.tables import records

APPLICATION = shop_limits
RUNS = 300
THREADS = 2
WORKERS = 2


def test_a_key_with_many_runs_does_not_delay_the_first_run_of_another(pair: PolicyPair) -> None:
    dexpy.enqueue_all([Exported(key="many", number=number) for number in range(RUNS)])
    for _ in range(WORKERS):
        pair.start(threads=THREADS)
    done = sa.select(sa.func.count()).where(records.c.status == "done")
    eventually(lambda: pair.sql(done)[0][0] > 10, "runs of the first key have started", WAIT_S, pair.output)
    late = Exported(key="late", number=RUNS).async_().call()
    committed_at = datetime.now(timezone.utc)
    rows = wait_until_final(pair)

    assert Counter(row.status for row in rows) == {"done": RUNS + 1}, pair.output()
    assert {row.num_attempts for row in rows} == {1}
    late_row = next(row for row in rows if row.id == late.id)
    before = [row for row in rows if committed_at < row.started_at < late_row.started_at]
    # In each worker one turn of the other key, and the claims that had begun before the commit.
    assert len(before) <= WORKERS + WORKERS * THREADS, before
    assert effects(pair) == Counter(range(RUNS + 1))
    assert_nothing_left(pair)
    eventually(lambda: pair.queued("default") == [], "no message is left", WAIT_S)


@pytest.mark.servers
@pytest.mark.parametrize("point", ["after_claim", "in_perform", "before_ack"])
def test_every_run_ends_when_a_worker_is_killed(pair: PolicyPair, point: str) -> None:
    first = pair.start_killed_at(point, threads=2)
    for number in range(12):
        Exported(key=("one", "two", "three")[number % 3], number=number).async_().call()
    eventually(lambda: pair.reached(point), f"a worker dies at {point}", WAIT_S, pair.output)
    pair.start(threads=2)
    first.stop()
    rows = wait_until_final(pair)
    assert Counter(row.status for row in rows) == {"done": 12}, pair.output()
    assert effects(pair) == Counter(range(12))
    assert_nothing_left(pair)


@pytest.mark.servers
def test_the_slots_of_a_limit_are_used_in_turn(pair: PolicyPair) -> None:
    for number in range(40):
        ExportedOnce(key="many", number=number, hold_s=0.02).async_().call()
    pair.start(threads=3)
    eventually(lambda: len(marks(pair)) > 8, "runs of the first key have started", WAIT_S, pair.output)
    late = ExportedOnce(key="late", number=99, hold_s=0.02).async_().call()
    committed_at = datetime.now(timezone.utc)
    rows = wait_until_final(pair)
    assert Counter(row.status for row in rows) == {"done": 41}, pair.output()
    late_row = next(row for row in rows if row.id == late.id)
    before = [row for row in rows if committed_at < row.started_at < late_row.started_at]
    assert len(before) <= 8
    assert sum(max_at_once(pair).values()) <= 3
    assert_nothing_left(pair)
