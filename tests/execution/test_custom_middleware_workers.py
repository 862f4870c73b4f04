"""Custom middleware with real workers."""

from __future__ import annotations

from collections import Counter

from apps import shop_middleware
from apps.shop_middleware import Counted
from harness.policy_workers import RECOVER_WITHIN_S, PolicyPair
from harness.workers import eventually

APPLICATION = shop_middleware
WAIT_S = 40.0
MANY = 12


def both(numbers: range) -> Counter[str]:
    """The effects of the middleware and of `perform`, once each."""
    return Counter(f"{event} {number}" for number in numbers for event in ("entered", "counted"))


def test_each_run_passes_the_middleware_once_under_two_workers(pair: PolicyPair) -> None:
    pair.start(processes=2)
    tickets = [Counted(number=number).async_().call() for number in range(MANY)]
    assert [ticket.result(WAIT_S) for ticket in tickets] == list(range(MANY))
    assert Counter(pair.effects()) == both(range(MANY))


def test_writes_of_a_middleware_are_rolled_back_with_its_killed_worker(pair: PolicyPair) -> None:
    pair.start_killed_at("in_middleware")
    ticket = Counted(number=1).async_().call()
    eventually(lambda: pair.reached("in_middleware"), "a worker is killed in the middleware", WAIT_S, pair.output)
    pair.start()
    assert ticket.result(RECOVER_WITHIN_S + WAIT_S) == 1
    assert Counter(pair.effects()) == both(range(1, 2))
    assert pair.row(ticket.id)["num_attempts"] == 2
