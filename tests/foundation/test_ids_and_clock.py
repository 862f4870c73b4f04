"""Ids that sort by time, and the clock that tests move."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta, timezone

import pytest

from dexpy.foundation.clock import Clock, clock
from dexpy.foundation.ids import new_id


def test_ids_sort_by_the_time_they_were_made() -> None:
    collected = []
    try:
        for _ in range(50):
            collected.append(new_id("op"))
            clock.advance(0.002)
    finally:
        clock.reset()

    assert collected == sorted(collected)
    assert len(set(collected)) == 50
    assert {len(one) for one in collected} == {29}


def test_ids_of_one_thread_sort_as_they_were_made_within_a_millisecond_too() -> None:
    ids = [new_id("op") for _ in range(1000)]

    assert ids == sorted(set(ids))
    assert len({one[:13] for one in ids}) < 1000, "some were of one millisecond"


def test_ids_of_concurrent_threads_differ() -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = [one for some in pool.map(lambda _: [new_id("op") for _ in range(500)], range(8)) for one in some]

    assert len(set(ids)) == 4000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_ids_after_a_fork_differ() -> None:
    """Even in the millisecond of the last one."""
    moment = clock.timestamp()
    code = (
        "from dexpy.foundation.ids import clock, new_id; import os; clock.timestamp = lambda: {moment}; new_id('op'); "
    )
    # In one write: what both of them print may get mixed.
    code += "child = os.fork(); os.write(1, (new_id('op') + '\\n').encode()); child and os.waitpid(child, 0)"
    process = subprocess.run(
        [sys.executable, "-c", code.format(moment=moment)], check=True, capture_output=True, text=True, timeout=60
    )
    first, second = process.stdout.split()

    assert first[:13] == second[:13]
    assert first != second


def test_a_clock_can_be_moved_and_restored() -> None:
    watch = Clock()
    before = watch.now()

    watch.advance(timedelta(days=1))
    assert watch.now() - before >= timedelta(days=1)
    assert watch.now().tzinfo is timezone.utc

    watch.reset()
    assert watch.now() - before < timedelta(hours=1)
