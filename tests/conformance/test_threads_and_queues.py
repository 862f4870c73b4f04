"""A worker process claims only messages for which it has a free thread, so that none waits while another is idle."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from apps.shop import Count, Greet
from harness.pairs import Pair
from harness.workers import eventually

from dexpy import Ticket
from dexpy.database.tables import records

WAIT_S = 30.0
POLL_S = 0.02
LONG_S = 60.0
"""The duration in seconds of runs that last longer than the test, at whose end the workers are killed."""
CROWD = 200
EACH = [
    pytest.param("sqlite+sql", marks=pytest.mark.anywhere),
    "postgresql+sql",
    pytest.param("sqlite+redis", marks=pytest.mark.anywhere),
    "postgresql+redis",
    "mariadb+rabbitmq",
]


def workers_of(pair: Pair, tickets: list[Ticket[None]]) -> list[str]:
    """Wait until all runs have started, and return the worker of each."""
    ids = [ticket.id for ticket in tickets]
    running = sa.select(records.c.claimed_by).where(records.c.id.in_(ids), records.c.status == "running")
    eventually(lambda: len(pair.sql(running)) == len(ids), "all runs have started", WAIT_S, pair.output)
    return [row[0] for row in pair.sql(running)]


@pytest.mark.parametrize("own_pair", EACH, indirect=True)
def test_a_long_run_of_another_queue_delays_nothing_while_a_process_is_idle(own_pair: Pair) -> None:
    own_pair.start("-Q", "default,loud", processes=2, threads=2)
    long = [Count(number=number, seconds=LONG_S).async_(queue="loud").call() for number in range(3)]
    # One process has no free thread, and the other one has one.
    assert len(set(workers_of(own_pair, long))) == 2, own_pair.output()

    for number in range(10):
        assert Greet(name=str(number)).async_().call().result(WAIT_S, POLL_S) == f"hello {number}"
    assert [own_pair.row(ticket.id)["status"] for ticket in long] == ["running"] * 3, (
        "the long runs last longer than the others"
    )


@pytest.mark.parametrize("own_pair", EACH, indirect=True)
def test_a_queue_that_is_never_empty_starves_no_other(own_pair: Pair) -> None:
    # Enqueued before the worker starts, so that both threads are always busy.
    crowd = [Count(number=number, seconds=0.05).async_(queue="loud").call() for number in range(CROWD)]
    own_pair.start(processes=1, threads=2)

    num_ahead = 0
    for number in range(5):
        ticket = Greet(name=str(number)).async_().call()
        assert ticket.result(WAIT_S, POLL_S) == f"hello {number}"
        greet = own_pair.row(ticket.id)
        of_crowd = (records.c.queue == "loud", records.c.started_at > greet["created_at"])
        before = sa.select(sa.func.count()).where(*of_crowd, records.c.started_at < greet["started_at"])
        num_ahead += own_pair.sql(before)[0][0]
    # The queues take turns: each of these operations waits for a few runs of the long queue only.
    assert num_ahead < CROWD / 5, own_pair.output()
    num_pending = sa.select(sa.func.count()).where(records.c.status == "pending")
    assert own_pair.sql(num_pending)[0][0] > 0, "the long queue was never empty"
    ids = [ticket.id for ticket in crowd]
    unfinished = sa.select(records.c.id).where(records.c.id.in_(ids), records.c.status != "done")
    eventually(lambda: not own_pair.sql(unfinished), "all runs of the long queue are done", WAIT_S, own_pair.output)
