"""Urgent runs overtake messages that a broker has already delivered."""

from __future__ import annotations

from collections import Counter as Counted
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from apps.shop import Count
from apps.shop_next_release import GreetInNextRelease
from harness.pairs import Pair
from harness.workers import eventually

from dexpy.database.tables import records

WAIT_S = 60.0
URGENT = 5
CALM = 200
SECONDS = 0.1
"""The duration of an ordinary run in seconds: urgent rows are polled many times before the last one ends."""
PAIRS = ["postgresql+redis", "postgresql+rabbitmq", "mariadb+redis", "sqlite+sql"]
SERVERS = PAIRS[:-1]
"""The SQL broker delivers by priority, so there is no overtaking on it."""


def on(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("own_pair", names, indirect=True)


def rows_of(pair: Pair, tickets: Sequence[Any]) -> list[Any]:
    return list(pair.sql(sa.select(records).where(records.c.id.in_([ticket.id for ticket in tickets]))))


def started(pair: Pair, tickets: Sequence[Any]) -> list[Any]:
    """Return the start times of these runs, in order; pending ones have none."""
    return sorted(row.started_at for row in rows_of(pair, tickets) if row.started_at is not None)


def all_done(pair: Pair, tickets: Sequence[Any]) -> None:
    def unfinished() -> list[Any]:
        return [(row.id, row.operation, row.status) for row in rows_of(pair, tickets) if row.status != "done"]

    eventually(lambda: not unfinished(), "all runs are done", WAIT_S, lambda: f"{unfinished()}\n{pair.output()}")


def enqueue_calm() -> list[Any]:
    return [Count(number=number, seconds=SECONDS).async_().call() for number in range(CALM)]


@on(*PAIRS)
def test_urgent_runs_start_before_most_earlier_deliveries(own_pair: Pair) -> None:
    calm = enqueue_calm()
    own_pair.start(processes=1, threads=4)
    eventually(lambda: started(own_pair, calm), "the first runs of the backlog have started", WAIT_S, own_pair.output)
    numbers = range(CALM, CALM + 20)

    urgent = [Count(number=number).async_(priority=URGENT).call() for number in numbers]

    all_done(own_pair, [*calm, *urgent])
    last = started(own_pair, urgent)[-1]
    num_overtaken = sum(began > last for began in started(own_pair, calm))
    assert num_overtaken > CALM / 2, f"{num_overtaken} of {CALM} started after the last urgent run"
    assert Counted(own_pair.effects("count %")) == Counted(f"count {number}" for number in range(CALM + 20))
    assert {row.num_attempts for row in rows_of(own_pair, [*calm, *urgent])} == {1}


@on(*SERVERS)
def test_several_processes_share_urgent_runs_and_run_each_once(own_pair: Pair) -> None:
    numbers = range(300)
    own_pair.start(processes=2, threads=4)

    tickets = [Count(number=number, seconds=0.01).async_(priority=number % 7).call() for number in numbers]

    all_done(own_pair, tickets)
    assert Counted(own_pair.effects("count %")) == Counted(f"count {number}" for number in numbers)
    assert {row.num_attempts for row in rows_of(own_pair, tickets)} == {1}


@on(*PAIRS)
def test_a_worker_leaves_urgent_unknown_operations_to_a_worker_that_knows_them(own_pair: Pair) -> None:
    waves = [GreetInNextRelease(number=number).async_(priority=URGENT).call() for number in range(10)]
    own_pair.start_with_short_grace("apps.shop", grace_s=600)
    counts = [Count(number=number, seconds=0.01).async_(priority=number % 2).call() for number in range(60)]

    all_done(own_pair, counts)

    assert {(row.status, row.num_attempts) for row in rows_of(own_pair, waves)} == {("pending", 0)}
    own_pair.start_with_short_grace("apps.shop_next_release", grace_s=600)
    all_done(own_pair, waves)
    assert Counted(own_pair.effects("wave %")) == Counted(f"wave {number}" for number in range(10))
    assert Counted(own_pair.effects("count %")) == Counted(f"count {number}" for number in range(60))
