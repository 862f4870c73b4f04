"""The clock of `isolated` in nested blocks, in blocks that fail or end in another order, and with a server."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from servers import database

import dexpy
from dexpy import Operation, Unique, records
from dexpy.foundation.clock import clock
from dexpy.testing import isolated


class Job(Operation):
    def perform(self) -> int:
        return 1


class Digest(Operation):
    shop: int
    unique = Unique("shop", for_=3600)

    def perform(self) -> int:
        return self.shop


def moved_s() -> float:
    return clock.timestamp() - time.time()


def test_l8_an_inner_block_does_not_reset_the_clock_of_the_outer_block() -> None:
    with isolated() as isolated_runtime:
        ticket = Job().async_(in_=60).call()
        isolated_runtime.advance(61)
        with isolated():
            Job().call()
        isolated_runtime.run_pending()
        assert ticket.reload().status == "done"


def test_l8_each_block_reverts_only_its_own_changes_to_the_clock() -> None:
    with isolated() as first:
        first.advance(100)
        with isolated() as second:
            assert moved_s() == pytest.approx(100, abs=1)
            second.advance(timedelta(days=1))
            with pytest.raises(ZeroDivisionError), isolated() as third:
                third.advance(0.1)
                third.advance(1000)
                raise ZeroDivisionError
            assert moved_s() == pytest.approx(86_500, abs=1)
        assert moved_s() == pytest.approx(100, abs=1)
    assert clock.offset_s == 0.0


def test_l8_the_outer_block_may_advance_the_clock_inside_an_inner_block() -> None:
    with isolated() as outer:
        ticket = Job().async_(in_=60).call()
        with isolated() as inner:
            outer.advance(61)
            inner.advance(5)
        outer.run_pending()
        assert ticket.reload().status == "done"


def test_l8_blocks_that_end_in_another_order_restore_real_time() -> None:
    first, second = ExitStack(), ExitStack()
    first.enter_context(isolated()).advance(0.3)
    second.enter_context(isolated()).advance(7)
    first.close()
    assert moved_s() == pytest.approx(7, abs=1)
    second.close()
    assert clock.offset_s == 0.0


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_l8_the_clock_applies_to_due_times_expiry_and_unique_keys_on_a_server(kind: str, tmp_path: Path) -> None:
    with database(kind, tmp_path) as url:
        runtime = dexpy.configure(database=url, create_tables=True)
        assert records.all().count() == 0
        runtime.close()
        with isolated(database=url) as isolated_runtime:
            due = Job().async_(in_=60).call()
            expiring = Job().async_(in_=60, expires_in=62).call()
            unique = Digest(shop=1).async_().call()
            assert len(isolated_runtime.run_pending()) == 1
            isolated_runtime.advance(61)
            assert len(isolated_runtime.run_pending()) == 2
            assert [due.reload().status, expiring.reload().status] == ["done", "done"]
            late = Job().async_(in_=60, expires_in=90).call()
            assert Digest(shop=1).async_().call().duplicate
            isolated_runtime.advance(3600)
            assert not Digest(shop=1).async_().call().duplicate
            isolated_runtime.run_pending()
            assert late.reload().status == "expired"
            assert unique.reload().status == "done"
