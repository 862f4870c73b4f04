"""Once under real processes: workers, processes that call in place, and their deaths."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import keyed_shop
import pytest
import sqlalchemy as sa
from crew import RESCUE_WITHIN_S, Crew
from keyed_shop import Charge, Decline
from workers import Worker, eventually

from dexpy import Error
from dexpy.recording.tables import records

APPLICATION = keyed_shop
SCRIPT = str(Path(keyed_shop.__file__))
HEARD_S = 2.0
"""What the looks of a relay, and of this process, come to on top of the promise, in seconds."""


def calling(crew: Crew, points: str, name: str, order: int) -> Worker:
    """A process that calls an operation in place."""
    return crew.serve([sys.executable, SCRIPT, str(crew.folder), points, name, str(order)])


def answer(process: Worker) -> str:
    """What a call in another process came to."""
    process.ended()
    found = re.search(r"^answer (.*)$", process.output(), re.MULTILINE)
    assert found is not None, process.output()
    return found[1]


def reached(crew: Crew, point: str) -> int:
    return eventually(lambda: crew.reached(point), f"somebody reaches {point}", 30, crew.tell)


def keys_held(crew: Crew) -> list[Any]:
    query = sa.select(records.c.status, records.c.failure).where(records.c.once_key.is_not(None))
    return [tuple(row) for row in crew.sql(query)]


def test_two_workers_run_each_key_once(crew: Crew) -> None:
    crew.start(processes=2)
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
    assert sorted(crew.effects()) == [f"charge {order}" for order in range(8)]
    assert {Charge(order=order).call() for order in range(8)} == set(answers.values())


def test_a_result_and_an_error_are_given_again_in_another_process(crew: Crew) -> None:
    assert answer(calling(crew, "", "Charge", 1)) == Charge(order=1).call()
    first = answer(calling(crew, "", "Decline", 1))
    with pytest.raises(Error) as told:
        Decline(order=1).call()
    assert first == f"declined: {told.value.message} {{'order': 1}}"
    assert crew.effects() == ["charge 1"]


def test_a_process_that_has_called_says_goodbye_when_it_ends(crew: Crew) -> None:
    assert answer(calling(crew, "", "Charge", 1)).startswith("charged by ")
    assert crew.sql("SELECT id FROM operation_workers") == []


def test_a_process_waits_for_the_call_of_another_one(crew: Crew) -> None:
    first = calling(crew, "begun=wait", "Charge", 1)
    reached(crew, "begun")
    second = calling(crew, "once_waiting", "Charge", 2)
    assert answer(second).startswith("charged by ")
    waiting = calling(crew, "once_waiting=wait", "Charge", 1)
    reached(crew, "once_waiting")
    crew.let_go()
    assert answer(waiting) == answer(first) == f"charged by {reached(crew, 'begun')}"
    assert sorted(crew.effects()) == ["charge 1", "charge 2"]


# -------------------------------------------------------------------- deaths


@pytest.mark.parametrize("point", ["once_claimed", "in_perform", "before_commit"])
def test_the_key_of_a_process_that_is_killed_is_free_within_the_promise(crew: Crew, point: str) -> None:
    crew.start()
    dead = calling(crew, point, "Charge", 1)
    assert dead.ended() == -signal.SIGKILL
    died = time.monotonic()
    mine = Charge(order=1).call()
    assert time.monotonic() - died < RESCUE_WITHIN_S + HEARD_S
    assert mine == f"charged by {os.getpid()}"
    assert crew.effects() == ["charge 1"]
    assert sorted((row.status, row.failure) for row in crew.sql(sa.select(records))) == [
        ("done", None),
        ("failed", "lost"),
    ]


def test_without_any_worker_whoever_waits_frees_the_key_of_the_dead(crew: Crew) -> None:
    dead = calling(crew, "in_perform", "Charge", 1)
    assert dead.ended() == -signal.SIGKILL
    died = time.monotonic()
    assert Charge(order=1).call() == f"charged by {os.getpid()}"
    assert time.monotonic() - died < RESCUE_WITHIN_S + HEARD_S
    assert crew.effects() == ["charge 1"]


def test_a_process_that_is_killed_before_it_frees_its_key_leaves_it_no_longer(crew: Crew) -> None:
    crew.start()
    dead = calling(crew, "before_release", "Fail", 1)
    assert dead.ended() == -signal.SIGKILL
    assert keys_held(crew) == [("running", None)]
    eventually(lambda: not keys_held(crew), "the key is free", RESCUE_WITHIN_S + HEARD_S, crew.tell)
    assert answer(calling(crew, "", "Fail", 1)) == "well"


def test_a_process_that_is_killed_while_it_waits_leaves_nothing(crew: Crew) -> None:
    first = calling(crew, "begun=wait", "Charge", 1)
    reached(crew, "begun")
    assert calling(crew, "once_waiting", "Charge", 1).ended() == -signal.SIGKILL
    assert keys_held(crew) == [("running", None)]
    crew.let_go()
    assert answer(first) == Charge(order=1).call()
    assert crew.effects() == ["charge 1"]


def test_a_process_that_is_killed_while_it_enqueues_leaves_no_key(crew: Crew) -> None:
    script = (
        "import sys, keyed_shop; from deadly import Deadly; from pathlib import Path;"
        "from dexpy.foundation import checkpoint as c; c.reached = Deadly(Path(sys.argv[1]), 'key_claimed').reach;"
        "keyed_shop.Charge(order=1).async_().call()"
    )
    dead = crew.serve([sys.executable, "-c", script, str(crew.folder)])
    assert dead.ended() == -signal.SIGKILL
    eventually(lambda: not keys_held(crew), "the transaction is gone", RESCUE_WITHIN_S, crew.tell)
    assert not Charge(order=1).async_().call().duplicate


def test_a_run_that_is_run_again_keeps_its_key(crew: Crew) -> None:
    crew.start_deadly("in_perform")
    ticket = Charge(order=1).async_().call()
    reached(crew, "in_perform")
    assert Charge(order=1).async_().call().id == ticket.id
    crew.start()
    assert Charge(order=1).call() == ticket.result(30)
    assert (ticket.reload().num_attempts, crew.effects()) == (2, ["charge 1"])


def test_a_process_that_is_frozen_past_its_lease_commits_nothing(crew: Crew) -> None:
    if crew.engine.dialect.name == "sqlite":
        pytest.skip("there a lock of the system says who lives, and a frozen process has it")
    crew.start()
    frozen = calling(crew, "in_perform=wait", "Charge", 1)
    pid = reached(crew, "in_perform")
    os.kill(pid, signal.SIGSTOP)
    mine = Charge(order=1).call()
    crew.let_go()
    os.kill(pid, signal.SIGCONT)
    said = answer(frozen)
    assert said.startswith(("OperationFailed", "OperationalError")), said
    assert (Charge(order=1).call(), crew.effects()) == (mine, ["charge 1"])
