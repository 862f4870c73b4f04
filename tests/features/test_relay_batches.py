"""A relay updates rows in batches; a row that cannot be updated stays as it is and delays no other row."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dexpy import Async, Operation
from dexpy.maintenance.relay import Relay
from dexpy.recording.batches import BATCH
from dexpy.testing import Isolated

from .tables import rows, sql

STUBBORN = 7
"""The priority of rows that a trigger of the application protects from updates."""


class Note(Operation):
    async_ = Async(expires_in=60)

    def perform(self) -> None:
        pass


@pytest.fixture
def relay(isolated_runtime: Isolated) -> Relay:
    heartbeat = isolated_runtime.runtime.services.heartbeat
    assert heartbeat is not None
    return Relay(isolated_runtime.runtime.dispatcher, heartbeat, isolated_runtime.runtime.intervals)


def let_expire(isolated_runtime: Isolated) -> None:
    isolated_runtime.advance(61)


def let_their_worker_die(isolated_runtime: Isolated) -> None:
    sql(
        isolated_runtime,
        "UPDATE operation_records SET status = 'running', claimed_by = 'gone:1:x', claim_token = 1, num_attempts = 1, "
        "started_at = created_at",
    )


@pytest.mark.parametrize("stubborn", [1, BATCH + 1])
@pytest.mark.parametrize(
    ("happens", "after", "expected"),
    [
        (let_expire, "expired", "record.not_updated action=expiry"),
        (let_their_worker_die, "pending", "record.not_updated action=recovery"),
    ],
)
def test_rows_that_cannot_be_written_delay_no_other(
    isolated_runtime: Isolated,
    relay: Relay,
    caplog: pytest.LogCaptureFixture,
    happens: Callable[[Isolated], None],
    after: str,
    expected: str,
    stubborn: int,
) -> None:
    for _ in range(stubborn):
        Note().async_(priority=STUBBORN).call()
    good = [Note().async_().call() for _ in range(3)]
    happens(isolated_runtime)
    before = {each["status"] for each in rows(isolated_runtime)}
    sql(
        isolated_runtime,
        f"CREATE TRIGGER stubborn BEFORE UPDATE ON operation_records WHEN OLD.priority = {STUBBORN} "
        "BEGIN SELECT RAISE(ABORT, 'stays as it is'); END",
    )

    assert relay.run_once()

    assert [ticket.reload().status for ticket in good] == [after] * 3
    assert {each["status"] for each in rows(isolated_runtime) if each["priority"] == STUBBORN} == before
    assert caplog.text.count(expected) == stubborn, "each row is logged once per poll"

    sql(isolated_runtime, "DROP TRIGGER stubborn")
    assert relay.run_once()
    assert {each["status"] for each in rows(isolated_runtime)} == {after}
