"""`Lock` with real workers: two at once, workers that are killed around a lock, frozen with it, or told to end."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import limited_shop
import pytest
import sqlalchemy as sa
from crew import RESCUE_WITHIN_S, Crew
from limited_shop import Contended, Locked, LockedForEver
from marked import WAIT_S, all_final, effects, marks, most_at_once, nothing_is_left
from workers import eventually

from dexpy import Ticket
from dexpy.recording.tables import records

APPLICATION = limited_shop
RUNS = 60
SLACK_S = 3.0
"""What a busy machine takes to run what was offered."""

POINTS = ("lock_waiting", "lock_taken", "holding", "lock_releasing")


def test_two_workers_never_hold_a_lock_at_once(crew: Crew) -> None:
    crew.start(threads=4)
    crew.start(threads=4)
    for number in range(RUNS):
        Contended(key="one", number=number, hold_s=0.01).async_().call()
        Locked(key="two", number=number + RUNS, hold_s=0.01).async_().call()
    rows = all_final(crew)
    assert Counter(row.status for row in rows) == {"done": 2 * RUNS}, crew.tell()
    assert most_at_once(crew) == {"one": 1, "two": 1}
    assert effects(crew) == Counter(range(2 * RUNS))
    assert len({mark.pid for mark in marks(crew)}) == 2, "both took part"


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_that_is_killed_leaves_no_lock_behind(crew: Crew, point: str) -> None:
    deadly = crew.start_deadly(point, threads=2)
    for number in range(4):
        Locked(key="one", number=number, hold_s=1.3 if point == "lock_waiting" else 0.05).async_().call()
    eventually(lambda: crew.reached(point), f"somebody dies at {point}", WAIT_S, crew.tell)
    pid, survivor = crew.reached(point), crew.start(threads=2)
    deadly.stop()
    since = time.time()

    rows = all_final(crew)

    assert Counter(row.status for row in rows) == {"done": 4}, crew.tell()
    killed = {mark.pid for mark in marks(crew)} - set(survivor.children())
    assert most_at_once(crew, killed) == {"one": 1}
    assert effects(crew) == Counter(range(4))
    nothing_is_left(crew)
    after = [mark.at for mark in marks(crew) if mark.what == "begin" and mark.pid != pid]
    assert min(after) - since < RESCUE_WITHIN_S + SLACK_S


def test_a_worker_that_is_frozen_with_a_lock_loses_it_with_its_run(crew: Crew) -> None:
    if "sqlite" in crew.url:
        pytest.skip("on SQLite a frozen worker is alive, and its runs and locks are its own")
    frozen = crew.start_deadly("holding=wait", threads=1)
    ticket = Locked(key="one", number=1).async_().call()
    pid = eventually(lambda: crew.reached("holding"), "it holds the lock", WAIT_S, crew.tell)
    os.kill(pid, signal.SIGSTOP)
    crew.start(threads=1)

    assert ticket.result(WAIT_S) == 1
    crew.let_go()
    os.kill(pid, signal.SIGCONT)
    eventually(lambda: frozen.lines("crashed") or frozen.lines("claim.lost"), "it is told", WAIT_S, crew.tell)

    assert effects(crew) == Counter({1: 1}), "what the frozen one did was rolled back"
    (row,) = crew.sql(sa.select(records))
    assert (row.status, row.num_lost) == ("done", 1)


def test_a_run_that_waits_for_a_lock_is_given_back_when_its_worker_ends(crew: Crew) -> None:
    crew.start(threads=1)
    Locked(key="one", number=1, hold_s=5.0).async_().call()
    eventually(lambda: marks(crew), "it holds the lock", WAIT_S, crew.tell)
    ending = crew.start("--shutdown-timeout", "1", threads=1)
    waiting = LockedForEver(key="one", number=2).async_().call()
    eventually(lambda: waiting.reload().running, "another one waits for it", WAIT_S, crew.tell)
    ending.signal(signal.SIGTERM)
    assert ending.ended() == 0, crew.tell()
    rows = all_final(crew)
    assert [(row.status, row.num_attempts, row.num_lost) for row in rows] == [("done", 1, 0)] * 2, crew.tell()
    assert most_at_once(crew) == {"one": 1}


def test_a_run_that_waits_for_a_lock_can_be_cancelled(crew: Crew) -> None:
    crew.start(threads=2)
    Locked(key="one", number=1, hold_s=4.0).async_().call()
    eventually(lambda: marks(crew), "it holds the lock", WAIT_S, crew.tell)
    waiting: Ticket[int] = LockedForEver(key="one", number=2).async_().call()
    eventually(lambda: waiting.reload().running, "another one waits for it", WAIT_S, crew.tell)
    waiting.cancel()
    eventually(lambda: waiting.reload().terminal, "it has stopped waiting", 3.5, crew.tell)
    assert (waiting.status, waiting.failure) == ("expired", "cancelled")
    all_final(crew)
    assert effects(crew) == Counter({1: 1})
