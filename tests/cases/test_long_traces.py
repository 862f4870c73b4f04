"""Runs that enqueue their successors: records do not grow with the length of the chain, and long traces can be read."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest
import sqlalchemy as sa

import dexpy
from dexpy import Operation, defer, deferrable, enqueue_all, records
from dexpy.database.tables import messages
from dexpy.foundation.trace import MAX_ANCESTORS, current_frame
from dexpy.recording.trace_tree import MOST_NESTED
from dexpy.testing import Isolated

LENGTH = 16


class Poll(Operation):
    n: int

    def perform(self) -> None:
        if self.n:
            Poll(n=self.n - 1).async_().call()


class PollLater(Operation):
    n: int

    def perform(self) -> None:
        if self.n:
            PollLater(n=self.n - 1).async_(in_=60).call()


class Ping(Operation):
    n: int

    def perform(self) -> None:
        if self.n:
            Pong(n=self.n - 1).async_().call()


class Pong(Operation):
    n: int

    def perform(self) -> None:
        if self.n:
            Ping(n=self.n - 1).async_().call()


class PollTogether(Operation):
    n: int

    def perform(self) -> None:
        if self.n:
            enqueue_all([PollTogether(n=self.n - 1)])


class PollInHook(Operation):
    n: int

    def perform(self) -> None:
        if self.n:
            self.after_commit(lambda: PollInHook(n=self.n - 1).async_().call() and None)


class PollInPlace(Operation):
    """Enqueues its successor in a nested run."""

    n: int

    def perform(self) -> None:
        if self.n:
            Sends(n=self.n - 1).call()


class Sends(Operation):
    n: int

    def perform(self) -> None:
        PollInPlace(n=self.n).async_().call()


@deferrable
def poll_deferred(n: int) -> None:
    if n:
        defer(poll_deferred, n - 1)


class PollDirectly(Operation):
    record = False
    n: int

    def perform(self) -> None:
        if self.n:
            PollDirectly(n=self.n - 1).async_().call()
            sizes.append(_size_of_message())


sizes: list[int] = []


def _size_of_message() -> int:
    from dexpy.runtime import current_runtime

    with current_runtime().store.begin() as connection:  # type: ignore[union-attr]
        return max(len(payload) for payload in connection.execute(sa.select(messages.c.payload)).scalars())


def _begin(kind: type[Operation] | None) -> None:
    if kind is None:
        defer(poll_deferred, LENGTH)
    else:
        kind(n=LENGTH).async_().call()  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", [Poll, PollLater, Ping, PollTogether, PollInHook, PollInPlace, None])
def test_l2_a_record_does_not_grow_with_the_length_of_the_chain(kind: Any, isolated_runtime: Isolated) -> None:
    with dexpy.trace(trace_id="req-1"):
        _begin(kind)
    for _ in range(LENGTH + 1 if kind is PollLater else 1):
        isolated_runtime.run_pending()
        isolated_runtime.advance(61)
    rows = sorted(records.all(), key=lambda record: record.created_at)
    assert len(rows) == LENGTH * (2 if kind is PollInPlace else 1) + 1
    lengths = [len(json.dumps(record.trace)) for record in rows]
    assert max(lengths[8:]) <= max(lengths[:8]) + 8, "the last records are as long as the first ones"
    if kind is not PollInHook:
        tree = records.tree("req-1")
        assert (len(tree.roots), max(node.depth for node in tree.walk())) == (1, len(rows) - 1)


def test_l2_a_direct_message_does_not_grow_with_the_length_of_the_chain(isolated_runtime: Isolated) -> None:
    sizes.clear()
    PollDirectly(n=LENGTH).async_().call()
    isolated_runtime.run_pending()
    assert len(sizes) == LENGTH
    assert max(sizes) <= sizes[1] + 8


class Inner(Operation):
    def perform(self) -> list[str]:
        return [name.rpartition(".")[2] for _, name in current_frame().stack]


class Middle(Operation):
    def perform(self) -> list[str]:
        return Inner().call()


class Outer(Operation):
    def perform(self) -> list[str]:
        return Middle().call()


class Starter(Operation):
    def perform(self) -> None:
        Outer().async_().call()


def test_l2_runs_that_are_called_in_place_have_all_enclosing_runs_in_their_trace(isolated_runtime: Isolated) -> None:
    assert Outer().call() == ["Outer", "Middle", "Inner"]
    Starter().async_().call()
    isolated_runtime.run_pending()
    assert [each.result for each in records.where(operation=Outer) if each.parent_id] == [
        ["Starter", "Outer", "Middle", "Inner"]
    ]
    row = max(records.where(operation=Inner), key=lambda each: each.id)
    assert [name.rpartition(".")[2] for _, name in row.trace["stack"]][-3:] == ["Outer", "Middle", "Inner"]


def test_l2_a_trace_frame_names_a_limited_number_of_runs() -> None:
    frame = current_frame()
    for number in range(MAX_ANCESTORS + 50):
        frame = frame.child(f"op_{number}", "shop.Poll")
    assert len(frame.stack) == MAX_ANCESTORS
    assert (frame.run_id, frame.stack[-2][0]) == (f"op_{MAX_ANCESTORS + 49}", f"op_{MAX_ANCESTORS + 48}")


@pytest.fixture
def deep(isolated_runtime: Isolated) -> Any:
    now = datetime.now(timezone.utc)
    rows = [
        {
            "id": f"op_{number:026d}", "operation": "shop.Poll", "status": "done", "trace_id": "req-1",
            "parent_id": f"op_{number - 1:026d}" if number else None, "updated_at": now, "created_at": now,
        }
        for number in range(5000)
    ]  # fmt: skip
    # Some runs have a second child, so that the printed tree has vertical lines.
    rows += [
        {**rows[number], "id": f"op_{number + 10_000:026d}", "parent_id": rows[number]["id"]}
        for number in (0, 3, MOST_NESTED - 1, MOST_NESTED, 4000)
    ]
    records.all().count()
    with isolated_runtime.runtime.store.begin() as connection:  # type: ignore[union-attr]
        connection.execute(sa.insert(records.table), rows)
    return records.tree("req-1")


def test_l2_a_tree_of_any_depth_can_be_iterated_serialized_and_printed(deep: Any) -> None:
    assert len(deep) == 5005
    assert max(node.depth for node in deep.walk()) == 4999
    data = json.loads(json.dumps(deep.to_dict()))
    assert len(data["runs"]) == 1
    parents: dict[str, str | None] = {}
    waiting = [(run, run.get("parent_id")) for run in [*data["runs"], *data["deeper"]]]
    while waiting:
        run, parent = waiting.pop()
        assert run["id"] not in parents
        parents[run["id"]] = parent
        waiting += [(child, run["id"]) for child in run["children"]]
    assert parents == {node.id: node.parent_id for node in deep.walk()}
    drawn = str(deep)
    assert len(drawn.splitlines()) == 5006
    assert max(map(len, drawn.splitlines())) < 400
    assert "[4999] └─ shop.Poll" in drawn
    assert repr(deep) == "<Tree req-1, 5005 runs>"
