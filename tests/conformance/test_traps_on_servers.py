"""Traps that only a server can reproduce, on PostgreSQL and MariaDB with each kind of broker.

The numbers are those of the lists in ``tests/traps/test_traps_of_ancestors.py`` and ``test_traps_of_peers.py``.
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
from apps import mailer
from harness.pairs import Pair
from harness.proxy import Proxy
from harness.trap_workers import RECOVER_WITHIN_S, BatchRuns, start_ahead
from harness.workers import HARNESS, eventually
from sqlalchemy.orm import Session

import dexpy
from dexpy import records
from dexpy.database.tables import records as table
from dexpy.foundation.clock import clock
from dexpy.runtime import install

WAIT_S = 40.0
POLL_S = 0.05
SECRET = "hunter2-Ω'q"


class TrapPair(Pair, BatchRuns):
    """The mailer on a pair of a database and a broker, with a short recovery interval."""

    def create_tables(self) -> None:
        """Create the tables of dexpy and of the mailer."""
        completed = self.dexpy("db", "init")
        assert completed.returncode == 0, completed.stderr
        mailer.create_tables(self.url)
        self.variables = {
            "DEXPY_RECOVER_WITHIN": f"{RECOVER_WITHIN_S}s",
        }

    def configure(self) -> dexpy.Runtime:
        """Configure dexpy in the test process."""
        self.runtime = dexpy.configure(database=self.url, broker=self.broker, recover_within=RECOVER_WITHIN_S)
        return self.runtime

    def start(self, *arguments: str, module: str = "apps.mailer", processes: int = 1, threads: int = 4) -> Any:
        """Start ``dexpy worker``; see `Deployment.start`."""
        return super().start(*arguments, module=module, processes=processes, threads=threads)


@contextlib.contextmanager
def opened(
    name: str, folder: Path, make_proxy: Callable[[str], Proxy] | None = None
) -> Generator[tuple[TrapPair, Proxy | None]]:
    kind, _, transport = name.partition("+")
    with servers.database(kind, folder) as url, servers.broker(transport) as broker:
        proxy = make_proxy(str(broker)) if make_proxy is not None else None
        pair = TrapPair(folder, url, proxy.url if proxy is not None else broker)
        try:
            pair.create_tables()
            pair.configure()
            yield pair, proxy
        finally:
            pair.close()
            install(None)
            if proxy is not None:
                proxy.end()


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[TrapPair]:
    """Yield a pair without a worker for one test; the parameter is its name."""
    with opened(request.param, tmp_path) as (opened_pair, _):
        yield opened_pair


def on(*names: str) -> Any:
    return pytest.mark.parametrize("pair", names, indirect=True)


# --------------------------------------------------------------------- 9 of the first list: row and message


@pytest.mark.parametrize("name", ["postgresql+redis", "mariadb+rabbitmq"])
def test_a_broker_that_is_down_loses_nothing_that_was_committed(name: str, tmp_path: Path) -> None:
    with opened(name, tmp_path, lambda url: Proxy(url, open=False)) as (pair, proxy):
        assert proxy is not None
        with Session(pair.engine) as session, dexpy.session(session):
            session.add(mailer.Effect(what="with it", run=""))
            committed = mailer.SendMail(number=1).async_().call()
            session.commit()
        with Session(pair.engine) as session:
            rolled_back = mailer.SendMail(number=2).async_(session=session).call()
            session.rollback()
        assert pair.row(committed.id)["enqueued_at"] is None, "its message is not published yet"
        assert pair.sql(sa.select(table.c.id)) == [(committed.id,)]

        worker = pair.start()
        eventually(
            lambda: worker.lines("broker.unreachable"),
            "the worker logs that the broker is unreachable",
            WAIT_S,
            worker.output,
        )
        proxy.open()

        assert committed.result(WAIT_S, POLL_S) == 1
        assert pair.effects() == ["with it", "mail 1"]
        with pytest.raises(dexpy.errors.RolledBack):
            rolled_back.wait(1)


# ------------------------------------------- 5 and 12 of the first list, 3 of the second: ownership of rows


@on("postgresql+redis", "mariadb+sql")
@pytest.mark.parametrize("thaws", ["while its successor runs", "when all is over"])
def test_a_worker_that_resumes_after_its_recovery_writes_nothing(pair: TrapPair, thaws: str) -> None:
    for _ in range(2):
        pair.start()
    ticket = pair.send_batch(1)
    frozen = pair.wait_until_begun(1)
    (late,) = [worker for worker in pair.workers if frozen in worker.children()]
    os.kill(frozen, signal.SIGSTOP)
    try:
        successor = pair.wait_until_begun(1, times=2)
        assert successor != frozen
        if thaws == "when all is over":
            pair.open_gate(1)
            assert ticket.result(WAIT_S, POLL_S) == 1
    finally:
        os.kill(frozen, signal.SIGCONT)
    pair.open_gate(1)

    assert ticket.result(WAIT_S, POLL_S) == 1
    eventually(lambda: late.lines("claim.lost"), "the resumed worker detects its expired lease", WAIT_S, pair.output)
    eventually(lambda: len(pair.events_of(1)) == 3, "the other worker has committed", WAIT_S, pair.output)
    assert pair.events_of(1) == [("begun", frozen), ("begun", successor), ("committed", successor)]
    (child,) = records.where(operation=mailer.SendMail)
    assert child.ticket.result(WAIT_S, POLL_S) == 1
    assert child.parent_id == ticket.id
    assert pair.effects() == ["batch 1", "mail 1"]
    assert [(each.number, each.failure) for each in records.attempts(ticket.id)] == [(1, "lost"), (2, None)]
    assert f":{frozen}:" in str(records.attempts(ticket.id)[0].worker)

    # The resumed worker has a new id and continues to run operations.
    more = [mailer.SendMail(number=number).async_().call() for number in range(100, 120)]
    assert [each.result(WAIT_S, POLL_S) for each in more] == list(range(100, 120))


@on("postgresql+redis", "mariadb+rabbitmq", "postgresql+sql")
def test_a_hundred_deliveries_of_one_row_claim_it_once(pair: TrapPair) -> None:
    ticket = pair.send_batch(1)
    dispatcher = dexpy.current_runtime().dispatcher
    row = dexpy.current_runtime().store.row(ticket.id)
    for _ in range(100):
        assert dispatcher.publish_row(row)
    workers = [pair.start(processes=2, threads=4) for _ in range(2)]
    pair.wait_until_begun(1)
    # One thread runs the operation; the other deliveries are acknowledged.
    eventually(
        lambda: dispatcher.transport.count_due("default") == 0, "all messages are delivered", WAIT_S, pair.output
    )
    pair.open_gate(1)
    assert ticket.result(WAIT_S, POLL_S) == 1
    for worker in workers:
        worker.signal(signal.SIGTERM)
    for worker in workers:
        assert worker.ended() == 0

    assert [event for event, _ in pair.events_of(1)] == ["begun", "committed"]
    assert pair.effects("batch%") == ["batch 1"]
    assert (pair.row(ticket.id)["num_attempts"], pair.row(ticket.id)["claim_token"]) == (1, 1)


# ------------------------------------------------------------------------- 5 and 6 of the second list: time, relay


CLAIMED_BY_DEAD = "UPDATE operation_records SET status = 'running', claimed_by = 'gone', claim_token = 1 WHERE id = :id"


@on("postgresql+redis", "mariadb+sql")
def test_workers_whose_clocks_are_wrong_recover_runs_of_dead_workers_only(pair: TrapPair) -> None:
    workers = [start_ahead(pair, seconds, threads=1) for seconds in (3600, -3600)]
    tickets = [pair.send_batch(batch) for batch in (1, 2)]
    pids = {pair.wait_until_begun(batch): ticket for batch, ticket in enumerate(tickets, 1)}
    assert len(pids) == 2, "one run on each worker"

    def have_recovered() -> bool:
        # One of the relays recovers this run; the caller repeats until both have recovered one.
        other = mailer.SendMailElsewhere(number=7).async_(in_=3600).call()
        pair.change(CLAIMED_BY_DEAD, id=other.id)
        eventually(lambda: pair.row(other.id)["num_lost"], "the run is recovered", WAIT_S, pair.output)
        return all(worker.lines("run.recovered") for worker in workers)

    eventually(have_recovered, "both workers have recovered a run", WAIT_S, pair.output)
    assert [pair.row(ticket.id)["num_lost"] for ticket in tickets] == [0, 0]
    assert not any(worker.lines("worker.lease_expired") for worker in workers)

    # Kill one worker after the other; the wrong clock of the remaining one must not delay the recovery.
    for batch, (pid, ticket) in enumerate(pids.items(), 1):
        os.kill(pid, signal.SIGKILL)
        pair.wait_until_begun(batch, times=2)
        pair.open_gate(batch)
        assert ticket.result(WAIT_S, POLL_S) == batch
        assert pair.row(ticket.id)["num_lost"] == 1


@on("postgresql+redis", "mariadb+sql", "postgresql+sql")
@pytest.mark.parametrize("ahead_s", [3600, -3600])
def test_a_delay_does_not_depend_on_a_wrong_clock(pair: TrapPair, ahead_s: int) -> None:
    pair.start()
    clock.advance(ahead_s)
    try:
        ticket = mailer.SendMail(number=1).async_(in_=1.5).call()
        at_once = mailer.SendMail(number=2).async_().call()
    finally:
        clock.reset()
    assert at_once.result(WAIT_S, POLL_S) == 2
    assert ticket.result(WAIT_S, POLL_S) == 1
    record = pair.row(ticket.id)
    assert (record["started_at"] - record["created_at"]).total_seconds() >= 1.5
    assert record["started_at"] >= record["scheduled_at"]


def refuse_queue(pair: TrapPair) -> str:
    """Make the broker refuse a queue, and return the name of the queue."""
    if "redis" not in str(pair.broker):
        return "amq.refused"
    with servers._redis(servers.need("redis")) as client:
        client.set(f"{str(pair.broker).rpartition('=')[2]}:refused", "no list")
    return "refused"


@on("postgresql+redis", "mariadb+rabbitmq")
def test_a_bad_row_an_unknown_class_or_a_cut_database_does_not_stop_the_relay(pair: TrapPair) -> None:
    delayed = [mailer.SendMail(number=number).async_(in_=1).call() for number in range(60)]
    refused, unknown = mailer.SendMail(number=98).async_(in_=1).call(), mailer.SendMail(number=99).async_(in_=1).call()
    pair.change("UPDATE operation_records SET queue = :queue WHERE id = :id", queue=refuse_queue(pair), id=refused.id)
    pair.change("UPDATE operation_records SET operation = 'apps.mailer.Gone' WHERE id = :id", id=unknown.id)

    cut = pair.folder / "cut"
    cut.touch()
    script = [sys.executable, str(HARNESS / "cut_connections.py"), str(cut)]
    worker = pair.serve([*script, "worker", "apps.mailer", "-p", "1", "-t", "4"])
    worker.await_started(1)

    def await_done(*tickets: dexpy.Ticket[int]) -> None:
        unfinished = {ticket.id for ticket in tickets}

        def observe() -> bool:
            # The connections of this process are ended too.
            with contextlib.suppress(sa.exc.DBAPIError):
                query = sa.select(table.c.id).where(table.c.id.in_(unfinished), table.c.status == "done")
                unfinished.difference_update(row.id for row in pair.sql(query))
            return not unfinished

        eventually(observe, "all runs are done", WAIT_S, pair.output)

    def outage_lines() -> list[str]:
        return [line for line in worker.output().splitlines() if "the database has cut" in line]

    await_done(*delayed)
    for number in range(60, 63):
        # The pool of this process may still have ended connections.
        dexpy.current_runtime().store.database.dispose()
        ticket = mailer.SendMail(number=number).async_(in_=0.5).call()
        cut.touch()
        await_done(ticket)
        eventually(
            lambda number=number: len(outage_lines()) == number - 58,
            "the connections were ended once more",
            WAIT_S,
            pair.output,
        )

    assert all(" 0 connections" not in line for line in outage_lines())
    assert sorted(pair.effects()) == sorted(f"mail {number}" for number in range(63))
    assert pair.row(refused.id)["status"] == "pending"
    eventually(lambda: worker.lines("message.deferred"), "the unknown operation is logged", WAIT_S, pair.output)
    waiting = pair.row(unknown.id)
    assert (waiting["status"], waiting["num_attempts"]) == ("pending", 0), (
        "a worker does not end an operation that it does not know"
    )
    assert worker.children() == [worker.children()[0]], "no process was replaced"


# ----------------------------------------------------------------------- 12 and 15 of the second list: secrets, forks


def broker_content(pair: TrapPair) -> str:
    """Return everything that the broker stores, as text."""
    if "redis" in str(pair.broker):
        collected: list[Any] = []
        with servers._redis(servers.need("redis")) as client:
            for key in client.scan_iter(f"{str(pair.broker).rpartition('=')[2]}:*"):
                readers = {b"list": lambda k: client.lrange(k, 0, -1), b"hash": client.hgetall,
                           b"set": client.smembers, b"zset": lambda k: client.zrange(k, 0, -1)}  # fmt: skip
                collected.append((key, readers.get(client.type(key), client.get)(key)))
        return str(collected)
    import pika

    bodies: list[bytes] = []
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(str(pair.broker)))) as connection:
        channel = connection.channel()
        while (delivered := channel.basic_get("default"))[0] is not None:
            bodies.append(delivered[2])
        # Unacknowledged messages are requeued when the connection is closed.
    return str(bodies)


@on("postgresql+redis", "mariadb+rabbitmq")
def test_a_secret_reaches_no_server(pair: TrapPair) -> None:
    tickets = [mailer.LogIn(secret=SECRET, ending=ending).async_().call() for ending in mailer.ENDINGS]
    sinks = {"broker": broker_content(pair)}
    assert all(ticket.id in sinks["broker"] for ticket in tickets)
    worker = pair.start("-v")
    for ticket in tickets:
        eventually(lambda ticket=ticket: ticket.reload().terminal, "the run ends", WAIT_S, pair.output)
    worker.signal(signal.SIGTERM)
    worker.ended()
    sinks["broker afterwards"] = broker_content(pair)
    sinks["output"] = worker.output()
    with pair.engine.connect() as connection:
        for name in sa.inspect(connection).get_table_names():
            columns = [column["name"] for column in sa.inspect(connection).get_columns(name)]
            plain_columns = [column for column in columns if (name, column) != ("operation_records", "params")]
            sinks[name] = str(
                connection.execute(sa.select(*map(sa.column, plain_columns)).select_from(sa.table(name))).all()
            )

    assert "<sensitive>" in sinks["operation_records"]
    assert "run.failed operation=apps.mailer.LogIn" in sinks["output"]
    for form in (SECRET, SECRET.partition("-")[0], SECRET.encode("unicode_escape").decode()):
        assert [name for name, text in sinks.items() if form in text] == [], form


@on("postgresql+sql", "mariadb+sql", "postgresql+redis")
def test_a_fork_does_not_share_the_connections_of_its_parent(pair: TrapPair) -> None:
    ended = pair.run([sys.executable, str(HARNESS / "forking_program.py"), pair.url])

    assert ended.returncode == 0, ended.stderr
    sides = {report["side"]: report for report in map(json.loads, ended.stdout.splitlines())}
    assert set(sides) == {"before", "child", "parent", "after"}
    before, child, parent, after = (set(sides[side]["connections"]) for side in ("before", "child", "parent", "after"))
    assert before
    assert child
    assert not child & (before | parent | after)
    assert parent
    of_parent = {session for worker, session in sides["child"]["noted"] if worker == sides["before"]["worker"]}
    assert of_parent
    assert not child & of_parent, "the recorded sessions of the parent must not include those of the child"
    effects = pair.effects()
    assert len(effects) == len(set(effects)) == records.done().count() == records.pending().count()
    assert "Traceback" not in ended.stderr
