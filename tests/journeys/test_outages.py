"""A SQLite file that others keep busy, and messages that come too often: no operation is lost, and none runs twice.

The same on servers, with what only they have, is in the conformance suite.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from apps.shop import Count
from harness.kills import (
    RECOVER_WITHIN_S,
    Kills,
    assert_done_once,
    assert_nothing_left,
    deliver_ten_times,
    killed_pair,
    wait_until_final,
)
from harness.workers import eventually


@pytest.fixture
def kills(tmp_path: Path) -> Generator[Kills]:
    """A SQLite file that carries everything, without a worker yet."""
    with killed_pair("sqlite+sql", tmp_path) as opened:
        yield opened


def test_a_message_that_is_delivered_ten_times_is_one_run(kills: Kills) -> None:
    deliver_ten_times(kills.pair)


def test_a_lock_that_is_held_longer_than_a_lease_makes_no_worker_seem_dead(kills: Kills) -> None:
    pair = kills.pair
    workers = [pair.start(threads=2) for _ in range(2)]
    tickets = [Count(number=number, seconds=0.2).async_().call() for number in range(30)]
    eventually(pair.effects, "some have run", details=pair.output)
    blocker = sqlite3.connect(pair.folder / "records.db", timeout=30, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    time.sleep(RECOVER_WITHIN_S / 2 + 1)
    num_effects = len(pair.effects())
    blocker.execute("COMMIT")
    blocker.close()

    rows = wait_until_final(pair)

    assert 0 < num_effects < len(rows) == len(tickets)
    assert_done_once(pair, rows, [f"count {number}" for number in range(30)])
    assert {row.num_attempts for row in rows} == {1}
    for worker in workers:
        assert not worker.lines("worker.removed")
        assert not worker.lines("worker.lease_expired")
        assert "Traceback" not in worker.output()
    assert_nothing_left(pair)
