"""Unique under real workers, and their deaths."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

import keyed_shop
import pytest
import sqlalchemy as sa
from crew import RESCUE_WITHIN_S, Crew
from keyed_shop import Open, Reindex
from workers import eventually

from dexpy.recording.tables import records

APPLICATION = keyed_shop


def reached(crew: Crew, point: str) -> int:
    return eventually(lambda: crew.reached(point), f"somebody reaches {point}", 30, crew.tell)


def keys_held(crew: Crew) -> list[str]:
    return [row.status for row in crew.sql(sa.select(records.c.status).where(records.c.unique_key.is_not(None)))]


@pytest.mark.parametrize("kind", [Reindex, Open])
def test_two_workers_never_run_two_that_were_one(crew: Crew, kind: type[Reindex]) -> None:
    crew.start(processes=2)
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
    assert len(crew.effects()) == len(stored)
    assert keys_held(crew) == []


def test_while_a_dead_workers_run_waits_for_another_one_its_key_is_held(crew: Crew) -> None:
    crew.start_deadly("in_perform")
    ticket = Reindex(shop=1).async_().call()
    reached(crew, "in_perform")
    assert Reindex(shop=1).async_().call().id == ticket.id
    crew.start()
    assert ticket.result(30) == 1
    assert (crew.effects(), keys_held(crew)) == (["reindex 1"], [])
    assert not Reindex(shop=1).async_().call().duplicate


@pytest.mark.parametrize("point", ["after_claim", "before_commit", "before_ack"])
def test_a_worker_that_is_killed_leaves_no_key_behind(crew: Crew, point: str) -> None:
    crew.start_deadly(point)
    tickets = [Reindex(shop=shop).async_().call() for shop in range(4)]
    reached(crew, point)
    crew.start()
    for ticket in tickets:
        ticket.result(RESCUE_WITHIN_S + 20)
    assert keys_held(crew) == []
    assert sorted(crew.effects()) == [f"reindex {shop}" for shop in range(4)]


def test_a_process_that_is_killed_while_it_enqueues_leaves_no_key(crew: Crew) -> None:
    script = (
        "import sys, keyed_shop; from deadly import Deadly; from pathlib import Path;"
        "from dexpy.foundation import checkpoint as c; c.reached = Deadly(Path(sys.argv[1]), 'key_claimed').reach;"
        "keyed_shop.Reindex(shop=1).async_().call()"
    )
    dead = crew.serve([sys.executable, "-c", script, str(crew.folder)])
    assert dead.ended() == -signal.SIGKILL
    eventually(lambda: not keys_held(crew), "the transaction is gone", RESCUE_WITHIN_S, crew.tell)
    assert not Reindex(shop=1).async_().call().duplicate
