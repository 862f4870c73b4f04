"""Deferred calls with real workers: two at once, and processes that are killed in the middle of a call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeAlias

import pytest
import sqlalchemy as sa
from apps import shop_deferred
from apps.shop_deferred import Effect, OrderClient, hold
from harness.policy_workers import RECOVER_WITHIN_S, PolicyPair
from harness.workers import HARNESS, eventually

from dexpy import Ticket, defer, records

APPLICATION = shop_deferred
Child: TypeAlias = Callable[[str, str, str], subprocess.Popen[str]]
WAIT_S = 20.0
CHILD = HARNESS / "deferred_child.py"


def effects(pair: PolicyPair) -> list[str]:
    return sorted(row.note for row in pair.sql(sa.select(Effect.note)))


@pytest.fixture
def child(pair: PolicyPair) -> Generator[Child]:
    """Starts a process of the application that dies, or waits, at its first of these points."""
    with ExitStack() as started:

        def start(points: str, action: str, subject: str) -> subprocess.Popen[str]:
            command = [sys.executable, str(CHILD), str(pair.folder), points, action, subject]
            process = subprocess.Popen(
                command, env=pair.environment, cwd=pair.folder, stdout=subprocess.PIPE, text=True
            )
            started.enter_context(process)
            started.callback(process.kill)
            return process

        yield start


def test_two_workers_make_each_call_once_however_often_it_was_deferred_with_its_token(pair: PolicyPair) -> None:
    pair.start(processes=2)

    def deferred(number: int) -> Ticket[str]:
        return defer(OrderClient.fulfill, order_number=number, idempotence_token=f"order-{number}")

    with ThreadPoolExecutor(4) as threads:
        tickets = list(threads.map(deferred, [number for number in range(8) for _ in range(4)]))

    assert sum(not ticket.duplicate for ticket in tickets) == 8
    results = {ticket.id: ticket.result(WAIT_S) for ticket in tickets}
    assert sorted(results.values()) == [f"order {number} is on its way" for number in range(8)]
    assert effects(pair) == [f"fulfilled {number}" for number in range(8)]
    assert {record.num_attempts for record in records.where(target=OrderClient, method="fulfill")} == {1}


@pytest.mark.parametrize("point", ["after_claim", "before_commit", "before_ack"])
def test_the_call_of_a_killed_worker_is_made_once_by_another_worker(pair: PolicyPair, point: str) -> None:
    dead = pair.start_killed_at(point)
    ticket = defer(OrderClient.fulfill, order_number=1)
    eventually(lambda: pair.reached(point), f"a worker came to {point}", WAIT_S, dead.output)
    pair.start()

    assert ticket.result(WAIT_S) == "order 1 is on its way"
    assert effects(pair) == ["fulfilled 1"]
    record = records.get(ticket.id)
    assert record.num_lost == (0 if point == "before_ack" else 1)


def test_the_effects_of_a_call_are_rolled_back_with_its_killed_worker(pair: PolicyPair) -> None:
    ledger = pair.folder / "ledger"
    first = pair.start()
    ticket = defer(hold, str(ledger), 5)
    eventually(lambda: ledger.exists() and ledger.read_text(), "it is inside the call", WAIT_S, first.output)
    os.kill(int(ledger.read_text()), signal.SIGKILL)
    pair.release_waiting()
    pair.start()

    assert ticket.result(RECOVER_WITHIN_S + WAIT_S) == 5
    assert effects(pair) == ["held 5"]


def test_the_uncommitted_token_of_a_killed_process_is_free(pair: PolicyPair, child: Child) -> None:
    dead = child("enqueue_key_claimed", "defer", "order-1")
    assert dead.wait(WAIT_S) == -signal.SIGKILL
    ticket = defer(OrderClient.fulfill, order_number=1, idempotence_token="order-1")

    assert not ticket.duplicate
    pair.start()
    assert ticket.result(WAIT_S) == "order 1 is on its way"
    assert records.where(target=OrderClient).count() == 1


def test_a_process_that_is_killed_while_it_waits_for_a_token_changes_nothing(pair: PolicyPair, child: Child) -> None:
    holder = child("enqueue_key_claimed=wait", "defer", "order-1")
    eventually(lambda: pair.reached("enqueue_key_claimed"), "the token is held", WAIT_S)
    waiting = child("", "defer", "order-1")
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(1.0)
    waiting.kill()
    waiting.wait(WAIT_S)
    pair.release_waiting()

    out, _ = holder.communicate(timeout=WAIT_S)
    assert out.split()[1] == "False"
    pair.start()
    assert Ticket.get(out.split()[0]).result(WAIT_S) == "order 1 is on its way"
    assert effects(pair) == ["fulfilled 1"]


def test_the_committed_call_of_a_killed_process_is_run(pair: PolicyPair, child: Child) -> None:
    dead = child("after_commit", "defer", "order-1")
    assert dead.wait(WAIT_S) == -signal.SIGKILL
    ticket = defer(OrderClient.fulfill, order_number=1, idempotence_token="order-1")

    assert ticket.duplicate
    pair.start()
    assert ticket.result(RECOVER_WITHIN_S + WAIT_S) == "order 1 is on its way"
    assert effects(pair) == ["fulfilled 1"]


def test_the_call_of_a_process_killed_in_perform_is_made_by_a_worker(pair: PolicyPair, child: Child) -> None:
    ticket = defer(OrderClient.fulfill, order_number=1)
    dead = child("before_commit", "perform", ticket.id)
    assert dead.wait(WAIT_S) == -signal.SIGKILL
    pair.start()

    assert ticket.result(RECOVER_WITHIN_S + WAIT_S) == "order 1 is on its way"
    assert effects(pair) == ["fulfilled 1"]
    assert records.get(ticket.id).num_lost == 1
