"""The order of the queues of a worker, with real workers on each database and broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from apps.shop import Count, Greet
from harness.policy_workers import PolicyPair
from harness.workers import eventually

from dexpy import queues
from dexpy.database.tables import records

WAIT_S = 60.0
THREADS = 2
EACH = [
    "sqlite+sql",
    "sqlite+redis",
    pytest.param("postgresql+sql", marks=pytest.mark.servers),
    pytest.param("mariadb+sql", marks=pytest.mark.servers),
    pytest.param("postgresql+redis", marks=pytest.mark.servers),
    pytest.param("mariadb+rabbitmq", marks=pytest.mark.servers),
]


def started(pair: PolicyPair, tickets: Sequence[Any]) -> list[Any]:
    """Return the start times of runs, in order; pending ones have none."""
    query = sa.select(records.c.started_at).where(records.c.id.in_([ticket.id for ticket in tickets]))
    return sorted(row.started_at for row in pair.sql(query) if row.started_at is not None)


@pytest.mark.parametrize("pair", EACH, indirect=True)
def test_a_worker_takes_from_a_queue_only_while_the_earlier_ones_are_empty(pair: PolicyPair) -> None:
    calm = [Count(number=number, seconds=0.1).async_().call() for number in range(1000, 1300)]
    first = [Count(number=number).async_(queue="critical", priority=number % 3).call() for number in range(100, 120)]
    pair.start("-Q", "critical,mail*,default", processes=1, threads=THREADS)
    eventually(lambda: len(started(pair, calm)) > 5, "the later queue is served", WAIT_S, pair.output)
    last = started(pair, first)[-1]
    # A thread may start a later run after another thread has taken the last message, and before it has claimed its run.
    assert sum(moment < last for moment in started(pair, calm)) <= 2 * THREADS, "the earlier queue is served first"

    num_started = len(started(pair, calm))
    more = [Count(number=number, seconds=0.1).async_(queue="critical").call() for number in range(200, 210)]
    new = Greet(name="Ada").async_(queue="mail_eu").call()

    # A new queue that matches a pattern is discovered within two seconds.
    assert new.result(WAIT_S, 0.02) == "hello Ada"
    eventually(lambda: len(started(pair, more)) == len(more), "all have started", WAIT_S, pair.output)
    last = started(pair, more)[-1]
    num_between = sum(moment < last for moment in started(pair, calm)) - num_started
    # Those that run already, and those that start until all of the urgent ones are enqueued.
    assert num_between <= 3 * THREADS, pair.output()
    assert len(started(pair, calm)) < len(calm), "the later queue was never empty"

    other = Greet(name="Ada").async_(queue="other").call()
    state = {queue.name: queue for queue in queues.all()}
    assert (state["other"].due, state["other"].workers) == (1, ())
    assert [len(state[name].workers) for name in ("critical", "mail_eu", "default")] == [1, 1, 1]
    assert other.reload().status == "pending"
