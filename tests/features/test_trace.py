"""`dexpy.trace`: the actor and the trace of a run."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

import dexpy
from dexpy import Operation, records
from dexpy.errors import OptionsError
from dexpy.foundation.trace import Frame, current_frame
from dexpy.testing import Isolated


class Leaf(Operation):
    """Returns its frame."""

    def perform(self) -> dict[str, Any]:
        return {**current_frame().to_dict(), "run": self.run_id}


class Branch(Operation):
    """Calls a leaf in place, and enqueues one."""

    def perform(self) -> dict[str, Any]:
        Leaf().async_().call()
        return {"leaf": Leaf().call(), **current_frame().to_dict(), "run": self.run_id}


def test_every_run_outside_of_a_block_has_a_new_trace() -> None:
    one, other = Leaf().call(), Leaf().call()
    assert one["id"].startswith("tr_")
    assert one["id"] != other["id"]
    assert one["actor"] is None
    assert one["stack"] == [[one["run"], "features.test_trace.Leaf"]]


def test_a_block_sets_the_actor_and_the_trace_of_calls_inside() -> None:
    with dexpy.trace(actor={"type": "user", "id": 7}, trace_id="req-1") as frame:
        assert frame.trace_id == "req-1"
        result = Leaf().call()
    assert (result["id"], result["actor"]) == ("req-1", {"type": "user", "id": 7})
    assert Leaf().call()["id"] != "req-1"


def test_the_runs_of_one_block_share_its_trace() -> None:
    with dexpy.trace() as frame:
        assert Leaf().call()["id"] == Leaf().call()["id"] == frame.trace_id


def test_a_nested_run_continues_the_trace_with_the_outer_run_as_parent() -> None:
    with dexpy.trace(actor={"type": "system"}):
        result = Branch().call()
    leaf = result["leaf"]
    assert leaf["id"] == result["id"]
    assert leaf["actor"] == {"type": "system"}
    assert leaf["stack"] == [
        [result["run"], "features.test_trace.Branch"],
        [leaf["run"], "features.test_trace.Leaf"],
    ]


def test_a_nested_block_extends_the_outer_frame_and_restores_it() -> None:
    with dexpy.trace(actor={"type": "user", "id": 7}, trace_id="outer") as outer:
        with dexpy.trace(actor={"type": "admin", "id": 1}) as inner:
            assert (inner.trace_id, inner.actor) == ("outer", {"type": "admin", "id": 1})
        with dexpy.trace(trace_id="other") as inner:
            assert (inner.trace_id, inner.actor) == ("other", {"type": "user", "id": 7})
        assert current_frame() is outer
    assert current_frame().actor is None


def test_a_block_that_raises_restores_the_outer_frame() -> None:
    with dexpy.trace(trace_id="outer") as outer:
        with pytest.raises(ZeroDivisionError), dexpy.trace(trace_id="inner"):
            raise ZeroDivisionError
        assert current_frame() is outer


def test_a_block_inside_a_run_keeps_the_outer_runs_in_the_stack() -> None:
    class Renamed(Operation):
        def perform(self) -> dict[str, Any]:
            with dexpy.trace(actor={"type": "robot"}):
                return Leaf().call()

    result = Renamed().call()
    assert result["actor"] == {"type": "robot"}
    assert len(result["stack"]) == 2


def test_the_trace_is_in_the_records_of_all_runs_in_place_and_in_a_worker(isolated_runtime: Isolated) -> None:
    with dexpy.trace(actor={"type": "user", "id": 7}, trace_id="req-1"):
        Branch().call()
    isolated_runtime.run_pending()
    matching = {
        record.operation.rpartition(".")[2]: record for record in records.for_trace("req-1").where(actor="user")
    }
    assert set(matching) == {"Branch", "Leaf"}
    assert records.for_trace("req-1").count() == 3
    branch = records.where(operation=Branch).first()
    assert branch is not None
    assert (branch.parent_id, branch.trace_id, branch.actor_type, branch.actor_id) == (None, "req-1", "user", "7")
    assert records.where(parent=branch.id, operation=Leaf).count() == 2
    for leaf in records.where(operation=Leaf):
        assert leaf.status == "done"
        assert leaf.result["id"] == "req-1"
        assert leaf.result["actor"] == {"type": "user", "id": 7}
        assert leaf.result["stack"] == leaf.trace["stack"] == [[branch.id, branch.operation], [leaf.id, leaf.operation]]
    assert records.for_actor({"type": "user", "id": 7}).count() == 3
    assert records.for_actor({"type": "user", "id": 8}).count() == 0


def test_threads_have_separate_frames() -> None:
    frames: list[Frame] = []
    with dexpy.trace(trace_id="here"):
        thread = threading.Thread(target=lambda: frames.append(current_frame()))
        thread.start()
        thread.join(5)
    assert frames[0].trace_id != "here"


# ------------------------------------------------------------------------------------------------- invalid arguments


@pytest.mark.parametrize("actor", ["user", {}, {"id": 7}, {"type": ""}, {"type": 7}, ["type"], {"type": None}])
def test_an_actor_without_a_type_is_refused(actor: Any) -> None:
    with pytest.raises(OptionsError) as caught, dexpy.trace(actor=actor):
        pass
    assert str(caught.value) == (
        f'trace(actor={actor!r}): expected a mapping with a non-empty "type". '
        'Write trace(actor={"type": "user", "id": 7}).'
    )


@pytest.mark.parametrize("actor", [{"type": "user", "id": object()}, {"type": "user", "score": float("nan")}])
def test_an_actor_without_a_json_form_is_refused(actor: Any) -> None:
    with pytest.raises(OptionsError) as caught, dexpy.trace(actor=actor):
        pass
    assert str(caught.value).startswith("trace(actor=...): expected JSON: ")


@pytest.mark.parametrize("trace_id", ["", 7, "x" * 65, b"abc"])
def test_a_trace_id_that_cannot_be_stored_is_refused(trace_id: Any) -> None:
    with pytest.raises(OptionsError) as caught, dexpy.trace(trace_id=trace_id):
        pass
    assert str(caught.value) == f"trace(trace_id={trace_id!r}): expected a str of 1 to 64 characters."


def test_an_actor_may_be_any_mapping_and_is_not_shared_with_the_caller() -> None:
    fields = {"type": "user", "id": 7}
    actor: Mapping[str, Any] = MappingProxyType(fields)
    with dexpy.trace(actor=actor) as frame:
        fields["id"] = 8
        assert frame.actor == {"type": "user", "id": 7}
        assert Leaf().call()["actor"] == {"type": "user", "id": 7}
