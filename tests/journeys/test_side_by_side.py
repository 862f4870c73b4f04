"""Concurrent operations on one SQLite file: those that have only read delay no other operation."""

from __future__ import annotations

import time

import sqlalchemy as sa
from apps.accounts import Effect, Increment, SlowOrder
from harness.workers import Deployment, eventually
from sqlalchemy.orm import Session

SLEEP_S = 3.0
AT_ONCE_S = 0.5


def test_eight_operations_that_have_read_a_row_run_concurrently_and_block_no_other(deployment: Deployment) -> None:
    worker = deployment.start(processes=1, threads=8)
    began = time.monotonic()
    eight = [SlowOrder(customer=7, seconds=SLEEP_S).async_().call() for _ in range(8)]
    eventually(
        lambda: [deployment.status(ticket.id) for ticket in eight] == ["running"] * 8,
        "all eight run",
        details=deployment.output,
    )

    before = time.monotonic()
    ninth = Increment(number=9).async_().call()
    enqueued_s = time.monotonic() - before
    engine = sa.create_engine(deployment.url)
    before = time.monotonic()
    with Session(engine) as unrelated:
        unrelated.add(Effect(what="unrelated", run=""))
        unrelated.commit()
    written_s = time.monotonic() - before
    engine.dispose()
    assert [deployment.status(ticket.id) for ticket in eight] == ["running"] * 8, (
        "the enqueue and the write took place during the eight runs"
    )
    spans = [ticket.result(20) for ticket in eight]
    total_s = time.monotonic() - began

    assert enqueued_s < AT_ONCE_S
    assert written_s < AT_ONCE_S
    assert total_s < 2 * SLEEP_S
    assert max(start for start, _ in spans) < min(end for _, end in spans), "all eight slept at the same time"
    assert ninth.result(10) is None
    beside = deployment.sql("SELECT pid, thread FROM effects WHERE what = 'beside Ada'")
    assert {row["pid"] for row in beside} == set(worker.children())
    assert len({row["thread"] for row in beside}) == 8
    assert "database is locked" not in worker.output()
