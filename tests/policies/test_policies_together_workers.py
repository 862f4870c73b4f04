"""Several policies in one class with real workers, some of them killed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import sqlalchemy as sa
from apps import shop_policies
from apps.shop_policies import PARTS, LimitedSettlement, SettleOrder, SlowSettlement, receipt
from apps.shop_steps import Line
from harness.marks import WAIT_S, assert_nothing_left, max_at_once, wait_until_final
from harness.policy_workers import PolicyPair
from harness.workers import eventually

import dexpy
from dexpy import FernetEncryptor, Ticket, enqueue_all
from dexpy import records as runs
from dexpy.database.tables import records, steps
from dexpy.foundation.encryption import Encryptors

fernet = pytest.importorskip("cryptography.fernet")

APPLICATION = shop_policies
SECRET = "4111-secret-1111"
KEY = fernet.Fernet.generate_key().decode()


@pytest.fixture(autouse=True)
def _encrypts(pair: PolicyPair) -> None:
    pair.variables["DEXPY_ENCRYPTION_KEYS"] = KEY
    assert pair.runtime is not None
    pair.runtime.encryptors = Encryptors({"default": FernetEncryptor(KEY)})


def settle(*numbers: int, accounts: int = 2) -> list[Ticket[str]]:
    """Enqueue a batch with each operation twice, and return the tickets without duplicates."""
    with dexpy.trace(trace_id="req-1"), dexpy.context(shop_tenant="acme"):
        batch = [SettleOrder(account=number % accounts, number=number, card=SECRET) for number in numbers]
        tickets = enqueue_all([*batch, *batch])
    assert [ticket.duplicate for ticket in tickets] == [False] * len(batch) + [True] * len(batch)
    return tickets[: len(batch)]


def done_once(pair: PolicyPair, tickets: list[Ticket[str]]) -> None:
    """Assert that each run succeeded, has each effect once, holds no key or lock, and stores no readable secret."""
    assert {ticket.result(WAIT_S) for ticket in tickets} == {f"booked {SECRET} for acme"}, pair.output()
    rows = wait_until_final(pair)
    assert Counter(row.status for row in rows) == {"done": 2 * len(tickets)}, pair.output()
    whats = ["book", *(f"part {part}" for part in range(PARTS)), "send", "receipt"]
    numbers = range(len(tickets))
    assert Counter(row.what for row in pair.sql(sa.select(Line.what))) == Counter(
        f"{number} {event}" for number in numbers for event in whats
    )
    assert_nothing_left(pair)
    assert [row.id for row in rows if row.unique_key is not None] == []
    assert SECRET not in str(rows) + str(pair.sql(sa.select(steps))) + pair.output()
    tree = runs.tree("req-1")
    assert sorted((root.id, len(root.children)) for root in tree.roots) == sorted((one.id, 1) for one in tickets)


def test_two_workers_keep_every_guarantee_of_a_class_with_every_policy(pair: PolicyPair) -> None:
    pair.start(processes=2)
    tickets = settle(*range(12))
    done_once(pair, tickets)
    assert max_at_once(pair) == {"0": 1, "1": 1}, "the lock allows one run at a time, although the limit allows more"
    again = SettleOrder(account=0, number=0, card=SECRET, tenant="acme").async_().call()
    assert (again.duplicate, again.id) == (True, tickets[0].id)


@pytest.mark.parametrize("point", ["between_steps", "before_step_commit", "before_lock_release", "before_slot_release"])
def test_a_worker_that_is_killed_leaves_neither_lock_nor_slot_nor_key_and_no_step_twice(
    pair: PolicyPair, point: str
) -> None:
    pair.start_killed_at(point, threads=2)
    tickets = settle(*range(4), accounts=1)
    eventually(lambda: pair.reached(point), f"a worker dies at {point}", WAIT_S, pair.output)
    pair.start(threads=2)
    done_once(pair, tickets)


@pytest.mark.parametrize("kind", [SlowSettlement, LimitedSettlement])
def test_a_cancelled_run_releases_its_lock_and_slot_at_every_point(
    pair: PolicyPair, kind: type[SlowSettlement]
) -> None:
    pair.start(processes=2, threads=2)
    first = kind(account=1, number=1).async_().call()
    eventually(lambda: running_steps(pair) == {"1 begun"}, "the first run is between its steps", WAIT_S, pair.output)
    waiting = kind(account=1, number=2).async_().call()
    last = kind(account=1, number=3).async_().call()
    eventually(
        lambda: is_held_back(pair, kind, waiting), "the second run waits for the lock or a slot", WAIT_S, pair.output
    )
    waiting.cancel()
    eventually(lambda: waiting.reload().cancelled, "the second run is cancelled", WAIT_S, pair.output)
    first.cancel()
    eventually(lambda: "3 begun" in running_steps(pair), "the third run starts", WAIT_S, pair.output)
    last.cancel()
    rows = wait_until_final(pair)
    assert [(row.status, row.failure, row.once_key) for row in rows] == [("cancelled", "cancelled", None)] * 3
    assert running_steps(pair) == {"1 begun", "3 begun"}
    assert_nothing_left(pair)


def running_steps(pair: PolicyPair) -> set[Any]:
    return {row.what for row in pair.sql(sa.select(Line.what))}


def is_held_back(pair: PolicyPair, kind: type[SlowSettlement], ticket: Ticket[Any]) -> bool:
    """Whether a run waits: for a slot its record is blocked, for a lock it is running."""
    (row,) = pair.sql(sa.select(records).where(records.c.id == ticket.id))
    return row.blocked_key is not None if kind is LimitedSettlement else row.status == "running"


def test_an_encrypted_deferred_call_is_one_row_for_its_key(pair: PolicyPair) -> None:
    pair.start(processes=2)
    tickets = [dexpy.defer(receipt, number=1, card=SECRET) for _ in range(3)]
    assert [ticket.result(WAIT_S) for ticket in tickets] == [SECRET] * 3
    assert running_steps(pair) == {"1 receipt"}
