"""Ids that sort by time, and the clock that tests move."""

from __future__ import annotations

from datetime import timedelta, timezone

from dexpy.foundation.clock import Clock, clock
from dexpy.foundation.ids import new_id


def test_ids_sort_by_the_time_they_were_made() -> None:
    made = []
    try:
        for _ in range(50):
            made.append(new_id("op"))
            clock.advance(0.002)
    finally:
        clock.reset()

    assert made == sorted(made)
    assert len(set(made)) == 50
    assert {len(one) for one in made} == {29}


def test_ids_of_one_moment_differ() -> None:
    assert len({new_id("op") for _ in range(1000)}) == 1000


def test_a_clock_moves_and_comes_back() -> None:
    watch = Clock()
    before = watch.now()

    watch.advance(timedelta(days=1))
    assert watch.now() - before >= timedelta(days=1)
    assert watch.now().tzinfo is timezone.utc

    watch.reset()
    assert watch.now() - before < timedelta(hours=1)
