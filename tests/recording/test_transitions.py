"""The state machine of records: every event from every status, and the check of the claim token."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from dexpy.database.tables import FINAL, STATUSES
from dexpy.foundation.clock import clock
from dexpy.recording.store import insert_record, row_dict
from dexpy.recording.transitions import TRANSITIONS, apply, is_applied
from dexpy.testing import Isolated

KEYS = {"once_key": "once", "unique_key": "unique"}
ALL: frozenset[str] = frozenset(KEYS)
UNIQUE = frozenset({"unique_key"})
NONE: frozenset[str] = frozenset()

TABLE = {
    "claim": ("pending", "running", NONE),
    "succeed": ("running", "done", UNIQUE),
    "refuse": ("running", "failed", UNIQUE),
    "reject": ("running", "failed", ALL),
    "crash": ("running", "failed", ALL),
    "retry": ("running", "pending", NONE),
    "cancel_running": ("running", "cancelled", ALL),
    "release": ("running", "pending", NONE),
    "recover": ("running", "pending", NONE),
    "lose": ("running", "failed", ALL),
    "expire": ("pending", "expired", ALL),
    "cancel": ("pending", "cancelled", ALL),
    "discard": ("pending", "failed", ALL),
    "park": ("pending", "failed", ALL),
    "reschedule": ("pending", "pending", NONE),
    "mark_unpublished": ("pending", "pending", NONE),
    "defer_republish": ("pending", "pending", NONE),
    "block": ("pending", "pending", NONE),
    "hold": ("pending", "pending", NONE),
    "throttle": ("pending", "pending", NONE),
    "enter_queue": ("pending", "pending", NONE),
    "revive": ("failed expired cancelled", "pending", NONE),
}
"""Event to the statuses that it leaves, the status that it enters, and the keys of the row that it clears."""

FENCED = ("succeed", "refuse", "reject", "crash", "retry", "cancel_running", "release", "recover", "lose")
"""The events that only the holder of the claim may apply."""

GIVEN: dict[str, Any] = {
    "claimed_by": "w",
    "result": {"value": 1},
    "error": "E",
    "failure": "crash",
    "error_message": "m",
    "error_details": None,
    "retry_counts": {},
    "scheduled_at": None,
    "blocked_key": "paused:1",
}


def values_for(event: str, token: int) -> dict[str, Any]:
    transition = TRANSITIONS[event]
    values = {column: GIVEN[column] for column in transition.inputs}
    if transition.fenced:
        values["claim_token"] = token
    if event in ("retry", "recover", "defer_republish"):
        values["wait_s"] = 5.0
    if event in ("retry", "recover", "release", "reschedule", "revive"):
        values["sent"] = True
    return values


def insert(isolated_runtime: Isolated, status: str, id: str = "op_1", **columns: Any) -> None:
    values = {"id": id, "operation": "n", "status": status, "queue": "default", "claim_token": 7, **columns}
    with isolated_runtime.runtime.store.begin() as connection:
        insert_record(connection, values)


def move(isolated_runtime: Isolated, event: str, id: str = "op_1", token: int = 7, **values: Any) -> Any:
    with isolated_runtime.runtime.store.begin() as connection:
        applied = apply(connection, event, id, **(values_for(event, token) | values))
    return None if applied is None else isolated_runtime.runtime.store.row(id)


def test_the_table_has_every_transition() -> None:
    assert TABLE.keys() == TRANSITIONS.keys()
    assert {event for event, transition in TRANSITIONS.items() if transition.fenced} == set(FENCED)


@pytest.mark.parametrize("event", TABLE)
def test_a_transition_applies_only_from_the_statuses_of_the_table(isolated_runtime: Isolated, event: str) -> None:
    sources, target, frees = TABLE[event]
    for status in STATUSES:
        keys = {name: f"{value} of {status}" for name, value in KEYS.items()}
        insert(isolated_runtime, status, status, num_attempts=1, **keys)

        row = move(isolated_runtime, event, status)

        after = isolated_runtime.runtime.store.row(status)
        if status in sources.split():
            assert row is not None
            assert (row.status, after.status) == (target, target)
            assert (after.completed_at is not None) == (target in FINAL)
            assert {name for name in KEYS if getattr(after, name) is None} == frees
            assert after.claimed_by == ("w" if target == "running" else None)
        else:
            assert row is None
            assert (after.status, after.claim_token, after.num_attempts) == (status, 7, 1)
            assert {name: getattr(after, name) for name in KEYS} == keys


@pytest.mark.parametrize("event", TABLE)
def test_a_transition_that_does_not_return_the_row_has_the_same_effect(isolated_runtime: Isolated, event: str) -> None:
    for status in STATUSES:
        for way in ("returning", "silent"):
            insert(isolated_runtime, status, f"{status} {way}", num_attempts=1)

        row = move(isolated_runtime, event, f"{status} returning")
        with isolated_runtime.runtime.store.begin() as connection:
            is_moved = is_applied(connection, event, f"{status} silent", **values_for(event, 7))

        assert is_moved == (row is not None)
        returning, silent = (
            row_dict(isolated_runtime.runtime.store.row(f"{status} {way}")) for way in ("returning", "silent")
        )
        moments = {name: returning[name] is None for name in returning if name.endswith("_at")}
        assert moments == {name: silent[name] is None for name in moments}
        for name in ("id", *moments):
            del returning[name], silent[name]
        assert returning == silent


@pytest.mark.parametrize("event", FENCED)
def test_a_worker_that_lost_its_claim_can_write_nothing(isolated_runtime: Isolated, event: str) -> None:
    insert(isolated_runtime, "running")

    assert move(isolated_runtime, event, token=6) is None

    row = isolated_runtime.runtime.store.row("op_1")
    assert (row.status, row.error, row.num_attempts, row.num_lost) == ("running", None, 0, 0)


def test_a_claim_increments_the_attempt_and_the_token(isolated_runtime: Isolated) -> None:
    insert(isolated_runtime, "pending")

    with isolated_runtime.runtime.store.begin() as connection:
        row = apply(connection, "claim", "op_1", claimed_by="w")

    assert row is not None
    assert (row.num_attempts, row.claim_token, row.claimed_by) == (1, 8, "w")
    assert isolated_runtime.runtime.store.row("op_1").started_at is not None


def test_a_row_is_not_claimed_before_it_is_due(isolated_runtime: Isolated) -> None:
    insert(isolated_runtime, "running")
    with isolated_runtime.runtime.store.begin() as connection:
        apply(connection, "retry", "op_1", **values_for("retry", 7))
    with isolated_runtime.runtime.store.begin() as connection:
        assert apply(connection, "claim", "op_1", claimed_by="w") is None

    isolated_runtime.advance(6)

    with isolated_runtime.runtime.store.begin() as connection:
        assert apply(connection, "claim", "op_1", claimed_by="w") is not None


def test_success_clears_the_error_of_an_earlier_attempt(isolated_runtime: Isolated) -> None:
    insert(isolated_runtime, "running")
    with isolated_runtime.runtime.store.begin() as connection:
        apply(connection, "retry", "op_1", **values_for("retry", 7) | {"error_details": {"n": 1}})
    row = isolated_runtime.runtime.store.row("op_1")
    assert (row.error, row.error_details) == ("E", {"n": 1})
    isolated_runtime.advance(6)
    with isolated_runtime.runtime.store.begin() as connection:
        apply(connection, "claim", "op_1", claimed_by="w")
        apply(connection, "succeed", "op_1", claim_token=8, result={"value": 1})

    row = isolated_runtime.runtime.store.row("op_1")
    assert (row.status, row.error, row.failure, row.error_message) == ("done", None, None, None)
    assert row.error_details is None


@pytest.mark.parametrize("event", TABLE)
def test_a_row_has_the_time_of_its_last_transition(isolated_runtime: Isolated, event: str) -> None:
    insert(isolated_runtime, TABLE[event][0].split()[0])
    isolated_runtime.advance(60)

    row = move(isolated_runtime, event)

    assert (row.updated_at - row.created_at).total_seconds() >= 60


@pytest.mark.parametrize(
    ("event", "num_attempts", "num_lost"),
    [("claim", 3, 1), ("retry", 2, 1), ("release", 1, 1), ("recover", 2, 2), ("lose", 2, 2), ("revive", 0, 0)],
)
def test_attempts_and_lost_workers_are_counted(
    isolated_runtime: Isolated, event: str, num_attempts: int, num_lost: int
) -> None:
    insert(isolated_runtime, TABLE[event][0].split()[0], num_attempts=2, num_lost=1, retry_counts={"E": 2})

    row = move(isolated_runtime, event)

    assert (row.num_attempts, row.num_lost) == (num_attempts, num_lost)
    assert (row.retry_counts is None) == (event == "revive")
    assert row.claim_token == (8 if event == "claim" else 7), "the claim token never decreases"


def test_an_expired_row_is_not_claimed(isolated_runtime: Isolated) -> None:
    soon = clock.now() + timedelta(seconds=60)
    for id in ("in time", "too late"):
        insert(isolated_runtime, "pending", id, expires_at=soon)
    assert move(isolated_runtime, "claim", "in time") is not None

    isolated_runtime.advance(61)

    assert move(isolated_runtime, "claim", "too late") is None
    assert isolated_runtime.runtime.store.row("too late").num_attempts == 0


def test_a_recovered_run_waits_as_long_as_the_recovery_sets(isolated_runtime: Isolated) -> None:
    insert(isolated_runtime, "running", started_at=clock.now())

    row = move(isolated_runtime, "recover", wait_s=30.0, sent=False)

    assert (row.scheduled_at - row.updated_at).total_seconds() == pytest.approx(30, abs=1)
    assert (row.enqueued_at, row.error) == (None, "E"), "the relay has to publish its message"
    assert move(isolated_runtime, "claim") is None


def test_a_released_run_equals_a_run_that_has_not_started(isolated_runtime: Isolated) -> None:
    # The release must set a due time: the relay finds unpublished records by it.
    insert(
        isolated_runtime, "running", started_at=clock.now(), scheduled_at=None, enqueued_at=clock.now(), num_attempts=1
    )

    row = move(isolated_runtime, "release", sent=False)

    assert (row.started_at, row.enqueued_at, row.num_attempts) == (None, None, 0)
    assert abs((row.scheduled_at - row.updated_at).total_seconds()) < 1
    assert isolated_runtime.runtime.store.has_unpublished(None)


def test_a_lost_call_in_place_may_lose_workers_after_a_retry(isolated_runtime: Isolated) -> None:
    for id, loss_limit in (("in place", 0), ("in the background", 2), ("as usual", None)):
        insert(isolated_runtime, "failed", id, loss_limit=loss_limit)

    assert [
        move(isolated_runtime, "revive", id).loss_limit for id in ("in place", "in the background", "as usual")
    ] == [
        None,
        2,
        None,
    ]


def test_a_row_that_is_not_due_is_not_blocked(isolated_runtime: Isolated) -> None:
    """Blocking clears the due time, so a blocked record would not become due later."""
    later = clock.now() + timedelta(days=1)
    insert(isolated_runtime, "pending", scheduled_at=later, concurrency_key="k")

    assert move(isolated_runtime, "block") is None
    isolated_runtime.advance(2 * 24 * 3600)

    row = move(isolated_runtime, "block")
    assert (row.blocked_key, row.scheduled_at, row.enqueued_at) == ("k", None, None)


@pytest.mark.parametrize("in_s", [None, 3600])
def test_a_retried_run_is_due_at_once(isolated_runtime: Isolated, in_s: int | None) -> None:
    moment = None if in_s is None else clock.now() + timedelta(seconds=in_s)
    insert(isolated_runtime, "expired", scheduled_at=moment)

    move(isolated_runtime, "revive", sent=False)

    assert isolated_runtime.runtime.store.has_unpublished(None)
    assert move(isolated_runtime, "claim") is not None


def test_a_record_that_is_retried_by_hand_starts_over(isolated_runtime: Isolated) -> None:
    insert(isolated_runtime, "pending", expires_at=clock.now() + timedelta(seconds=60))
    move(isolated_runtime, "expire")

    row = move(isolated_runtime, "revive")

    assert (row.error, row.failure, row.error_message, row.started_at) == (None, None, None, None)
    assert row.expires_at is None
    isolated_runtime.advance(3600)
    assert move(isolated_runtime, "claim") is not None


def test_only_the_transitions_and_inserts_write_the_status() -> None:
    """A status is written only by the table of transitions, and by the insert of a new row."""
    import re
    from pathlib import Path

    import dexpy

    home = Path(dexpy.__file__).parent
    writers = {
        str(file.relative_to(home))
        for file in home.rglob("*.py")
        if re.search(
            r'["\']?status["\']?\s*[:=]\s*["\'](pending|running|done|failed|expired|cancelled)["\']|"status": status',
            file.read_text(),
        )
    }

    assert writers <= {
        "recording/transitions.py",
        "recording/recorder.py",  # inserts the row of a call in its final status
        "recording/idempotent_recorder.py",  # inserts the row of a call with an idempotency key as running
        "execution/middleware/once.py",  # a dry run, writes nothing
        "enqueue/prepare.py",  # inserts background runs as pending
        "recording/queries.py",  # reads only
        "recording/batch_rows.py",  # writes the status of batches
        "batches.py",  # reads only
        "worker/child.py",  # the status of a process
        "database/migrations/version_2.py",  # migrates cancelled runs
    }
