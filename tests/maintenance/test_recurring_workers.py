"""Recurring tasks with real workers that are killed and frozen: each tick has exactly one run."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Generator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
import sqlalchemy as sa
from apps import shop_recurring
from apps.shop_recurring import Restock
from harness.policy_workers import PolicyPair, open_pair
from harness.workers import Worker, eventually, is_alive

from dexpy import Every, recurring
from dexpy.database.column_types import database_time
from dexpy.database.tables import FINAL, records
from dexpy.database.tables import recurring as table
from dexpy.runtime import install

SECOND = timedelta(seconds=1)
LATENCY_S = 2.0
"""How soon a change takes effect in every process."""
MACHINE_S = 4.0
"""The additional time that a busy machine may take."""


@attrs.frozen
class Chaos:
    """How workers are disturbed.

    Attributes:
        seconds: For how long.
        longest_freeze_s: The longest time that a process is frozen.
    """

    seconds: float
    longest_freeze_s: float


SHORT = Chaos(6.0, 0.8)
LONG = Chaos(120.0, 20.0)
"""A frozen process is longer away than its lease, and than the server keeps an idle transaction."""

PAIRS = [
    pytest.param("sqlite+sql", SHORT),
    pytest.param("postgresql+redis", LONG, marks=[pytest.mark.servers, pytest.mark.wide, pytest.mark.timeout(400)]),
    pytest.param("mariadb+rabbitmq", LONG, marks=[pytest.mark.servers, pytest.mark.wide, pytest.mark.timeout(400)]),
]


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[PolicyPair]:
    """A pair whose workers recover lost runs soon, configured in this process."""
    with open_pair(request.param, tmp_path, shop_recurring) as policy_pair:
        policy_pair.configure()
        yield policy_pair
    install(None)


class Fleet:
    """Three workers, of which one is killed or frozen at a time; the other two go on.

    Args:
        pair: The pair of the workers.
        seed: The seed of the disturbances.
    """

    def __init__(self, pair: PolicyPair, seed: int) -> None:
        self._pair = pair
        self._random = random.Random(seed)
        self._workers = [pair.start(processes=1, threads=2) for _ in range(3)]

    def disturb(self, chaos: Chaos) -> list[str]:
        """Kill and freeze workers for a while; return what was done."""
        done: list[str] = []
        deadline = time.monotonic() + chaos.seconds
        while time.monotonic() < deadline:
            time.sleep(self._random.uniform(0.1, 0.6))
            index = self._random.randrange(3)
            if self._random.random() < 0.5:
                self._workers[index].stop()
                done.append(f"killed {index}")
                self._workers[index] = self._pair.start(processes=1, threads=2)
            else:
                freeze_s = self._random.uniform(0.1, chaos.longest_freeze_s)
                done.append(f"froze {index} for {freeze_s:.1f} s")
                with frozen(self._workers[index]):
                    time.sleep(freeze_s)
        return done


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


def now(pair: PolicyPair) -> datetime:
    """Return the time of the database's clock."""
    with pair.engine.connect() as connection:
        return database_time(connection)


def runs(pair: PolicyPair, key: str) -> list[Any]:
    query = sa.select(records).where(records.c.recurring_key == key).order_by(records.c.run_at)
    return list(pair.sql(query))


def ticks(pair: PolicyPair, key: str) -> list[datetime]:
    """Return the ticks of a task that have a record, in order."""
    return [row.run_at for row in runs(pair, key) if row.run_at is not None]


