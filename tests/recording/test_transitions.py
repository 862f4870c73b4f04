"""The state machine: every event from every state, and the fence."""

from __future__ import annotations

from typing import Any

import pytest

from dexpy.recording.tables import FINAL, STATUSES
from dexpy.recording.transitions import TRANSITIONS, apply
from dexpy.testing import Isolated

GIVEN: dict[str, Any] = {
    "claimed_by": "w",
    "result": {"value": 1},
    "error": "E",
    "failure": "crash",
    "error_message": "m",
    "error_details": None,
    "retry_counts": {},
    "scheduled_at": None,
}


def values_for(event: str, token: int) -> dict[str, Any]:
    transition = TRANSITIONS[event]
    values = {column: GIVEN[column] for column in transition.given}
    if transition.fenced:
        values["claim_token"] = token
    if event == "retry":
        values["wait_s"] = 5.0
    if event in ("retry", "give_back", "reschedule", "revive"):
        values["sent"] = True
    return values


def insert(test: Isolated, status: str) -> None:
    store = test.runtime.store
    with store.begin() as connection:
        store.insert(connection, {"id": "op_1", "name": "n", "status": status, "queue": "default", "claim_token": 7})


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("event", TRANSITIONS)
def test_an_event_moves_a_row_only_from_where_the_table_says(test: Isolated, event: str, status: str) -> None:
    insert(test, status)

    with test.runtime.store.begin() as connection:
        row = apply(connection, event, "op_1", **values_for(event, 7))

    transition = TRANSITIONS[event]
    after = test.runtime.store.row("op_1")
    if status in transition.sources:
        assert row is not None
        assert (row.status, after.status) == (transition.target, transition.target)
        assert (after.completed_at is not None) == (transition.target in FINAL)
    else:
        assert row is None
        assert (after.status, after.claim_token) == (status, 7)


@pytest.mark.parametrize("event", [name for name, transition in TRANSITIONS.items() if transition.fenced])
def test_a_worker_that_lost_its_claim_can_write_nothing(test: Isolated, event: str) -> None:
    insert(test, "running")

    with test.runtime.store.begin() as connection:
        assert apply(connection, event, "op_1", **values_for(event, 6)) is None

    assert test.runtime.store.row("op_1").status == "running"


def test_a_claim_counts_the_attempt_and_grows_the_token(test: Isolated) -> None:
    insert(test, "pending")

    with test.runtime.store.begin() as connection:
        row = apply(connection, "claim", "op_1", claimed_by="w")

    assert row is not None
    assert (row.num_attempts, row.claim_token, row.claimed_by) == (1, 8, "w")
    assert row.started_at is not None


def test_a_row_is_not_claimed_before_it_is_due(test: Isolated) -> None:
    insert(test, "running")
    with test.runtime.store.begin() as connection:
        apply(connection, "retry", "op_1", **values_for("retry", 7))
    with test.runtime.store.begin() as connection:
        assert apply(connection, "claim", "op_1", claimed_by="w") is None

    test.advance(6)

    with test.runtime.store.begin() as connection:
        assert apply(connection, "claim", "op_1", claimed_by="w") is not None


def test_success_clears_the_error_of_an_earlier_attempt(test: Isolated) -> None:
    insert(test, "running")
    with test.runtime.store.begin() as connection:
        apply(connection, "retry", "op_1", **values_for("retry", 7))
    assert test.runtime.store.row("op_1").error == "E"
    test.advance(6)
    with test.runtime.store.begin() as connection:
        apply(connection, "claim", "op_1", claimed_by="w")
        apply(connection, "succeed", "op_1", claim_token=8, result={"value": 1})

    row = test.runtime.store.row("op_1")
    assert (row.status, row.error, row.failure, row.error_message) == ("done", None, None, None)


def test_nothing_else_writes_the_status() -> None:
    """Every `status` that is written stands in the table of transitions, or is that of a row that is born."""
    import re
    from pathlib import Path

    import dexpy

    home = Path(dexpy.__file__).parent
    writers = {
        str(file.relative_to(home))
        for file in home.rglob("*.py")
        if re.search(
            r'["\']?status["\']?\s*[:=]\s*["\'](pending|running|done|failed|expired)["\']|"status": status',
            file.read_text(),
        )
    }

    assert writers <= {
        "recording/transitions.py",
        "recording/recorder.py",  # a synchronous run is born in its final state
        "background/dispatch.py",  # a background run is born pending
        "recording/queries.py",  # asks, and writes nothing
    }
