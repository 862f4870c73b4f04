"""`Once` with real processes: workers and processes that call in place, some of them killed."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from apps import shop_keys
from apps.shop_keys import Charge, Decline
from harness.policy_workers import RECOVER_WITHIN_S, PolicyPair
from harness.workers import Worker, eventually

from dexpy import Error
from dexpy.database.tables import records

APPLICATION = shop_keys
SCRIPT = str(Path(shop_keys.__file__))
HEARD_S = 2.0
"""The polling intervals of a relay and of this process, which add to the recovery time, in seconds."""


def calling(pair: PolicyPair, points: str, name: str, order: int) -> Worker:
    """Start a process that calls an operation in place."""
    return pair.serve([sys.executable, SCRIPT, str(pair.folder), points, name, str(order)])


def answer(process: Worker) -> str:
    """Wait for the end of a process, and return the printed result or error of its call."""
    process.ended()
    match = re.search(r"^answer (.*)$", process.output(), re.MULTILINE)
    assert match is not None, process.output()
    return match[1]


def reached(pair: PolicyPair, point: str) -> int:
    return eventually(lambda: pair.reached(point), f"a worker reaches {point}", 30, pair.output)


def keys_held(pair: PolicyPair) -> list[Any]:
    query = sa.select(records.c.status, records.c.failure).where(records.c.once_key.is_not(None))
    return [tuple(row) for row in pair.sql(query)]


def test_two_workers_run_each_key_once(pair: PolicyPair) -> None:
    pair.start(processes=2)
    tickets: list[Any] = []
    enqueuers = [
        threading.Thread(target=lambda: tickets.extend(Charge(order=order).async_().call() for order in range(8)))
        for _ in range(3)
    ]
    for thread in enqueuers:
        thread.start()
    for thread in enqueuers:
        thread.join(60)
    assert len(tickets) == 24
    answers = {ticket.id: ticket.result(30) for ticket in tickets}
    assert len(answers) == 8
    assert sorted(pair.effects()) == [f"charge {order}" for order in range(8)]
    assert {Charge(order=order).call() for order in range(8)} == set(answers.values())


def test_a_result_and_an_error_are_replayed_in_another_process(pair: PolicyPair) -> None:
    assert answer(calling(pair, "", "Charge", 1)) == Charge(order=1).call()
    first = answer(calling(pair, "", "Decline", 1))
    with pytest.raises(Error) as raised:
        Decline(order=1).call()
    assert first == f"declined: {raised.value.message} {{'order': 1}}"
    assert pair.effects() == ["charge 1"]


def test_a_calling_process_removes_its_heartbeat_when_it_ends(pair: PolicyPair) -> None:
    assert answer(calling(pair, "", "Charge", 1)).startswith("charged by ")
    assert pair.sql("SELECT id FROM operation_workers") == []


def test_a_process_waits_for_the_call_of_another_one(pair: PolicyPair) -> None:
    first = calling(pair, "perform_started=wait", "Charge", 1)
    reached(pair, "perform_started")
    second = calling(pair, "once_key_busy", "Charge", 2)
    assert answer(second).startswith("charged by ")
    waiting = calling(pair, "once_key_busy=wait", "Charge", 1)
    reached(pair, "once_key_busy")
    pair.release_waiting()
    assert answer(waiting) == answer(first) == f"charged by {reached(pair, 'perform_started')}"
    assert sorted(pair.effects()) == ["charge 1", "charge 2"]


# -------------------------------------------------------------------- kills


@pytest.mark.parametrize("point", ["once_key_claimed", "in_perform", "before_commit"])
def test_the_key_of_a_killed_process_is_free_within_recover_within(pair: PolicyPair, point: str) -> None:
    pair.start()
    dead = calling(pair, point, "Charge", 1)
    assert dead.ended() == -signal.SIGKILL
    died = time.monotonic()
    mine = Charge(order=1).call()
    assert time.monotonic() - died < RECOVER_WITHIN_S + HEARD_S
    assert mine == f"charged by {os.getpid()}"
    assert pair.effects() == ["charge 1"]
    assert sorted((row.status, row.failure) for row in pair.sql(sa.select(records))) == [
        ("done", None),
        ("failed", "lost"),
    ]


def test_without_any_worker_a_waiting_call_frees_the_key_of_a_dead_process(pair: PolicyPair) -> None:
    dead = calling(pair, "in_perform", "Charge", 1)
    assert dead.ended() == -signal.SIGKILL
    died = time.monotonic()
    assert Charge(order=1).call() == f"charged by {os.getpid()}"
    assert time.monotonic() - died < RECOVER_WITHIN_S + HEARD_S
    assert pair.effects() == ["charge 1"]


def test_the_key_of_a_process_killed_before_its_release_is_free_in_time(pair: PolicyPair) -> None:
    pair.start()
    dead = calling(pair, "before_key_release", "Fail", 1)
    assert dead.ended() == -signal.SIGKILL
    assert keys_held(pair) == [("running", None)]
    eventually(lambda: not keys_held(pair), "the key is free", RECOVER_WITHIN_S + HEARD_S, pair.output)
    assert answer(calling(pair, "", "Fail", 1)) == "done"


def test_a_process_that_is_killed_while_it_waits_leaves_nothing(pair: PolicyPair) -> None:
    first = calling(pair, "perform_started=wait", "Charge", 1)
    reached(pair, "perform_started")
    assert calling(pair, "once_key_busy", "Charge", 1).ended() == -signal.SIGKILL
    assert keys_held(pair) == [("running", None)]
    pair.release_waiting()
    assert answer(first) == Charge(order=1).call()
    assert pair.effects() == ["charge 1"]


def test_a_process_that_is_killed_while_it_enqueues_leaves_no_key(pair: PolicyPair) -> None:
    script = (
        "import sys; from apps import shop_keys; from harness.die_at_failpoints import FailpointActions;"
        "from pathlib import Path;"
        "from dexpy.foundation import failpoints as c; c.reached = FailpointActions(Path(sys.argv[1]), "
        "'enqueue_key_claimed').reach;shop_keys.Charge(order=1).async_().call()"
    )
    dead = pair.serve([sys.executable, "-c", script, str(pair.folder)])
    assert dead.ended() == -signal.SIGKILL
    eventually(
        lambda: not keys_held(pair),
        "the transaction of the killed process is rolled back",
        RECOVER_WITHIN_S,
        pair.output,
    )
    assert not Charge(order=1).async_().call().duplicate


def test_a_recovered_run_keeps_its_key(pair: PolicyPair) -> None:
    pair.start_killed_at("in_perform")
    ticket = Charge(order=1).async_().call()
    reached(pair, "in_perform")
    assert Charge(order=1).async_().call().id == ticket.id
    pair.start()
    assert Charge(order=1).call() == ticket.result(30)
    assert (ticket.reload().num_attempts, pair.effects()) == (2, ["charge 1"])


def test_a_process_that_is_frozen_past_its_lease_commits_nothing(pair: PolicyPair) -> None:
    if pair.engine.dialect.name == "sqlite":
        pytest.skip("on SQLite a frozen process keeps its liveness lock, so its lease does not expire")
    pair.start()
    frozen = calling(pair, "in_perform=wait", "Charge", 1)
    pid = reached(pair, "in_perform")
    os.kill(pid, signal.SIGSTOP)
    mine = Charge(order=1).call()
    pair.release_waiting()
    os.kill(pid, signal.SIGCONT)
    reply = answer(frozen)
    assert reply.startswith(("OperationFailed", "OperationalError")), reply
    assert (Charge(order=1).call(), pair.effects()) == (mine, ["charge 1"])
