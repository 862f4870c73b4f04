"""Those of the traps that need a server to step into, on PostgreSQL and MariaDB with each kind of broker.

The lists of all of them are at the head of ``tests/traps/test_traps_of_ancestors.py`` and ``test_traps_of_peers.py``;
the numbers here are theirs.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import servers
import sqlalchemy as sa
from pairs import HERE, Pair
from proxy import Road
from sqlalchemy.orm import Session
from workers import eventually

sys.path.append(str(Path(__file__).parents[1] / "traps"))

import harbour
from places import RESCUE_WITHIN_S, Crates, start_ahead

import dexpy
from dexpy import records
from dexpy.foundation.clock import clock
from dexpy.recording.tables import records as table
from dexpy.runtime import install

TRAPS = Path(__file__).parents[1] / "traps"
WAIT_S = 40.0
LOOK_S = 0.05
SECRET = "hunter2-Ω'q"


class Port(Pair, Crates):
    """The harbour on a pair of database and broker; workers take up soon what was lost."""

    def furnish(self) -> None:
        """Make the tables of dexpy and of the harbour."""
        made = self.dexpy("db", "init")
        assert made.returncode == 0, made.stderr
        harbour.furnish(self.url)
        tests = HERE.parent
        self.variables = {
            "DEXPY_RESCUE_WITHIN": str(RESCUE_WITHIN_S),
            "PYTHONPATH": os.pathsep.join([str(TRAPS), str(tests), self.environment["PYTHONPATH"]]),
        }

    def configure(self) -> dexpy.Runtime:
        """Put it in force for the process of the tests."""
        self.runtime = dexpy.configure(database=self.url, broker=self.broker, rescue_within=RESCUE_WITHIN_S)
        return self.runtime

    def start(self, *arguments: str, module: str = "harbour", processes: int = 1, threads: int = 4) -> Any:
        """Start ``dexpy worker``; see `Shop.start`."""
        return super().start(*arguments, module=module, processes=processes, threads=threads)


@contextlib.contextmanager
def opened(name: str, folder: Path, pave: Callable[[str], Road] | None = None) -> Generator[tuple[Port, Road | None]]:
    kind, _, carrier = name.partition("+")
    with servers.database(kind, folder) as url, servers.broker(carrier) as broker:
        road = pave(str(broker)) if pave is not None else None
        port = Port(folder, url, road.url if road is not None else broker)
        try:
            port.furnish()
            port.configure()
            yield port, road
        finally:
            port.close()
            install(None)
            if road is not None:
                road.end()


@pytest.fixture
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Port]:
    """A port for one test, named by an indirect parameter; nothing serves it yet."""
    with opened(request.param, tmp_path) as (found, _):
        yield found


def on(*names: str) -> Any:
    return pytest.mark.parametrize("port", names, indirect=True)


# --------------------------------------------------------------------- 9 of the first list: row and message


@pytest.mark.parametrize("name", ["postgresql+redis", "mariadb+rabbitmq"])
def test_a_broker_that_is_down_loses_what_was_committed(name: str, tmp_path: Path) -> None:
    with opened(name, tmp_path, lambda url: Road(url, open=False)) as (port, road):
        assert road is not None
        with Session(port.engine) as session, dexpy.session(session):
            session.add(harbour.Effect(what="with it", run=""))
            kept = harbour.Whistle(number=1).async_().call()
            session.commit()
        with Session(port.engine) as session:
            undone = harbour.Whistle(number=2).async_(session=session).call()
            session.rollback()
        assert port.row(kept.id)["enqueued_at"] is None, "a message is owed"
        assert port.sql(sa.select(table.c.id)) == [(kept.id,)]

        worker = port.start()
        eventually(lambda: worker.lines("broker.unreachable"), "the worker misses it too", WAIT_S, worker.output)
        road.open()

        assert kept.result(WAIT_S, LOOK_S) == 1
        assert port.effects() == ["with it", "whistle 1"]
        with pytest.raises(dexpy.RolledBack):
            undone.wait(1)


# ------------------------------------------- 5 and 12 of the first list, 3 of the second: whose row it is


@on("postgresql+redis", "mariadb+sql")
@pytest.mark.parametrize("thaws", ["while its successor runs", "when all is over"])
def test_a_worker_that_thaws_after_its_rescue_still_writes(port: Port, thaws: str) -> None:
    for _ in range(2):
        port.start()
    ticket = port.unload(1)
    frozen = port.begun(1)
    (late,) = [worker for worker in port.workers if frozen in worker.children()]
    os.kill(frozen, signal.SIGSTOP)
    try:
        successor = port.begun(1, times=2)
        assert successor != frozen
        if thaws == "when all is over":
            port.open_gate(1)
            assert ticket.result(WAIT_S, LOOK_S) == 1
    finally:
        os.kill(frozen, signal.SIGCONT)
    port.open_gate(1)

    assert ticket.result(WAIT_S, LOOK_S) == 1
    eventually(lambda: late.lines("claim.lost"), "the late one finds that it is late", WAIT_S, port.tell)
    eventually(lambda: len(port.said(1)) == 3, "the other one has committed", WAIT_S, port.tell)
    assert port.said(1) == [("begun", frozen), ("begun", successor), ("committed", successor)]
    (child,) = records.where(operation=harbour.Whistle)
    assert child.ticket.result(WAIT_S, LOOK_S) == 1
    assert child.parent_id == ticket.id
    assert port.effects() == ["unload 1", "whistle 1"]
    assert [(each.number, each.failure) for each in records.attempts(ticket.id)] == [(1, "lost"), (2, None)]
    assert f":{frozen}:" in str(records.attempts(ticket.id)[0].worker)

    # It has a new name, and is as good as any other.
    more = [harbour.Whistle(number=number).async_().call() for number in range(100, 120)]
    assert [each.result(WAIT_S, LOOK_S) for each in more] == list(range(100, 120))


@on("postgresql+redis", "mariadb+rabbitmq", "postgresql+sql")
def test_a_hundred_deliveries_of_one_row_claim_it_more_than_once(port: Port) -> None:
    ticket = port.unload(1)
    dispatcher = dexpy.current_runtime().dispatcher
    row = dexpy.current_runtime().store.row(ticket.id)
    for _ in range(100):
        assert dispatcher.deliver_row(row)
    workers = [port.start(processes=2, threads=4) for _ in range(2)]
    port.begun(1)
    # One thread is at the gate; all other deliveries come and go.
    eventually(lambda: dispatcher.carrier.waiting("default") == 0, "all are delivered", WAIT_S, port.tell)
    port.open_gate(1)
    assert ticket.result(WAIT_S, LOOK_S) == 1
    for worker in workers:
        worker.signal(signal.SIGTERM)
    for worker in workers:
        assert worker.ended() == 0

    assert [what for what, _ in port.said(1)] == ["begun", "committed"]
    assert port.effects("unload%") == ["unload 1"]
    assert (port.row(ticket.id)["num_attempts"], port.row(ticket.id)["claim_token"]) == (1, 1)


# ------------------------------------------------------------------------- 5 and 6 of the second list: time, relay


HELD_BY_NOBODY = "UPDATE operation_records SET status = 'running', claimed_by = 'gone', claim_token = 1 WHERE id = :id"


@on("postgresql+redis", "mariadb+sql")
def test_a_worker_whose_clock_is_wrong_takes_the_living_for_dead_or_lives_for_ever(port: Port) -> None:
    workers = [start_ahead(port, seconds, threads=1) for seconds in (3600, -3600)]
    tickets = [port.unload(crate) for crate in (1, 2)]
    pids = {port.begun(crate): ticket for crate, ticket in enumerate(tickets, 1)}
    assert len(pids) == 2, "one on each"

    def have_looked() -> bool:
        # What neither of them has a thread for is given away by whoever looks first: until each has done so.
        other = harbour.WhistleElsewhere(number=7).async_(in_=3600).call()
        port.change(HELD_BY_NOBODY, id=other.id)
        eventually(lambda: port.row(other.id)["num_lost"], "it is taken up", WAIT_S, port.tell)
        return all(worker.lines("lost.rescue") for worker in workers)

    eventually(have_looked, "both look for the dead", WAIT_S, port.tell)
    assert [port.row(ticket.id)["num_lost"] for ticket in tickets] == [0, 0]
    assert not any(worker.lines("worker.taken_for_dead") for worker in workers)

    # One by one, each the last one that a wrong clock could keep alive.
    for crate, (pid, ticket) in enumerate(pids.items(), 1):
        os.kill(pid, signal.SIGKILL)
        port.begun(crate, times=2)
        port.open_gate(crate)
        assert ticket.result(WAIT_S, LOOK_S) == crate
        assert port.row(ticket.id)["num_lost"] == 1


@on("postgresql+redis", "mariadb+sql", "postgresql+sql")
@pytest.mark.parametrize("ahead_s", [3600, -3600])
def test_a_delay_counts_by_a_clock_that_is_wrong(port: Port, ahead_s: int) -> None:
    port.start()
    clock.advance(ahead_s)
    try:
        ticket = harbour.Whistle(number=1).async_(in_=1.5).call()
        at_once = harbour.Whistle(number=2).async_().call()
    finally:
        clock.reset()
    assert at_once.result(WAIT_S, LOOK_S) == 2
    assert ticket.result(WAIT_S, LOOK_S) == 1
    ran = port.row(ticket.id)
    assert (ran["started_at"] - ran["created_at"]).total_seconds() >= 1.5
    assert ran["started_at"] >= ran["scheduled_at"]


def refuse_queue(port: Port) -> str:
    """The name of a queue that the broker refuses."""
    if "redis" not in str(port.broker):
        return "amq.refused"
    with servers._redis(servers.need("redis")) as client:
        client.set(f"{str(port.broker).rpartition('=')[2]}:refused", "no list")
    return "refused"


@on("postgresql+redis", "mariadb+rabbitmq")
def test_a_bad_row_an_unknown_class_or_a_cut_database_stops_the_relay(port: Port) -> None:
    owed = [harbour.Whistle(number=number).async_(in_=1).call() for number in range(60)]
    refused, unknown = harbour.Whistle(number=98).async_(in_=1).call(), harbour.Whistle(number=99).async_(in_=1).call()
    port.change("UPDATE operation_records SET queue = :queue WHERE id = :id", queue=refuse_queue(port), id=refused.id)
    port.change("UPDATE operation_records SET name = 'harbour.Gone' WHERE id = :id", id=unknown.id)

    cut = port.folder / "cut"
    cut.touch()
    script = [sys.executable, str(HERE / "cut_short.py"), str(cut)]
    worker = port.serve([*script, "worker", "harbour", "-p", "1", "-t", "4"])
    worker.await_started(1)

    def await_done(*tickets: dexpy.Ticket[int]) -> None:
        left = {ticket.id for ticket in tickets}

        def look() -> bool:
            # This process is cut off with all others.
            with contextlib.suppress(sa.exc.DBAPIError):
                done = sa.select(table.c.id).where(table.c.id.in_(left), table.c.status == "done")
                left.difference_update(row.id for row in port.sql(done))
            return not left

        eventually(look, "all are done", WAIT_S, port.tell)

    def told() -> list[str]:
        return [line for line in worker.output().splitlines() if "the database has cut" in line]

    await_done(*owed)
    for number in range(60, 63):
        # Its own connections are cut as well, and may not know it yet.
        dexpy.current_runtime().store.database.dispose()
        ticket = harbour.Whistle(number=number).async_(in_=0.5).call()
        cut.touch()
        await_done(ticket)
        eventually(lambda number=number: len(told()) == number - 58, "it was cut once more", WAIT_S, port.tell)

    assert all(" 0 connections" not in line for line in told())
    assert sorted(port.effects()) == sorted(f"whistle {number}" for number in range(63))
    assert port.row(refused.id)["status"] == "pending"
    eventually(lambda: worker.lines("class.unknown"), "what is unknown is said", WAIT_S, port.tell)
    waiting = port.row(unknown.id)
    assert (waiting["status"], waiting["num_attempts"]) == ("pending", 0), "what one does not know one does not end"
    assert worker.children() == [worker.children()[0]], "no process has died of it"


# ----------------------------------------------------------------------- 12 and 15 of the second list: secrets, forks


def broker_content(port: Port) -> str:
    """All that the broker holds, as text."""
    if "redis" in str(port.broker):
        found: list[Any] = []
        with servers._redis(servers.need("redis")) as client:
            for key in client.scan_iter(f"{str(port.broker).rpartition('=')[2]}:*"):
                readers = {b"list": lambda k: client.lrange(k, 0, -1), b"hash": client.hgetall,
                           b"set": client.smembers, b"zset": lambda k: client.zrange(k, 0, -1)}  # fmt: skip
                found.append((key, readers.get(client.type(key), client.get)(key)))
        return str(found)
    import pika

    bodies: list[bytes] = []
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(str(port.broker)))) as connection:
        channel = connection.channel()
        while (got := channel.basic_get("default"))[0] is not None:
            bodies.append(got[2])
        # What was got and not acknowledged lies in the queue again when the connection is closed.
    return str(bodies)


@on("postgresql+redis", "mariadb+rabbitmq")
def test_a_secret_leaks_from_a_server(port: Port) -> None:
    tickets = [harbour.Moor(secret=SECRET, ending=ending).async_().call() for ending in harbour.ENDINGS]
    sinks = {"broker": broker_content(port)}
    assert all(ticket.id in sinks["broker"] for ticket in tickets)
    worker = port.start("-v")
    for ticket in tickets:
        eventually(lambda ticket=ticket: ticket.reload().terminal, "it ends", WAIT_S, port.tell)
    worker.signal(signal.SIGTERM)
    worker.ended()
    sinks["broker afterwards"] = broker_content(port)
    sinks["output"] = worker.output()
    with port.engine.connect() as connection:
        for name in sa.inspect(connection).get_table_names():
            columns = [column["name"] for column in sa.inspect(connection).get_columns(name)]
            kept = [column for column in columns if (name, column) != ("operation_records", "params")]
            sinks[name] = str(connection.execute(sa.select(*map(sa.column, kept)).select_from(sa.table(name))).all())

    assert "<sensitive>" in sinks["operation_records"]
    assert "crashed operation=harbour.Moor" in sinks["output"]
    for form in (SECRET, SECRET.partition("-")[0], SECRET.encode("unicode_escape").decode()):
        assert [name for name, text in sinks.items() if form in text] == [], form


@on("postgresql+sql", "mariadb+sql", "postgresql+redis")
def test_a_fork_shares_the_connections_of_its_parent(port: Port) -> None:
    ended = port.run([sys.executable, str(TRAPS / "forks.py"), port.url])

    assert ended.returncode == 0, ended.stderr
    sides = {found["side"]: found for found in map(json.loads, ended.stdout.splitlines())}
    assert set(sides) == {"before", "child", "parent", "after"}
    before, child, parent, after = (set(sides[side]["connections"]) for side in ("before", "child", "parent", "after"))
    assert before
    assert child
    assert not child & (before | parent | after)
    assert parent
    of_parent = {session for worker, session in sides["child"]["noted"] if worker == sides["before"]["worker"]}
    assert of_parent
    assert not child & of_parent, "sessions of a child would be ended with those of its parent"
    told = port.effects()
    assert len(told) == len(set(told)) == records.done().count() == records.pending().count()
    assert "Traceback" not in ended.stderr
