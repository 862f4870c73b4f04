"""Hooks with real workers that are killed between the end of a run and the call, and by the hook itself."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

import pytest
import sqlalchemy as sa
from apps import shop_hooks
from apps.shop_hooks import FILE, Pay, noted
from harness.policy_workers import PolicyPair, open_pair
from harness.workers import eventually, is_alive

from dexpy.database.column_types import after
from dexpy.database.tables import hook_calls
from dexpy.runtime import install

PAIRS = [
    pytest.param("sqlite+sql"),
    pytest.param("postgresql+redis", marks=pytest.mark.servers),
    pytest.param("mariadb+sql", marks=pytest.mark.servers),
    pytest.param("postgresql+rabbitmq", marks=pytest.mark.servers),
]


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[PolicyPair]:
    """A pair whose workers have hooks, configured in this process without them."""
    with open_pair(request.param, tmp_path, shop_hooks) as policy_pair:
        policy_pair.variables = {FILE: str(tmp_path / FILE)}
        policy_pair.configure()
        yield policy_pair
    install(None)


@pytest.mark.parametrize("pair", PAIRS, indirect=True)
def test_a_failure_calls_the_hook_although_the_worker_is_killed_before_or_in_the_call(pair: PolicyPair) -> None:
    # Its process is killed when the end is committed, and the next one when it has claimed the call.
    worker = pair.start_killed_at("before_ack", "hook_claimed", threads=2)
    ticket = Pay(code="declined").async_().call()
    for point in ("before_ack", "hook_claimed"):
        pid = eventually(lambda: pair.reached(point), f"a worker is at {point}", 20, worker.output)  # noqa: B023
        eventually(lambda: not is_alive(pid), "the worker is killed")  # noqa: B023
        assert noted(pair.folder) == []
    # Instead of waiting until the lease is over.
    pair.change(sa.update(hook_calls).values(leased_until=after(-1.0)))
    others = [Pay(code=code).async_().call() for code in ("exits", "raises", "recurses", "")]

    eventually(lambda: all(each.reload().terminal for each in others), "all end", 20, pair.output)
    eventually(lambda: not pair.sql(sa.select(hook_calls.c.id)), "all calls are made", 30, pair.output)
    assert [line for line in noted(pair.folder) if line.endswith(" 2")] == ["on_failure hooks.pay business 2"]
    assert ticket.reload().failed
    assert others[-1].reload().done
    assert pair.output().count("hook.failed") == 3


@pytest.mark.parametrize("pair", PAIRS[:1], indirect=True)
def test_a_hook_that_kills_its_process_is_called_three_times_at_most(pair: PolicyPair) -> None:
    Pay(code="kills").async_().call()
    healthy = Pay().async_().call()
    for number in range(1, 4):
        # Not `start`, which requires that the process lives on.
        worker = pair.serve([sys.executable, "-m", "dexpy", "worker", shop_hooks.__name__, "-p", "1", "-t", "1"])
        eventually(lambda: len(noted(pair.folder)) >= number, "the hook is called", 20, worker.output)  # noqa: B023
        worker.stop()
        pair.change(sa.update(hook_calls).values(leased_until=after(-1.0)))
    worker = pair.start(threads=1)
    eventually(lambda: not pair.sql(sa.select(hook_calls.c.id)), "it is given up", 20, worker.output)

    assert [line.split()[-1] for line in noted(pair.folder)] == ["1", "2", "3"]
    assert healthy.reload().done
    assert "hook.abandoned" in worker.output()
