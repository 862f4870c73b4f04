"""Real workers delete old records while they run operations, and after one of them was killed meanwhile."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
import sqlalchemy as sa
from apps import shop_retention
from apps.shop_retention import Audit, Scan, Ship
from harness.policy_workers import PolicyPair, open_pair
from harness.workers import eventually, is_alive

from dexpy import enqueue_all
from dexpy.database.column_types import after
from dexpy.database.tables import records, retention
from dexpy.runtime import install

PAIRS = [
    pytest.param("sqlite+sql"),
    pytest.param("postgresql+redis", marks=pytest.mark.servers),
    pytest.param("mariadb+sql", marks=pytest.mark.servers),
]
NUMBER = 60


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[PolicyPair]:
    """A pair whose workers look for old records every second."""
    with open_pair(request.param, tmp_path, shop_retention) as policy_pair:
        policy_pair.variables = {"DEXPY_RETENTION_INTERVAL": "1s", "DEXPY_RETENTION_BATCH_SIZE": "10"}
        policy_pair.configure()
        yield policy_pair
    install(None)


def count(pair: PolicyPair, operation: str) -> int:
    query = sa.select(sa.func.count()).select_from(records).where(records.c.operation == operation)
    return int(pair.sql(query)[0][0])


@pytest.mark.parametrize("pair", PAIRS, indirect=True)
def test_workers_delete_old_records_while_they_run_others_although_one_was_killed(pair: PolicyPair) -> None:
    for operation in (Scan(), Audit(), Ship(number=0)):
        operation.call()
    old = dict.fromkeys(["completed_at", "created_at", "updated_at"], after(-90000.0))
    columns = [column for column in records.c if column.name not in ("id", *old)]
    (template,) = pair.sql(sa.select(*columns).where(records.c.operation == "retention.scan"))
    with pair.engine.begin() as connection:
        for index in range(NUMBER):
            row = dict(template._mapping)
            connection.execute(sa.insert(records).values(id=f"op_old_{index:03}", **row, **old))
        connection.execute(sa.update(records).values(completed_at=after(-90000.0)))
    # Killed in the transaction that would have deleted the first batch.
    killed = pair.start_killed_at("records_locked_for_deletion")
    pid = eventually(lambda: pair.reached("records_locked_for_deletion"), "a batch is locked", 20, killed.output)
    assert pid is not None
    eventually(lambda: not is_alive(pid), "the worker is killed")
    assert count(pair, "retention.scan") == NUMBER + 1

    waiting = pair.start_killed_at("records_locked_for_deletion=wait") if pair.url.startswith("s") is False else None
    pair.start(processes=2)
    tickets = enqueue_all([Ship(number=number) for number in range(20)])

    eventually(lambda: all(ticket.reload().done for ticket in tickets), "runs are claimed meanwhile", 20, pair.output)
    if waiting is not None:
        pair.release_waiting()
    eventually(lambda: count(pair, "retention.scan") == 0, "old records are deleted", 20, pair.output)
    assert count(pair, "retention.audit") == 1
    assert count(pair, "retention.ship") == 21
    assert "records.pruned" in pair.output()
    assert "task.failed" not in pair.output()


@pytest.mark.parametrize("pair", [pytest.param("sqlite+sql")], indirect=True)
def test_a_worker_that_deletes_nothing_stores_its_retention_for_a_relay_without_its_classes(pair: PolicyPair) -> None:
    Audit().call()
    Ship(number=0).call()
    pair.change(sa.update(records).values(completed_at=after(-90000.0)))
    pair.variables |= {"DEXPY_RETENTION_DONE": "1h"}
    assert pair.dexpy("relay", "--once").returncode == 0
    assert (count(pair, "retention.audit"), count(pair, "retention.ship")) == (1, 1), "no worker has stored its rules"

    pair.variables |= {"DEXPY_RETENTION_PRUNE": "false"}
    pair.start()
    eventually(lambda: pair.sql(sa.select(retention)), "the worker stores its retention", 20, pair.output)
    pair.variables |= {"DEXPY_RETENTION_PRUNE": "true"}
    assert pair.dexpy("relay", "--once").returncode == 0

    assert (count(pair, "retention.audit"), count(pair, "retention.ship")) == (1, 0)
