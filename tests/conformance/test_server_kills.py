"""Killed and frozen processes on servers: every operation ends once and in time, and nothing is lost.

``tests/journeys/test_kills.py`` has the tests on a SQLite file.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from apps.shop import Customer
from apps.shop_failpoints import LockCustomer, Mark, WaitForFile
from harness.kills import (
    RECOVER_WITHIN_S,
    WAIT_S,
    Kills,
    assert_available_in_time,
    assert_done_once,
    assert_nothing_left,
    effects_of,
    kill_enqueuers_at_each_point,
    kill_workers_at_each_point,
    killed_pair,
    lines_of,
    lost_attempts,
    now,
    pid_of,
    run_crash_loops,
    wait_until_final,
    worker_ids,
)
from harness.workers import eventually

import dexpy
from dexpy.database.column_types import as_of
from dexpy.database.dialects import dialect_of
from dexpy.database.tables import attempts, records, worker_sessions, workers
from dexpy.foundation import failpoints
from dexpy.liveness import worker_registry
from dexpy.liveness.heartbeat import RECOVERS_AFTER_BEATS, Heartbeat
from dexpy.liveness.intervals import RecoveryIntervals
from dexpy.maintenance.recovery import Recovery

PAIRS = ["postgresql+redis", "postgresql+rabbitmq", "mariadb+sql"]


@pytest.fixture
def kills(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Kills]:
    """Yield a pair without a worker; the parameter is its name."""
    with killed_pair(request.param, tmp_path) as opened:
        yield opened


def on(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kills", names, indirect=True)


@on(*PAIRS)
def test_a_worker_that_is_killed_at_any_failpoint_loses_and_repeats_nothing(kills: Kills) -> None:
    kill_workers_at_each_point(kills)


@on(*PAIRS)
def test_a_worker_that_is_frozen_at_any_failpoint_loses_nothing_and_delays_no_other(
    kills: Kills,
) -> None:
    kill_workers_at_each_point(kills, freezes=True)


@on(*PAIRS)
def test_a_process_that_is_killed_while_it_enqueues_stores_all_or_nothing(kills: Kills) -> None:
    kill_enqueuers_at_each_point(kills)


@on("postgresql+rabbitmq")
def test_an_operation_that_kills_its_workers_ends_as_lost_and_others_continue(kills: Kills) -> None:
    run_crash_loops(kills)


@on("postgresql+redis", "mariadb+sql")
def test_a_worker_that_was_frozen_past_its_lease_writes_nothing_after_it_is_resumed(kills: Kills) -> None:
    pair, ledger = kills.pair, kills.pair.folder / "ledger"
    frozen = kills.serve(["in_perform=wait", "before_commit=wait"], threads=2)
    holding = LockCustomer(customer=1, ledger=str(ledger)).async_().call()
    pid = kills.wait_for("in_perform").pid
    committing = LockCustomer(customer=2, ledger=str(ledger)).async_().call()
    assert kills.wait_for("before_commit").pid == pid
    # The frozen worker may have fetched these messages, but it runs none of them.
    for number in (5, 6):
        Mark(number=number).async_().call()
    successor = pair.start()
    (old_id,) = worker_ids(pair, pid)

    os.kill(pid, signal.SIGSTOP)
    frozen_at = now(pair)
    rows = wait_until_final(pair)

    # Both runs ended although the frozen worker had locked the rows that they write.
    assert len(rows) == 6
    assert_done_once(pair, rows, ["hold 1", "hold 2", *effects_of([1, 2, 5, 6])])
    (healthy,) = successor.children()
    for ticket in (holding, committing):
        (lost,) = lost_attempts(pair, ticket.id)
        assert lost.worker == old_id
        assert_available_in_time(pair, next(row for row in rows if row.id == ticket.id), frozen_at)
    assert worker_ids(pair, pid) == []

    kills.release()
    os.kill(pid, signal.SIGCONT)

    eventually(lambda: frozen.lines("worker.lease_expired"), "the expired lease is logged", WAIT_S, pair.output)
    eventually(lambda: len(frozen.lines("claim.lost")) == 2, "both of its runs are rolled back", WAIT_S, pair.output)
    (new_id,) = eventually(
        lambda: worker_ids(pair, pid), "the process is registered under a new id", WAIT_S, pair.output
    )
    assert new_id != old_id
    assert_nothing_left(pair)
    assert sorted(lines_of(ledger)) == [f"1 {healthy}", f"2 {healthy}"], "the hooks of the frozen runs have not run"
    assert wait_until_final(pair) == rows, "the frozen runs and their children have changed nothing"
    assert set(pair.sql(sa.select(Customer.name).where(Customer.id <= 2))) == {(f"held by {healthy}",)}
    assert_done_once(pair, rows, ["hold 1", "hold 2", *effects_of([1, 2, 5, 6])])

    successor.stop()
    after = [Mark(number=number).async_().call() for number in (3, 4)]
    assert [ticket.result(WAIT_S) for ticket in after] == [3, 4]
    assert {pid} == {row.pid for row in pair.sql("SELECT pid FROM effects WHERE what IN ('mark 3', 'mark 4')")}
    assert {pid_of(row.worker) for row in pair.sql(sa.select(attempts))} == {pid}


@on("postgresql+redis", "mariadb+sql")
def test_a_relay_that_is_frozen_in_the_middle_of_a_recovery_does_not_block_the_recovery_by_another(
    kills: Kills,
) -> None:
    pair = kills.pair
    first = kills.serve(["in_perform=wait"])
    ticket = Mark(number=1).async_().call()
    doomed = kills.wait_for("in_perform").pid
    recovering = kills.serve(["before_recovery_commit=wait"], "-Q", "elsewhere")
    recovering.await_started(1)
    first.signal(signal.SIGKILL, to_all=True)
    # The open transaction of the frozen relay holds the row lock.
    frozen = kills.wait_for("before_recovery_commit").pid
    os.kill(frozen, signal.SIGSTOP)
    pair.start()
    # The recovery interval begins with the start of this worker.
    since = now(pair)

    rows = wait_until_final(pair)

    assert_done_once(pair, rows, effects_of([1]))
    assert_available_in_time(pair, rows[0], since)
    assert [pid_of(lost.worker) for lost in lost_attempts(pair, ticket.id)] == [doomed], (
        "recovered once, by the other worker"
    )
    kills.release()
    os.kill(frozen, signal.SIGCONT)
    eventually(lambda: recovering.lines("worker.lease_expired"), "the expired lease is logged", WAIT_S, pair.output)
    assert wait_until_final(pair) == rows


@on("postgresql+redis", "mariadb+sql")
def test_a_worker_whose_lease_expires_during_a_recovery_is_recovered_by_the_next_one(
    kills: Kills, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, dispatcher = kills.pair, dexpy.current_runtime().dispatcher
    assert dispatcher.store is not None
    heartbeat = dexpy.current_runtime().services.heartbeat
    assert heartbeat is not None
    with dispatcher.store.begin() as connection:
        for name, lease_s in (("gone", -1.0), ("late", 600.0)):
            facts = {"host": "elsewhere", "pid": 1, "threads": 1, "queues": None}
            worker_registry.register(connection, name, lease_s, **facts)
    ticket = Mark(number=1).async_(in_=86_400).call()
    pair.change(sa.update(records).where(records.c.id == ticket.id).values(status="running", claimed_by="gone"))

    def lapse(point: str) -> None:
        if point == "before_recovery_commit":
            pair.change(sa.update(workers).where(workers.c.id == "late").values(leased_until=as_of(-1)))

    monkeypatch.setattr(failpoints, "reached", lapse)
    recovery = Recovery(dispatcher, dispatcher.store, heartbeat)
    remaining = sa.select(workers.c.id).where(workers.c.host == "elsewhere")

    assert recovery.run_once() == 1
    # The row of the expired worker remains until its recorded sessions, which may hold locks, are ended.
    assert [row.id for row in pair.sql(remaining)] == ["late"]
    assert recovery.run_once() == 0
    assert pair.sql(remaining) == []


@on("postgresql+redis", "mariadb+sql")
def test_after_an_outage_longer_than_a_lease_no_live_worker_is_recovered(
    kills: Kills,
) -> None:
    pair, gate = kills.pair, kills.pair.folder / "gate"
    worker = pair.start(processes=3, threads=1)
    # Each run has an open transaction, whose session a recovery would end.
    tickets = [WaitForFile(number=number, file=str(gate), writes_first=True).async_().call() for number in range(3)]
    running = sa.select(records).where(records.c.status == "running").order_by(records.c.id)
    before = eventually(
        lambda: len(rows := pair.sql(running)) == 3 and rows, "all operations are running", WAIT_S, pair.output
    )
    lost = Mark(number=3).async_(in_=86_400).call()

    # The lock delays all heartbeats, so every process reads expired leases.
    with pair.engine.begin() as connection:
        connection.execute(sa.select(workers).with_for_update())
        # Longer than a lease, which is half of the recovery interval.
        time.sleep(RECOVER_WITHIN_S * 0.8)
    claimed_by_dead_worker = {"status": "running", "claimed_by": "gone"}
    pair.change(sa.update(records).where(records.c.id == lost.id).values(claimed_by_dead_worker))

    # The process that recovers this run has also checked the leases of all workers.
    eventually(lambda: lost_attempts(pair, lost.id), "the run of the dead worker is recovered", WAIT_S, pair.output)
    assert pair.sql(running) == before
    gate.touch()
    assert [ticket.result(WAIT_S) for ticket in tickets] == [None] * 3
    assert worker.lines("worker.lease_expired") == []
    assert [one.record_id for one in pair.sql(sa.select(attempts))] == [lost.id]


@on("postgresql+redis", "mariadb+sql")
def test_a_worker_with_a_late_heartbeat_waits_before_it_recovers_runs_of_others(kills: Kills) -> None:
    pair, intervals = kills.pair, RecoveryIntervals(RECOVER_WITHIN_S)
    store = dexpy.current_runtime().store
    heartbeat, beats = Heartbeat(store, intervals), []

    def record_heartbeat(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE") and workers.name in statement.split()[1]:
            beats.append(time.monotonic())

    heartbeat.start()
    sa.event.listen(store.database.engine, "after_cursor_execute", record_heartbeat)
    try:
        with pair.engine.begin() as connection:
            connection.execute(sa.select(workers).with_for_update())
            eventually(lambda: not heartbeat.may_recover, "the heartbeat is late", WAIT_S)
            beats.clear()
        eventually(lambda: heartbeat.may_recover, "it may recover runs again", WAIT_S)
        may_recover_at = time.monotonic()
    finally:
        sa.event.remove(store.database.engine, "after_cursor_execute", record_heartbeat)
        heartbeat.stop()

    assert may_recover_at - beats[0] >= RECOVERS_AFTER_BEATS * intervals.heartbeat_interval_s


@on("postgresql+redis", "mariadb+sql")
def test_a_worker_without_a_heartbeat_claims_nothing_until_it_has_one(kills: Kills) -> None:
    pair = kills.pair
    worker = pair.start(threads=2)
    assert Mark(number=1).async_().call().result(WAIT_S) == 1

    with pair.engine.begin() as connection:
        connection.execute(sa.select(workers).with_for_update())
        # After this time without a heartbeat, the lease may expire before the next one.
        time.sleep(RECOVER_WITHIN_S / 2)
        ticket = Mark(number=2).async_().call()
        eventually(lambda: worker.lines("worker.paused"), "the worker is paused", WAIT_S, pair.output)
        assert pair.row(ticket.id)["status"] == "pending"

    assert ticket.result(WAIT_S) == 2
    assert pair.row(ticket.id)["num_attempts"] == 1
    assert Counter(pair.effects()) == Counter(effects_of([1, 2]))


@on("postgresql+redis", "mariadb+sql")
def test_a_session_of_a_dead_worker_that_cannot_be_ended_does_not_delay_its_recovery(kills: Kills) -> None:
    pair, dispatcher = kills.pair, dexpy.current_runtime().dispatcher
    assert dispatcher.store is not None
    heartbeat = dexpy.current_runtime().services.heartbeat
    assert heartbeat is not None
    ticket = Mark(number=1).async_(in_=86_400).call()
    pair.change(sa.update(records).where(records.c.id == ticket.id).values(status="running", claimed_by="gone"))
    with dispatcher.store.begin() as connection:
        worker_registry.register(connection, "gone", -1.0, host="elsewhere", pid=1, threads=1, queues=None)
    refused: list[str] = []

    def refuse(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        """Replace the statement that ends a session by one that fails, which may abort the transaction."""
        if statement.startswith("SELECT pg_terminate_backend("):
            refused.append(statement)
            return "SELECT 1 / 0", parameters
        if statement.startswith("KILL CONNECTION"):
            refused.append(statement)
            return "KILL CONNECTION 0", parameters
        return statement, parameters

    engine = dispatcher.store.database.engine
    with pair.engine.connect() as theirs:
        name = dialect_of(theirs).session_name_query(theirs)
        assert name is not None
        noted = sa.insert(worker_sessions).values(backend=theirs.execute(name).scalar_one(), worker="gone")
        pair.change(noted)
        sa.event.listen(engine, "before_cursor_execute", refuse, retval=True)
        try:
            num_recovered = Recovery(dispatcher, dispatcher.store, heartbeat).run_once()
        finally:
            sa.event.remove(engine, "before_cursor_execute", refuse)

    assert len(refused) == 1
    assert num_recovered == 1
    assert pair.row(ticket.id)["status"] == "pending"
    assert pair.sql(sa.select(workers.c.id).where(workers.c.host == "elsewhere")) == []
