"""A SQLite file that another process locks, and repeated messages: no operation is lost, and none runs twice.

``tests/conformance/test_server_outages.py`` has the tests on servers.
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
    """Yield a SQLite file with records and messages, without a worker."""
    with killed_pair("sqlite+sql", tmp_path) as opened:
        yield opened


def test_a_message_that_is_delivered_ten_times_runs_once(kills: Kills) -> None:
    deliver_ten_times(kills.pair)


def test_a_write_lock_that_is_held_longer_than_a_lease_expires_no_lease(kills: Kills) -> None:
    pair = kills.pair
    workers = [pair.start(threads=2) for _ in range(2)]
    tickets = [Count(number=number, seconds=0.2).async_().call() for number in range(30)]
    eventually(pair.effects, "some operations have run", details=pair.output)
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
