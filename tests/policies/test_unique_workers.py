"""`Unique` with real workers, some of them killed."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

import pytest
import sqlalchemy as sa
from apps import shop_keys
from apps.shop_keys import Open, Reindex
from harness.policy_workers import RECOVER_WITHIN_S, PolicyPair
from harness.workers import eventually

from dexpy.database.tables import records

APPLICATION = shop_keys


def reached(pair: PolicyPair, point: str) -> int:
    return eventually(lambda: pair.reached(point), f"a worker reaches {point}", 30, pair.output)


def keys_held(pair: PolicyPair) -> list[str]:
    return [row.status for row in pair.sql(sa.select(records.c.status).where(records.c.unique_key.is_not(None)))]


@pytest.mark.parametrize("kind", [Reindex, Open])
def test_two_workers_never_run_a_duplicate(pair: PolicyPair, kind: type[Reindex]) -> None:
    pair.start(processes=2)
    tickets: list[Any] = []

    def enqueue() -> None:
        tickets.extend(kind(shop=shop).async_().call() for _ in range(5) for shop in range(3))

    threads = [threading.Thread(target=enqueue) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(tickets) == 45
    stored = {ticket.id for ticket in tickets if not ticket.duplicate}
    assert stored == {ticket.id for ticket in tickets}
    for ticket in tickets:
        ticket.wait(30)
    assert len(pair.effects()) == len(stored)
    assert keys_held(pair) == []


def test_the_key_of_a_dead_workers_run_is_held_until_it_is_recovered(pair: PolicyPair) -> None:
    pair.start_killed_at("in_perform")
    ticket = Reindex(shop=1).async_().call()
    reached(pair, "in_perform")
    assert Reindex(shop=1).async_().call().id == ticket.id
    pair.start()
    assert ticket.result(30) == 1
    assert (pair.effects(), keys_held(pair)) == (["reindex 1"], [])
    assert not Reindex(shop=1).async_().call().duplicate


@pytest.mark.parametrize("point", ["after_claim", "before_commit", "before_ack"])
def test_a_worker_that_is_killed_leaves_no_key_behind(pair: PolicyPair, point: str) -> None:
    pair.start_killed_at(point)
    tickets = [Reindex(shop=shop).async_().call() for shop in range(4)]
    reached(pair, point)
    pair.start()
    for ticket in tickets:
        ticket.result(RECOVER_WITHIN_S + 20)
    assert keys_held(pair) == []
    assert sorted(pair.effects()) == [f"reindex {shop}" for shop in range(4)]


def test_a_process_that_is_killed_while_it_enqueues_leaves_no_key(pair: PolicyPair) -> None:
    script = (
        "import sys; from apps import shop_keys; from harness.die_at_failpoints import FailpointActions;"
        "from pathlib import Path;"
        "from dexpy.foundation import failpoints as c; c.reached = FailpointActions(Path(sys.argv[1]), "
        "'enqueue_key_claimed').reach;shop_keys.Reindex(shop=1).async_().call()"
    )
    dead = pair.serve([sys.executable, "-c", script, str(pair.folder)])
    assert dead.ended() == -signal.SIGKILL
    eventually(
        lambda: not keys_held(pair),
        "the transaction of the killed process is rolled back",
        RECOVER_WITHIN_S,
        pair.output,
    )
    assert not Reindex(shop=1).async_().call().duplicate