@pytest.mark.parametrize(("pair", "chaos"), PAIRS, indirect=["pair"])
def test_each_tick_has_one_run_while_workers_are_killed_and_frozen(pair: PolicyPair, chaos: Chaos) -> None:
    seed = random.randrange(10**6)
    fleet = Fleet(pair, seed)
    eventually(lambda: ticks(pair, "count_stock"), "the first tick", 10, pair.output)

    done = fleet.disturb(chaos)

    what_was_done = f"seed {seed}: {done}"
    end = now(pair)
    eventually(lambda: ticks(pair, "count_stock")[-1] >= end - SECOND, "late ticks run", 30, pair.output)
    recurring.pause("count_stock")
    stored_ticks = ticks(pair, "count_stock")
    assert len(stored_ticks) == (stored_ticks[-1] - stored_ticks[0]) / SECOND + 1, what_was_done
    assert [later - earlier for earlier, later in pairwise(stored_ticks)] == [SECOND] * (len(stored_ticks) - 1)
    task = recurring.get("count_stock")
    assert (task.missed_count, task.skipped_count) == (0, 0), what_was_done

    def all_ended() -> bool:
        return all(row.status in FINAL for row in runs(pair, "count_stock"))

    eventually(all_ended, "each run ends", 60, pair.output)
    assert {row.status for row in runs(pair, "count_stock")} == {"done"}, what_was_done
    effects = [row[0] for row in pair.sql("SELECT run FROM effects")]
    assert sorted(effects) == sorted(row.id for row in runs(pair, "count_stock")), what_was_done

    assert_changes_take_effect(pair)


def assert_changes_take_effect(pair: PolicyPair) -> None:
    """Pause, resume, run, add and remove tasks while the workers run."""

    def report_ran() -> bool:
        return any(row.status == "done" for row in runs(pair, "write_report"))

    eventually(report_ran, "the deferred function runs", 10, pair.output)
    paused_at = now(pair)
    ticket = recurring.run_now("count_stock")
    assert ticket.wait(LATENCY_S + MACHINE_S)
    recurring.add("restock", Restock(shop=7), Every("second"))
    eventually(lambda: ticks(pair, "restock"), "an added task runs", LATENCY_S + MACHINE_S, pair.output)
    recurring.remove("restock")
    removed_at = now(pair)
    time.sleep(1.5)
    assert all(tick <= removed_at for tick in ticks(pair, "restock"))
    assert all(tick <= paused_at for tick in ticks(pair, "count_stock"))
    resumed_at = now(pair)
    recurring.resume("count_stock")
    eventually(
        lambda: ticks(pair, "count_stock")[-1] > resumed_at, "a resumed task runs", LATENCY_S + MACHINE_S, pair.output
    )
    assert all(tick > resumed_at for tick in ticks(pair, "count_stock") if tick > paused_at), "nothing is replayed"


@pytest.mark.parametrize("pair", [pytest.param("sqlite+sql")], indirect=True)
def test_a_relay_without_the_class_enqueues_its_ticks(pair: PolicyPair) -> None:
    recurring.add("restock", Restock(shop=7), Every("hour"))
    late = now(pair) - 20 * SECOND
    pair.change(sa.update(table).values(next_at=late))
    ended = pair.dexpy("relay", "--once")
    assert ended.returncode == 0, ended
    assert [(row.run_at, row.status) for row in runs(pair, "restock")] == [(late, "pending")]


ON_SERVERS = [
    pytest.param("postgresql+sql", marks=pytest.mark.servers),
    pytest.param("mariadb+sql", marks=pytest.mark.servers),
]


@pytest.mark.parametrize("pair", ON_SERVERS, indirect=True)
@pytest.mark.parametrize("point", ["recurring_task_locked", "recurring_run_stored"])
def test_a_process_that_freezes_in_the_transaction_of_a_tick_does_not_hold_it(pair: PolicyPair, point: str) -> None:
    pair.start_killed_at(f"{point}=freeze", threads=2)
    pid = eventually(lambda: pair.reached(point), "a tick is locked", 15, pair.output)
    held = [task.next_at for task in recurring.all()]
    try:
        pair.start(processes=1, threads=2)

        def are_enqueued() -> bool:
            return set(held) <= {*ticks(pair, "count_stock"), *ticks(pair, "write_report")}

        eventually(are_enqueued, "another worker enqueues what the frozen one holds", 40, pair.output)
    finally:
        pair.release_waiting()
        os.kill(pid, signal.SIGCONT)
    time.sleep(2)
    stored_ticks = ticks(pair, "count_stock")
    assert len(stored_ticks) == (stored_ticks[-1] - stored_ticks[0]) / SECOND + 1
    assert recurring.get("count_stock").missed_count == 0
