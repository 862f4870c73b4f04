"""Pauses with real workers that are killed: nothing of a paused queue or operation starts, and nothing is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from apps.shop import Count, DirectVisit, Greet
from harness.policy_workers import RECOVER_WITHIN_S, PolicyPair
from harness.workers import eventually

from dexpy import queues
from dexpy.database.column_types import database_time
from dexpy.database.tables import records

LATENCY = timedelta(seconds=2)
"""How soon a pause takes effect in every process."""
MACHINE_S = 4.0
"""The additional time that a busy machine may take."""
WAIT_S = 60.0
NUM_MAILS = 100
POLL_S = 0.02

EACH = [
    "sqlite+sql",
    "sqlite+redis",
    pytest.param("postgresql+sql", marks=pytest.mark.servers),
    pytest.param("mariadb+sql", marks=pytest.mark.servers),
    pytest.param("postgresql+redis", marks=pytest.mark.servers),
    pytest.param("mariadb+rabbitmq", marks=pytest.mark.servers),
    pytest.param("postgresql+rabbitmq", marks=[pytest.mark.servers, pytest.mark.wide]),
]
on_each = pytest.mark.parametrize("pair", EACH, indirect=True)


def now(pair: PolicyPair) -> datetime:
    """Return the time of the database's clock."""
    with pair.engine.connect() as connection:
        return database_time(connection)


def rows_of(pair: PolicyPair, tickets: Sequence[Any]) -> list[Any]:
    return list(pair.sql(sa.select(records).where(records.c.id.in_([ticket.id for ticket in tickets]))))


def wait_until_done(pair: PolicyPair, tickets: Sequence[Any], within_s: float = WAIT_S) -> None:
    def unfinished() -> list[Any]:
        return [(row.id, row.operation, row.status) for row in rows_of(pair, tickets) if row.status != "done"]

    eventually(lambda: not unfinished(), "all runs are done", within_s, lambda: f"{unfinished()}\n{pair.output()}")


def wait_until(pair: PolicyPair, moment: datetime) -> None:
    """Wait until the clock of the database has passed a moment."""
    eventually(lambda: now(pair) > moment, f"the time is {moment}", WAIT_S)


@on_each
def test_a_paused_queue_starts_no_run_until_it_is_resumed_although_a_worker_is_killed(pair: PolicyPair) -> None:
    mails = [Count(number=number, seconds=0.2).async_(queue="mailers").call() for number in range(NUM_MAILS)]
    doomed, _ = [pair.start(processes=1, threads=2) for _ in range(2)]
    eventually(lambda: any(row.status == "done" for row in rows_of(pair, mails)), "the first run", WAIT_S, pair.output)

    pause = queues.pause("mailers", by="ada", reason="the mail server is away")
    doomed.stop()

    wait_until(pair, pause.since + LATENCY)
    sent = {row.id: row.send_count for row in rows_of(pair, mails) if row.status == "pending"}
    # Longer than after which a message counts as lost, and a worker as dead.
    wait_until(pair, pause.since + LATENCY + timedelta(seconds=RECOVER_WITHIN_S))
    assert Greet(name="Ada").async_().call().result(WAIT_S, POLL_S) == "hello Ada", "other queues are served"
    rows = rows_of(pair, mails)
    assert [row.id for row in rows if row.started_at and row.started_at > pause.since + LATENCY] == [], pair.output()
    waiting = [row for row in rows if row.status == "pending"]
    assert len(waiting) > NUM_MAILS / 4, "the queue was paused under load"
    republished = [row.id for row in waiting if row.id in sent and row.send_count > sent[row.id]]
    assert republished == [], "a pause is no lost message"
    assert {row.num_attempts for row in waiting if not row.num_lost} == {0}
    num_held = sum(row.blocked_key is not None for row in waiting)
    assert num_held <= 4, "consumers leave the messages of a paused queue where they are"
    state = queues.get("mailers")
    assert (state.pause, state.due, state.running) == (pause, len(waiting), 0)
    assert len(state.workers) == 1
    resumed_at = now(pair)
    assert queues.resume("mailers")
    wait_until_done(pair, mails)
    first = min(row.started_at for row in rows_of(pair, mails) if row.started_at > resumed_at)
    assert first < resumed_at + LATENCY + timedelta(seconds=MACHINE_S)
    assert Counter(pair.effects("count %")) == Counter(f"count {number}" for number in range(NUM_MAILS))


@on_each
def test_a_paused_operation_holds_its_runs_until_the_pause_ends_by_itself(pair: PolicyPair) -> None:
    pair.start(processes=2, threads=2)
    pause = queues.pause(operation=Count, for_=8)
    wait_until(pair, pause.since + LATENCY)

    counts = [Count(number=number).async_(priority=number % 2).call() for number in range(20)]
    direct = [DirectVisit(page=str(number)).async_().call() for number in range(100, 103)]
    greets = [Greet(name=str(number)).async_().call() for number in range(5)]

    wait_until_done(pair, greets)
    eventually(lambda: len(pair.effects("visit %")) == len(direct), "others run", WAIT_S, pair.output)
    assert pause.until is not None
    held = rows_of(pair, counts)
    assert {(row.status, row.num_attempts) for row in held} == {("pending", 0)}, pair.output()
    wait_until(pair, pause.until)
    wait_until_done(pair, counts, LATENCY.total_seconds() + MACHINE_S)
    rows = rows_of(pair, counts)
    assert min(row.started_at for row in rows) >= pause.until
    assert {row.num_attempts for row in rows} == {1}
    assert Counter(pair.effects("count %")) == Counter(f"count {number}" for number in range(20))


@on_each
def test_direct_runs_of_a_paused_operation_wait_in_the_database(pair: PolicyPair) -> None:
    pair.start(processes=1, threads=2)
    pause = queues.pause(operation=DirectVisit)
    wait_until(pair, pause.since + LATENCY)
    for number in range(5):
        DirectVisit(page=str(number)).async_().call()
    held = sa.text("SELECT payload FROM dexpy_messages WHERE payload LIKE '%\"paused\"%'")
    eventually(lambda: len(pair.sql(held)) == 5, "all are held", WAIT_S, pair.output)
    assert pair.effects("visit %") == []

    queues.resume(operation=DirectVisit)

    eventually(lambda: len(pair.effects("visit %")) == 5, "all run", LATENCY.total_seconds() + MACHINE_S, pair.output)


@pytest.mark.parametrize(
    "pair", ["sqlite+redis", pytest.param("mariadb+rabbitmq", marks=pytest.mark.servers)], indirect=True
)
def test_held_runs_survive_the_process_that_publishes_them(pair: PolicyPair) -> None:
    queues.pause(operation=Count)
    counts = [Count(number=number).async_().call() for number in range(10)]
    worker = pair.start(processes=1, threads=2)
    eventually(lambda: all(row.blocked_key for row in rows_of(pair, counts)), "all are held", WAIT_S, pair.output)
    worker.stop()
    pair.start_killed_at("held_runs_marked", threads=2)
    queues.resume(operation=Count)
    eventually(lambda: pair.reached("held_runs_marked"), "the process is killed", WAIT_S, pair.output)

    pair.start(processes=1, threads=2)

    wait_until_done(pair, counts)
    assert Counter(pair.effects("count %")) == Counter(f"count {number}" for number in range(10))
