"""Several policies in one class under two real workers, and their deaths."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import sqlalchemy as sa
import together_shop
from crew import Crew
from ladder import Line
from marked import WAIT_S, all_final, most_at_once, nothing_is_left
from together_shop import PARTS, Settle, Slot, Stall, receipt
from workers import eventually

import dexpy
from dexpy import FernetEncryptor, Ticket, enqueue_all
from dexpy import records as runs
from dexpy.recording.tables import records, steps

fernet = pytest.importorskip("cryptography.fernet")

APPLICATION = together_shop
SECRET = "4111-secret-1111"
KEY = fernet.Fernet.generate_key().decode()


@pytest.fixture(autouse=True)
def _encrypts(crew: Crew) -> None:
    crew.variables["DEXPY_ENCRYPTION_KEYS"] = KEY
    assert crew.runtime is not None
    crew.runtime.given_encryptors = {"default": FernetEncryptor(KEY)}
    crew.runtime._encryptors = None


def settle(*numbers: int, accounts: int = 2) -> list[Ticket[str]]:
    """Enqueue them together, each of them twice; the tickets of the first ones."""
    with dexpy.trace(trace_id="req-1"), dexpy.context(shop_tenant="acme"):
        batch = [Settle(account=number % accounts, number=number, card=SECRET) for number in numbers]
        tickets = enqueue_all([*batch, *batch])
    assert [ticket.duplicate for ticket in tickets] == [False] * len(batch) + [True] * len(batch)
    return tickets[: len(batch)]


def done_once(crew: Crew, tickets: list[Ticket[str]]) -> None:
    """Each has ended well, left each effect once, and holds nothing; nobody can read what it was about."""
    assert {ticket.result(WAIT_S) for ticket in tickets} == {f"booked {SECRET} for acme"}, crew.tell()
    rows = all_final(crew)
    assert Counter(row.status for row in rows) == {"done": 2 * len(tickets)}, crew.tell()
    whats = ["book", *(f"part {part}" for part in range(PARTS)), "send", "receipt"]
    numbers = range(len(tickets))
    assert Counter(row.what for row in crew.sql(sa.select(Line.what))) == Counter(
        f"{number} {what}" for number in numbers for what in whats
    )
    nothing_is_left(crew)
    assert [row.id for row in rows if row.unique_key is not None] == []
    assert SECRET not in str(rows) + str(crew.sql(sa.select(steps))) + crew.tell()
    tree = runs.tree("req-1")
    assert sorted((root.id, len(root.children)) for root in tree.roots) == sorted((one.id, 1) for one in tickets)


def test_two_workers_keep_every_promise_of_a_class_that_makes_them_all(crew: Crew) -> None:
    crew.start(processes=2)
    tickets = settle(*range(12))
    done_once(crew, tickets)
    assert most_at_once(crew) == {"0": 1, "1": 1}, "the lock is narrower than the limit"
    again = Settle(account=0, number=0, card=SECRET, tenant="acme").async_().call()
    assert (again.duplicate, again.id) == (True, tickets[0].id)


@pytest.mark.parametrize("point", ["between_steps", "before_step_commit", "lock_releasing", "slot_releasing"])
def test_a_worker_that_is_killed_leaves_neither_lock_nor_slot_nor_key_and_no_step_twice(crew: Crew, point: str) -> None:
    crew.start_deadly(point, threads=2)
    tickets = settle(*range(4), accounts=1)
    eventually(lambda: crew.reached(point), f"somebody dies at {point}", WAIT_S, crew.tell)
    crew.start(threads=2)
    done_once(crew, tickets)


@pytest.mark.parametrize("kind", [Stall, Slot])
def test_what_is_called_off_lets_the_next_one_in_wherever_it_was(crew: Crew, kind: type[Stall]) -> None:
    crew.start(processes=2, threads=2)
    first = kind(account=1, number=1).async_().call()
    eventually(lambda: begun(crew) == {"1 begun"}, "the first is between steps", WAIT_S, crew.tell)
    waiting = kind(account=1, number=2).async_().call()
    last = kind(account=1, number=3).async_().call()
    eventually(lambda: is_held_back(crew, kind, waiting), "the second is held back", WAIT_S, crew.tell)
    waiting.cancel()
    eventually(lambda: waiting.reload().expired, "the second is off", WAIT_S, crew.tell)
    first.cancel()
    eventually(lambda: "3 begun" in begun(crew), "the third has got in", WAIT_S, crew.tell)
    last.cancel()
    rows = all_final(crew)
    assert [(row.status, row.failure, row.once_key) for row in rows] == [("expired", "cancelled", None)] * 3
    assert begun(crew) == {"1 begun", "3 begun"}
    nothing_is_left(crew)


def begun(crew: Crew) -> set[Any]:
    return {row.what for row in crew.sql(sa.select(Line.what))}


def is_held_back(crew: Crew, kind: type[Stall], ticket: Ticket[Any]) -> bool:
    """A lock is waited for with a thread, and a slot without one."""
    (row,) = crew.sql(sa.select(records).where(records.c.id == ticket.id))
    return row.blocked_key is not None if kind is Slot else row.status == "running"


def test_an_encrypted_deferred_call_is_one_row_for_its_key(crew: Crew) -> None:
    crew.start(processes=2)
    tickets = [dexpy.defer(receipt, number=1, card=SECRET) for _ in range(3)]
    assert [ticket.result(WAIT_S) for ticket in tickets] == [SECRET] * 3
    assert begun(crew) == {"1 receipt"}
