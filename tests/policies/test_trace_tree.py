"""`records.tree` returns the nested and background runs of a trace as one tree."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest
import sqlalchemy as sa

import dexpy
from dexpy import Operation, Retry, records
from dexpy.database.column_types import after
from dexpy.testing import Isolated

ACTOR = {"type": "user", "id": 7}


class Leaf(Operation):
    number: int = 0

    def perform(self) -> int:
        return self.number


class Later(Operation):
    """Calls a leaf in place."""

    def perform(self) -> int:
        return Leaf(number=2).call()


class Root(Operation):
    """Calls a leaf in place, and enqueues another operation."""

    def perform(self) -> int:
        Leaf(number=1).call()
        Later().async_().call()
        return 1


def shape(nodes: Iterable[records.Node]) -> list[Any]:
    """Return names and their children, sorted by name: ids sort only to the millisecond."""
    return sorted((node.operation.rpartition(".")[2], shape(node.children)) for node in nodes)


WHOLE = ("Root", [("Later", [("Leaf", [])]), ("Leaf", [])])
"""The tree of a `Root` whose background runs have ended."""


def test_nested_and_background_runs_are_children_of_the_runs_that_started_them(isolated_runtime: Isolated) -> None:
    with dexpy.trace(actor=ACTOR, trace_id="req-1"):
        Root().call()
        Leaf(number=3).call()
    isolated_runtime.run_pending()
    tree = records.tree("req-1")
    assert shape(tree.roots) == [("Leaf", []), WHOLE]
    assert [node.depth for node in tree.walk()].count(2) == 1
    assert len(tree) == 5
    assert tree.actor == {"type": "user", "id": "7"}
    assert all(child.parent_id == root.id for root in tree.roots for child in root.children)
    assert {node.status for node in tree.walk()} == {"done"}
    assert all(node.seconds is not None and node.seconds >= 0 for node in tree.walk())
    assert records.where(trace="req-1", actor="user").count() == 5, "background runs have the actor too"


def test_a_tree_is_plain_json_and_can_be_printed(isolated_runtime: Isolated) -> None:
    with dexpy.trace(actor=ACTOR, trace_id="req-1"):
        Root().call()
    tree = records.tree("req-1")
    data = tree.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert (data["trace_id"], data["actor"]) == ("req-1", {"type": "user", "id": "7"})
    root = data["runs"][0]
    statuses = {child["operation"].rpartition(".")[2]: child["status"] for child in root["children"]}
    assert statuses == {"Leaf": "done", "Later": "pending"}
    lines = str(tree).splitlines()
    assert lines[0] == "req-1 by user 7"
    assert lines[1].startswith(f"└─ {root['operation']} {root['id']} done ")
    assert lines[2].startswith("   ├─ ")
    assert lines[3].startswith("   └─ ")
    assert "pending" in lines[2] + lines[3]


def test_an_unknown_trace_is_an_empty_tree(isolated_runtime: Isolated) -> None:
    tree = records.tree("req-0")
    assert (len(tree), tree.roots, tree.actor, str(tree)) == (0, (), None, "req-0")


class Flaky(Operation):
    """Fails twice; each attempt calls a leaf."""

    retry_on = (Retry(ConnectionError, attempts=3, wait=0),)

    def perform(self) -> str:
        number = records.get(self.run_id).num_attempts
        Leaf(number=number).call()
        if number < 3:
            raise ConnectionError("not yet")
        return self.run_id


def test_a_retry_is_the_same_run_with_the_same_id_and_parent(isolated_runtime: Isolated) -> None:
    with dexpy.trace(trace_id="req-1"):
        ticket = Flaky().async_().call()
    isolated_runtime.run_pending()
    tree = records.tree("req-1")
    root = tree.roots[0]
    assert (root.id, root.attempts, root.status, len(tree.roots)) == (ticket.id, 3, "done", 1)
    assert shape(root.children) == [("Leaf", [])] * 3
    assert "attempt 3" in str(tree)


class Gathers(Operation):
    async def perform(self) -> int:
        return sum(await asyncio.gather(*(Leaf(number=number).acall() for number in range(5))))


def test_runs_that_are_gathered_are_children_of_the_run_that_gathers_them(isolated_runtime: Isolated) -> None:
    with dexpy.trace(actor=ACTOR, trace_id="req-1"):
        assert asyncio.run(Gathers().acall()) == 10
    assert shape(records.tree("req-1").roots) == [("Gathers", [("Leaf", [])] * 5)]
    assert records.where(trace="req-1", actor="user").count() == 6


def test_concurrent_coroutines_keep_separate_traces(isolated_runtime: Isolated) -> None:
    async def request(number: int) -> None:
        with dexpy.trace(trace_id=f"req-{number}"):
            await Root().acall()

    async def all_of_them() -> None:
        await asyncio.gather(*(request(number) for number in range(4)))

    asyncio.run(all_of_them())
    isolated_runtime.run_pending()
    for number in range(4):
        assert shape(records.tree(f"req-{number}").roots) == [WHOLE]


def test_children_of_a_pruned_run_are_at_the_root(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    with dexpy.trace(trace_id="req-1"):
        Root().call()
    pruned_id = records.tree("req-1").roots[0].id
    with engine.begin() as connection:
        connection.execute(sa.delete(records.table).where(records.table.c.id == pruned_id))
    tree = records.tree("req-1")
    assert shape(tree.roots) == [("Later", []), ("Leaf", [])]
    assert all(root.is_orphan and root.parent_id == pruned_id for root in tree.roots)
    assert str(tree).count("(its parent has no record)") == 2


def rows(*family: tuple[str, str | None]) -> list[dict[str, Any]]:
    return [
        {
            "id": id,
            "operation": "made.up",
            "status": "done",
            "trace_id": "req-1",
            "parent_id": parent,
            "created_at": after(0),
            "updated_at": after(0),
        }
        for id, parent in family
    ]


def insert(engine: sa.Engine, *family: tuple[str, str | None]) -> None:
    with engine.begin() as connection:
        for row in rows(*family):
            connection.execute(sa.insert(records.table).values(row))


@pytest.mark.usefixtures("isolated_runtime")
def test_a_cycle_is_cut_at_its_oldest_run(engine: sa.Engine) -> None:
    records.all().count()
    insert(engine, ("op_1", "op_3"), ("op_2", "op_1"), ("op_3", "op_2"), ("op_4", "op_3"), ("op_5", "op_5"))
    tree = records.tree("req-1")
    assert [(node.depth, node.id) for node in tree.walk()] == [
        (0, "op_1"),
        (1, "op_2"),
        (2, "op_3"),
        (3, "op_4"),
        (0, "op_5"),
    ]
    assert len(str(tree).splitlines()) == 6


def test_a_tree_of_thousands_of_runs_takes_one_query(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    deep = [(f"op_{number:05}", f"op_{number - 1:05}" if number else None) for number in range(3000)]
    wide = [(f"op_w{number:05}", "op_00000") for number in range(2000)]
    values = [{**row, "created_at": None, "updated_at": None} for row in rows(*deep, *wide)]
    now = sa.func.current_timestamp() if engine.dialect.name == "sqlite" else sa.func.now()
    with engine.begin() as connection:
        statement = sa.insert(records.table).values(created_at=now, updated_at=now)
        bare = [{key: value for key, value in row.items() if not key.endswith("_at")} for row in values]
        connection.execute(statement, bare)
    queries: list[str] = []
    engine_of_runtime = isolated_runtime.runtime.store.database.engine
    records.all().count()

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        queries.append(statement)

    sa.event.listen(engine_of_runtime, "before_cursor_execute", note)
    tree = records.tree("req-1")
    sa.event.remove(engine_of_runtime, "before_cursor_execute", note)
    assert len([query for query in queries if "operation_records" in query]) == 1
    assert len(tree) == 5000
    assert max(node.depth for node in tree.walk()) == 2999
    assert len(str(tree).splitlines()) == 5001
    assert len(tree.to_dict()["runs"]) == 1
