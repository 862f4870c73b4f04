"""Steps of one's own under real workers."""

from __future__ import annotations

from collections import Counter

import stepped_shop
from crew import RESCUE_WITHIN_S, Crew
from stepped_shop import Counted
from workers import eventually

APPLICATION = stepped_shop
WAIT_S = 40.0
MANY = 12


def both(numbers: range) -> Counter[str]:
    """What the step and `perform` leave, once each."""
    return Counter(f"{what} {number}" for number in numbers for what in ("entered", "counted"))


def test_each_run_passes_the_step_once_under_two_workers(crew: Crew) -> None:
    crew.start(processes=2)
    tickets = [Counted(number=number).async_().call() for number in range(MANY)]
    assert [ticket.result(WAIT_S) for ticket in tickets] == list(range(MANY))
    assert Counter(crew.effects()) == both(range(MANY))


def test_what_a_step_wrote_is_gone_with_the_worker_that_is_killed_in_it(crew: Crew) -> None:
    crew.start_deadly("in_step")
    ticket = Counted(number=1).async_().call()
    eventually(lambda: crew.reached("in_step"), "a worker dies in the step", WAIT_S, crew.tell)
    crew.start()
    assert ticket.result(RESCUE_WITHIN_S + WAIT_S) == 1
    assert Counter(crew.effects()) == both(range(1, 2))
    assert crew.row(ticket.id)["num_attempts"] == 2
