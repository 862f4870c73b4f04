"""Deadlocks and serialization failures: the run restarts at once, in the same attempt."""

from __future__ import annotations

from collections import Counter as Counted
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from apps.shop import Customer
from apps.shop_deadlocks import LockTwoRows, RaiseDeadlocks, RaiseDeadlocksWithRule
from harness.pairs import Pair

from dexpy.database.tables import attempts
from dexpy.worker.record_job import MAX_CONFLICT_RERUNS

WAIT_S = 60.0


def on(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("own_pair", names, indirect=True)


def failures(pair: Pair, id: str) -> list[Any]:
    """Return the failures of the stored attempts of a run."""
    return [row.failure for row in pair.sql(sa.select(attempts.c.failure).where(attempts.c.record_id == id))]


def runs(folder: Path, id: str) -> int:
    return len((folder / id).read_text().splitlines())


@on("postgresql+sql", "postgresql+redis", "mariadb+sql", "mariadb+rabbitmq")
def test_two_deadlocked_runs_both_end_in_one_attempt(own_pair: Pair, tmp_path: Path) -> None:
    own_pair.start(module="apps.shop_deadlocks", processes=1, threads=2)

    tickets = [LockTwoRows(folder=str(tmp_path), first=a, second=b).async_().call() for a, b in ((1, 2), (2, 1))]

    for ticket in tickets:
        ticket.result(WAIT_S)
    rows = [own_pair.row(ticket.id) for ticket in tickets]
    assert [(row["num_attempts"], row["claim_token"]) for row in rows] == [(1, 1), (1, 1)]
    assert [failures(own_pair, ticket.id) for ticket in tickets] == [[], []]
    assert sum(runs(tmp_path, ticket.id) for ticket in tickets) == 3, "one of them was restarted once"
    assert Counted(own_pair.effects("crossed%")) == {"crossed from 1": 1, "crossed from 2": 1}
    names = [row.name for row in own_pair.sql(sa.select(Customer.name).where(Customer.id.in_((1, 2))))]
    assert len({name.partition(" ")[0] for name in names}) == 1, "the last execution has written both names"


@on("postgresql+sql", "mariadb+sql")
@pytest.mark.parametrize("operation", [RaiseDeadlocks, RaiseDeadlocksWithRule])
def test_a_run_is_restarted_after_a_deadlock_a_few_times_within_one_attempt(
    own_pair: Pair, tmp_path: Path, operation: type[RaiseDeadlocks]
) -> None:
    own_pair.start(module="apps.shop_deadlocks", processes=1, threads=2)

    ticket = operation(folder=str(tmp_path), times=MAX_CONFLICT_RERUNS).async_().call()

    assert ticket.result(WAIT_S) == MAX_CONFLICT_RERUNS + 1
    assert own_pair.row(ticket.id)["num_attempts"] == 1
    assert failures(own_pair, ticket.id) == []
    assert own_pair.effects("did not%") == ["did not give way"]


@on("postgresql+sql", "mariadb+sql")
def test_a_run_with_repeated_deadlocks_waits_before_its_next_attempt(own_pair: Pair, tmp_path: Path) -> None:
    own_pair.start(module="apps.shop_deadlocks", processes=1, threads=2)

    ticket = RaiseDeadlocks(folder=str(tmp_path), times=MAX_CONFLICT_RERUNS + 1).async_().call()

    assert ticket.result(WAIT_S) == MAX_CONFLICT_RERUNS + 2
    assert own_pair.row(ticket.id)["num_attempts"] == 2
    assert failures(own_pair, ticket.id) == ["crash"]
    assert own_pair.effects("did not%") == ["did not give way"]
