"""`Concurrency` with real workers: two at once, and workers that are killed around a slot."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import limited_shop
import pytest
import sqlalchemy as sa
from crew import ON_SERVERS, RESCUE_WITHIN_S, Crew
from limited_shop import Limited, Single
from marked import WAIT_S, all_final, effects, marks, most_at_once, nothing_is_left
from workers import eventually

from dexpy.recording.tables import records

APPLICATION = limited_shop
RUNS = 200
SLACK_S = 3.0
"""What a busy machine takes to run what was offered."""

POINTS = ("gate_entered", "blocked", "holding", "slot_releasing", "slot_offered")


def test_two_workers_never_run_more_than_the_limit(crew: Crew) -> None:
    workers = [crew.start(threads=4), crew.start(threads=4)]
    began = time.monotonic()
    operations = [Limited(key="one", number=number, hold_s=0.02) for number in range(RUNS)]
    for operation in operations:
        operation.async_().call()
    rows = all_final(crew)
    took_s = time.monotonic() - began

    assert Counter(row.status for row in rows) == {"done": RUNS}, crew.tell()
    assert {row.num_attempts for row in rows} == {1}
    assert most_at_once(crew) == {"one": 2}, "never three, and two at some time"
    assert effects(crew) == Counter(range(RUNS))
    assert len({mark.pid for mark in marks(crew)}) == len(workers), "both took part"
    nothing_is_left(crew)
    print(f"{RUNS} runs of 20 ms, two at a time: {took_s:.2f} s")


def test_one_that_waits_keeps_no_thread(crew: Crew) -> None:
    crew.start(threads=2)
    long = Single(key="one", number=0, hold_s=1.5).async_().call()
    eventually(lambda: marks(crew), "it has begun", WAIT_S, crew.tell)
    waiting = [Single(key="one", number=number).async_().call() for number in range(1, 6)]
    blocked = sa.select(records.c.id).where(records.c.blocked_key.is_not(None))
    eventually(lambda: len(crew.sql(blocked)) == len(waiting), "they wait", WAIT_S, crew.tell)
    other = Single(key="two", number=9).async_().call()
    assert other.result(WAIT_S) == 9
    assert long.reload().running
    all_final(crew)
    order = [mark.number for mark in marks(crew) if mark.what == "begin" and mark.key == "one"]
    assert order == [0, 1, 2, 3, 4, 5], "in the order of their age"


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_that_is_killed_leaves_no_slot_taken(crew: Crew, point: str) -> None:
    deadly = crew.start_deadly(point, threads=2)
    for number in range(6):
        Single(key="one", number=number, hold_s=0.1).async_().call()
    eventually(lambda: crew.reached(point), f"somebody dies at {point}", WAIT_S, crew.tell)
    pid, survivor = crew.reached(point), crew.start(threads=2)
    deadly.stop()
    since = time.time()

    rows = all_final(crew)

    assert Counter(row.status for row in rows) == {"done": 6}, crew.tell()
    killed = {mark.pid for mark in marks(crew)} - set(survivor.children())
    assert most_at_once(crew, killed) == {"one": 1}
    assert effects(crew) == Counter(range(6))
    nothing_is_left(crew)
    after = [mark.at for mark in marks(crew) if mark.what == "begin" and mark.pid != pid]
    assert min(after) - since < RESCUE_WITHIN_S + SLACK_S


@ON_SERVERS
def test_a_worker_that_is_frozen_inside_the_gate_keeps_its_key_from_nobody_for_longer_than_its_lease(
    crew: Crew,
) -> None:
    first = crew.start(threads=2)
    Single(key="one", number=0, hold_s=1.5).async_().call()
    eventually(lambda: marks(crew), "it has begun", WAIT_S, crew.tell)
    for number in range(1, 4):
        Single(key="one", number=number).async_().call()
    blocked = sa.select(records.c.id).where(records.c.blocked_key.is_not(None))
    eventually(lambda: len(crew.sql(blocked)) == 3, "they wait", WAIT_S, crew.tell)
    crew.start_deadly("gate_entered=wait", threads=1)
    # Its run ends, and the slot is offered to the next one: who takes that is the other worker.
    first.signal(signal.SIGTERM)
    assert first.ended() == 0
    eventually(lambda: crew.reached("gate_entered"), "one is at the gate", WAIT_S, crew.tell)
    frozen = crew.reached("gate_entered")
    assert frozen is not None
    os.kill(frozen, signal.SIGSTOP)
    since = time.time()
    try:
        crew.start(threads=2)
        rows = all_final(crew)
        assert Counter(row.status for row in rows) == {"done": 4}, crew.tell()
        begun = [mark.at for mark in marks(crew) if mark.what == "begin" and mark.number > 0]
        assert min(begun) - since < RESCUE_WITHIN_S + SLACK_S
    finally:
        crew.let_go()
        os.kill(frozen, signal.SIGCONT)
    assert effects(crew) == Counter(range(4))
    nothing_is_left(crew)
