"""Ambient values and traces with real workers: chains of runs, retries, coroutines, and a killed worker."""

from __future__ import annotations

import os
import signal
from typing import Any

import sqlalchemy as sa
from apps import shop_context
from apps.shop_context import ChainedRun, Direct, Flaky, Gather
from harness.policy_workers import PolicyPair
from harness.workers import eventually

import dexpy
from dexpy import Operation, Propagate
from dexpy import records as runs
from dexpy.database.tables import FINAL, records

APPLICATION = shop_context
WAIT_S = 60.0
ACTOR = {"type": "user", "id": 7}


def send(operation: Operation) -> Any:
    with dexpy.trace(actor=ACTOR, trace_id="req-1"), dexpy.context(locale=Propagate("de"), user=object()):
        return operation.async_().call()


def all_ended(pair: PolicyPair, number: int) -> runs.Tree:
    """Wait until this number of runs has ended, and return the tree."""
    ended = sa.select(sa.func.count()).select_from(records).where(records.c.status.in_(FINAL))
    eventually(lambda: pair.sql(ended)[0][0] == number, f"{number} runs have ended", WAIT_S, pair.output)
    return runs.tree("req-1")


def shape(nodes: Any) -> list[Any]:
    return sorted((node.operation.rpartition(".")[2], shape(node.children)) for node in nodes)


def chain(length: int) -> list[Any]:
    below = chain(length - 1) if length > 1 else []
    return [("ChainedRun", sorted([("ReadContext", []), *below]))]


def results(pair: PolicyPair, name: str) -> list[Any]:
    rows = pair.sql(sa.select(records.c.result, records.c.operation).order_by(records.c.id))
    return [row.result["value"] for row in rows if row.operation.endswith(f".{name}")]


def test_a_chain_through_two_workers_keeps_its_values_its_actor_and_one_trace_tree(pair: PolicyPair) -> None:
    pair.start(processes=2)
    send(ChainedRun(remaining=5))
    send(ChainedRun(remaining=5))
    tree = all_ended(pair, 24)
    assert shape(tree.roots) == chain(6) * 2
    assert {tuple(result[:2]) for result in results(pair, "ReadContext")} == {("de", "locale")}
    assert runs.for_trace("req-1").where(actor="user").count() == 24
    assert all(
        row.params == {"remaining": row.params["remaining"]}
        for row in pair.sql(sa.select(records))
        if "ChainedRun" in row.operation
    )


def test_a_run_without_a_record_propagates_values_by_its_message(pair: PolicyPair) -> None:
    pair.start()
    send(Direct(remaining=1))
    tree = all_ended(pair, 3)
    assert {tuple(result[:2]) for result in results(pair, "ReadContext")} == {("de", "locale")}
    # The direct run has no record, so its child runs are roots.
    assert shape(tree.roots) == sorted([("ReadContext", []), *chain(1)])
    assert all(root.is_orphan for root in tree.roots)
    assert len({root.parent_id for root in tree.roots}) == 1


def test_coroutines_of_a_worker_have_the_propagated_values(pair: PolicyPair) -> None:
    pair.start()
    send(Gather())
    tree = all_ended(pair, 4)
    assert shape(tree.roots) == [("Gather", [("ReadContext", [])] * 3)]
    assert {tuple(result[:2]) for result in results(pair, "ReadContext")} == {("de", "locale")}


def test_a_retry_has_the_same_position_in_the_trace_and_the_same_values(pair: PolicyPair) -> None:
    pair.start()
    ticket = send(Flaky(remaining=0))
    assert ticket.result(WAIT_S)[:2] == ["de", "locale"]
    tree = runs.tree("req-1")
    flaky = next(node for node in tree.walk() if node.operation.endswith("Flaky"))
    assert (flaky.id, flaky.attempts, len(tree.roots)) == (ticket.id, 2, 1)


def test_a_run_keeps_its_propagated_values_after_its_worker_was_killed(pair: PolicyPair) -> None:
    pair.start_killed_at("in_perform=wait", threads=1)
    ticket = send(ChainedRun(remaining=1))
    pid = eventually(lambda: pair.reached("in_perform"), "the run is in perform", WAIT_S, pair.output)
    os.kill(pid, signal.SIGKILL)
    pair.start()
    tree = all_ended(pair, 4)
    assert shape(tree.roots) == chain(2)
    assert tree.roots[0].id == ticket.id
    assert {tuple(result[:2]) for result in results(pair, "ReadContext")} == {("de", "locale")}
    assert str(pid) not in {result[2] for result in results(pair, "ReadContext")}
    assert sorted(pair.effects()) == ["link 0", "link 1"]
