"""Processes that are killed and frozen, on servers: every operation ends once, within the promise, and nothing is lost.

The same on a SQLite file is in ``tests/journeys/test_kills.py``.
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
from deaths import (
    RESCUE_WITHIN_S,
    WAIT_S,
    Deaths,
    all_final,
    die_again_and_again,
    effects_of,
    is_done_once,
    is_offered_in_time,
    is_quiet,
    kill_enqueuers_at_each_point,
    kill_workers_at_each_point,
    lines_of,
    lost_attempts,
    mortal_pair,
    now,
    pid_of,
    worker_ids,
)
from market import Customer
from mortals import Hold, Linger, Mark
from workers import eventually

import dexpy
from dexpy.background.heart import JUDGES_AFTER_BEATS, Heart
from dexpy.background.rescue import Rescue
from dexpy.background.sessions import _backend_of
from dexpy.foundation import checkpoint
from dexpy.foundation.pace import Pace
from dexpy.recording import liveness
from dexpy.recording.metadata import as_of
from dexpy.recording.tables import attempts, records, worker_sessions, workers

PAIRS = ["postgresql+redis", "postgresql+rabbitmq", "mariadb+sql"]


@pytest.fixture
def deaths(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Deaths]:
    """A pair, named by an indirect parameter, that nobody serves yet."""
    with mortal_pair(request.param, tmp_path) as found:
        yield found


def on(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("deaths", names, indirect=True)


@on(*PAIRS)
def test_a_worker_that_is_killed_at_any_point_of_a_run_loses_nothing_and_does_nothing_twice(deaths: Deaths) -> None:
    kill_workers_at_each_point(deaths)


@on(*PAIRS)
def test_a_worker_that_is_frozen_at_any_point_of_a_run_loses_nothing_and_keeps_nobody_else_waiting(
    deaths: Deaths,
) -> None:
    kill_workers_at_each_point(deaths, freezes=True)


@on(*PAIRS)
def test_a_process_that_is_killed_while_it_enqueues_leaves_all_or_nothing(deaths: Deaths) -> None:
    kill_enqueuers_at_each_point(deaths)


@on("postgresql+rabbitmq")
def test_an_operation_that_kills_its_workers_ends_as_lost_and_the_others_go_on(deaths: Deaths) -> None:
    die_again_and_again(deaths)


@on("postgresql+redis", "mariadb+sql")
def test_a_worker_that_is_frozen_past_its_lease_can_do_nothing_more_when_it_is_thawed(deaths: Deaths) -> None:
    pair, ledger = deaths.pair, deaths.pair.folder / "ledger"
    frozen = deaths.serve(["in_perform=wait", "before_commit=wait"], threads=2)
    holding = Hold(customer=1, ledger=str(ledger)).async_().call()
    pid = deaths.at("in_perform").pid
    committing = Hold(customer=2, ledger=str(ledger)).async_().call()
    assert deaths.at("before_commit").pid == pid
    # Perhaps fetched by it, and perhaps not: they lie behind what it runs.
    for number in (5, 6):
        Mark(number=number).async_().call()
    successor = pair.start()
    (old_id,) = worker_ids(pair, pid)

    os.kill(pid, signal.SIGSTOP)
    frozen_at = now(pair)
    rows = all_final(pair)

    # Both ran to their end although the frozen one had locked the rows that they write.
    assert len(rows) == 6
    is_done_once(pair, rows, ["hold 1", "hold 2", *effects_of([1, 2, 5, 6])])
    (healthy,) = successor.children()
    for ticket in (holding, committing):
        (lost,) = lost_attempts(pair, ticket.id)
        assert lost.worker == old_id
        is_offered_in_time(pair, next(row for row in rows if row.id == ticket.id), frozen_at)
    assert worker_ids(pair, pid) == []

    deaths.go()
    os.kill(pid, signal.SIGCONT)

    eventually(lambda: frozen.lines("worker.taken_for_dead"), "it is told", WAIT_S, pair.tell)
    eventually(lambda: len(frozen.lines("claim.lost")) == 2, "both of its runs are undone", WAIT_S, pair.tell)
    (new_id,) = eventually(lambda: worker_ids(pair, pid), "it has a new name", WAIT_S, pair.tell)
    assert new_id != old_id
    is_quiet(pair)
    assert sorted(lines_of(ledger)) == [f"1 {healthy}", f"2 {healthy}"], "its hooks have not run"
    assert all_final(pair) == rows, "neither it nor what it had enqueued has left anything"
    assert set(pair.sql(sa.select(Customer.name).where(Customer.id <= 2))) == {(f"held by {healthy}",)}
    is_done_once(pair, rows, ["hold 1", "hold 2", *effects_of([1, 2, 5, 6])])

    successor.stop()
    after = [Mark(number=number).async_().call() for number in (3, 4)]
    assert [ticket.result(WAIT_S) for ticket in after] == [3, 4]
    assert {pid} == {row.pid for row in pair.sql("SELECT pid FROM effects WHERE what IN ('mark 3', 'mark 4')")}
    assert {pid_of(row.worker) for row in pair.sql(sa.select(attempts))} == {pid}


@on("postgresql+redis", "mariadb+sql")
def test_a_relay_that_is_frozen_in_the_middle_of_a_rescue_keeps_nobody_from_what_it_was_rescuing(
    deaths: Deaths,
) -> None:
    pair = deaths.pair
    first = deaths.serve(["in_perform=wait"])
    ticket = Mark(number=1).async_().call()
    doomed = deaths.at("in_perform").pid
    rescuer = deaths.serve(["before_rescue_commit=wait"], "-Q", "elsewhere")
    rescuer.await_started(1)
    first.signal(signal.SIGKILL, to_all=True)
    # Its transaction holds the row, and it is not there to end it.
    frozen = deaths.at("before_rescue_commit").pid
    os.kill(frozen, signal.SIGSTOP)
    pair.start()
    # From then on there is somebody who can take it up.
    since = now(pair)

    rows = all_final(pair)

    is_done_once(pair, rows, effects_of([1]))
    is_offered_in_time(pair, rows[0], since)
    assert [pid_of(lost.worker) for lost in lost_attempts(pair, ticket.id)] == [doomed], "once, and by the other one"
    deaths.go()
    os.kill(frozen, signal.SIGCONT)
    eventually(lambda: rescuer.lines("worker.taken_for_dead"), "it is told", WAIT_S, pair.tell)
    assert all_final(pair) == rows


@on("postgresql+redis", "mariadb+sql")
def test_a_worker_whose_lease_ends_while_the_dead_are_looked_for_is_seen_to_by_the_next_look(
    deaths: Deaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, dispatcher = deaths.pair, dexpy.current_runtime().dispatcher
    assert dispatcher.store is not None
    assert dispatcher.heart is not None
    with dispatcher.store.begin() as connection:
        for name, lease_s in (("gone", -1.0), ("late", 600.0)):
            facts = {"host": "elsewhere", "pid": 1, "threads": 1, "queues": None}
            liveness.enter(connection, name, lease_s, **facts)
    ticket = Mark(number=1).async_(in_=86_400).call()
    pair.change(sa.update(records).where(records.c.id == ticket.id).values(status="running", claimed_by="gone"))

    def lapse(point: str) -> None:
        if point == "before_rescue_commit":
            pair.change(sa.update(workers).where(workers.c.id == "late").values(leased_until=as_of(-1)))

    monkeypatch.setattr(checkpoint, "reached", lapse)
    rescue = Rescue(dispatcher, dispatcher.store, dispatcher.heart)
    left = sa.select(workers.c.id).where(workers.c.host == "elsewhere")

    assert rescue.run_once() == 1
    # Its sessions are known by its row, and nobody has ended them yet: they may hold what others need.
    assert [row.id for row in pair.sql(left)] == ["late"]
    assert rescue.run_once() == 0
    assert pair.sql(left) == []


@on("postgresql+redis", "mariadb+sql")
def test_a_database_that_takes_no_beat_for_longer_than_a_lease_makes_nobody_take_the_living_for_dead(
    deaths: Deaths,
) -> None:
    pair, gate = deaths.pair, deaths.pair.folder / "gate"
    worker = pair.start(processes=3, threads=1)
    # Each in a transaction: its session is one of those that would be ended.
    tickets = [Linger(number=number, gate=str(gate), writes_first=True).async_().call() for number in range(3)]
    running = sa.select(records).where(records.c.status == "running").order_by(records.c.id)
    before = eventually(lambda: len(found := pair.sql(running)) == 3 and found, "all run", WAIT_S, pair.tell)
    lost = Mark(number=3).async_(in_=86_400).call()

    # All writes of beats wait, and everybody can read that nobody has beaten.
    with pair.engine.begin() as connection:
        connection.execute(sa.select(workers).with_for_update())
        # As long as it takes, for this is what is tried: a lease is half of the promise.
        time.sleep(RESCUE_WITHIN_S * 0.8)
    held_by_nobody = {"status": "running", "claimed_by": "gone"}
    pair.change(sa.update(records).where(records.c.id == lost.id).values(held_by_nobody))

    # Whoever takes this one up has looked, and so has judged the others too.
    eventually(lambda: lost_attempts(pair, lost.id), "the dead one's run is taken up", WAIT_S, pair.tell)
    assert pair.sql(running) == before
    gate.touch()
    assert [ticket.result(WAIT_S) for ticket in tickets] == [None] * 3
    assert worker.lines("worker.taken_for_dead") == []
    assert [one.record_id for one in pair.sql(sa.select(attempts))] == [lost.id]


@on("postgresql+redis", "mariadb+sql")
def test_a_worker_that_was_late_itself_gives_the_others_time_before_it_takes_them_for_dead(deaths: Deaths) -> None:
    pair, pace = deaths.pair, Pace(RESCUE_WITHIN_S)
    store = dexpy.current_runtime().store
    heart, beats = Heart(store, pace), []

    def beaten(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(f"UPDATE {workers.name}"):
            beats.append(time.monotonic())

    heart.begin()
    sa.event.listen(store.database.engine, "after_cursor_execute", beaten)
    try:
        with pair.engine.begin() as connection:
            connection.execute(sa.select(workers).with_for_update())
            eventually(lambda: not heart.may_judge, "it is late", WAIT_S)
            beats.clear()
        eventually(lambda: heart.may_judge, "it judges again", WAIT_S)
        judged_at = time.monotonic()
    finally:
        sa.event.remove(store.database.engine, "after_cursor_execute", beaten)
        heart.end()

    assert judged_at - beats[0] >= JUDGES_AFTER_BEATS * pace.beat_every_s


@on("postgresql+redis", "mariadb+sql")
def test_a_worker_that_cannot_say_that_it_lives_begins_nothing_until_it_can(deaths: Deaths) -> None:
    pair = deaths.pair
    worker = pair.start(threads=2)
    assert Mark(number=1).async_().call().result(WAIT_S) == 1

    with pair.engine.begin() as connection:
        connection.execute(sa.select(workers).with_for_update())
        # So long without a beat that its lease may be over before its next look.
        time.sleep(RESCUE_WITHIN_S / 2)
        ticket = Mark(number=2).async_().call()
        eventually(lambda: worker.lines("worker.unsound"), "it has the message, and waits", WAIT_S, pair.tell)
        assert pair.row(ticket.id)["status"] == "pending"

    assert ticket.result(WAIT_S) == 2
    assert pair.row(ticket.id)["num_attempts"] == 1
    assert Counter(pair.effects()) == Counter(effects_of([1, 2]))


@on("postgresql+redis", "mariadb+sql")
def test_a_session_of_a_dead_worker_that_cannot_be_ended_keeps_nothing_from_its_rescue(deaths: Deaths) -> None:
    pair, dispatcher = deaths.pair, dexpy.current_runtime().dispatcher
    assert dispatcher.store is not None
    assert dispatcher.heart is not None
    ticket = Mark(number=1).async_(in_=86_400).call()
    pair.change(sa.update(records).where(records.c.id == ticket.id).values(status="running", claimed_by="gone"))
    with dispatcher.store.begin() as connection:
        liveness.enter(connection, "gone", -1.0, host="elsewhere", pid=1, threads=1, queues=None)
    refused: list[str] = []

    def refuse(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        """Have the server itself say no, for that may end a transaction."""
        if statement.startswith("SELECT pg_terminate_backend("):
            refused.append(statement)
            return "SELECT 1 / 0", parameters
        if statement.startswith("KILL CONNECTION"):
            refused.append(statement)
            return "KILL CONNECTION 0", parameters
        return statement, parameters

    engine = dispatcher.store.database.engine
    with pair.engine.connect() as theirs:
        name = _backend_of(theirs)
        assert name is not None
        noted = sa.insert(worker_sessions).values(backend=theirs.execute(name).scalar_one(), worker="gone")
        pair.change(noted)
        sa.event.listen(engine, "before_cursor_execute", refuse, retval=True)
        try:
            rescued = Rescue(dispatcher, dispatcher.store, dispatcher.heart).run_once()
        finally:
            sa.event.remove(engine, "before_cursor_execute", refuse)

    assert len(refused) == 1
    assert rescued == 1
    assert pair.row(ticket.id)["status"] == "pending"
    assert pair.sql(sa.select(workers.c.id).where(workers.c.host == "elsewhere")) == []
