"""A pair whose processes are killed at failpoints, and the invariants that hold afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Collection, Generator, Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import attrs
import sqlalchemy as sa
from apps import shop_failpoints
from apps.shop_failpoints import (
    WITH_ITS_ROW,
    Customer,
    EnqueueMark,
    KillWorker,
    KillWorkerWithoutRetry,
    KillWorkerWithRule,
    Mark,
)
from innodb import open_but_idle

import dexpy
from dexpy.brokers.urls import queue_depth
from dexpy.database.server_info import clock_ahead_s
from dexpy.database.tables import FINAL, attempts, records, workers
from dexpy.runtime import install
from harness.die_at_failpoints import GO
from harness.pairs import Pair, open_pair
from harness.workers import HARNESS, START_S, Worker, eventually, is_alive

RECOVER_WITHIN_S = 5.0
"""The lowest possible ``DEXPY_RECOVER_WITHIN``, set in every process of these tests."""
WAIT_S = 40.0
"""A generous timeout for waits without a guaranteed limit."""


@attrs.frozen
class Kill:
    """The first process at a failpoint.

    Attributes:
        point: The name of the failpoint.
        pid: The pid of the process.
        at: The time, by the database's clock.
        worker: Its worker id at that time; None without one. A process whose lease expired has had several.
    """

    point: str
    pid: int
    at: datetime
    worker: str | None = None


class Kills:
    """The kills of one test.

    Args:
        pair: The pair of the processes; its ``DEXPY_RECOVER_WITHIN`` is set to the minimum.
    """

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.folder = pair.folder / "kills"
        self.folder.mkdir()
        pair.variables = {**pair.variables, "DEXPY_RECOVER_WITHIN": f"{RECOVER_WITHIN_S:g}"}

    def command(self, points: Iterable[str], *arguments: str) -> list[str]:
        """Return a command of dexpy whose processes are killed at failpoints."""
        return [sys.executable, str(HARNESS / "die_at_failpoints.py"), str(self.folder), ",".join(points), *arguments]

    def serve(self, points: Iterable[str], *arguments: str, processes: int = 1, threads: int = 1) -> Worker:
        """Start a worker whose processes are killed at failpoints, perhaps before all of them have started."""
        counts = ["-p", str(processes), "-t", str(threads)]
        return self.pair.serve(self.command(points, "worker", "apps.shop_failpoints", *counts, *arguments))

    def enqueue(self, points: Iterable[str]) -> list[str]:
        """Enqueue in one process per failpoint, and return the exit statuses as ``pid:status``."""
        completed = self.pair.run(self.command(points, "enqueue"))
        assert completed.returncode == 0, completed.stderr
        return completed.stdout.split()

    def wait_for(self, point: str) -> Kill:
        """Wait until a process has reached a failpoint."""
        file = self.folder / point
        eventually(file.exists, f"a process reaches {point}", START_S, self.pair.output)
        pid, at, *name = file.read_text().split()
        moment = by_the_database(self.pair, datetime.fromtimestamp(float(at), timezone.utc))
        return Kill(point, int(pid), moment, *name)

    def release(self) -> None:
        """Release the processes that wait at a failpoint."""
        (self.folder / GO).touch()


@contextlib.contextmanager
def killed_pair(name: str, folder: Path) -> Generator[Kills]:
    """A configured pair whose processes may be killed; no worker serves it yet.

    Args:
        name: The name of the pair, as for `pairs.open_pair`.
        folder: A temporary folder.
    """
    with open_pair(name, folder, shop_failpoints) as pair:
        pair.configure()
        yield Kills(pair)
    install(None)


def wait_until_final(pair: Pair, within_s: float = WAIT_S) -> list[Any]:
    """Wait until every record that there is has ended; all of them."""
    unfinished = sa.select(records.c.id, records.c.operation, records.c.status).where(records.c.status.not_in(FINAL))
    eventually(
        lambda: not pair.sql(unfinished),
        "all have ended",
        within_s,
        lambda: f"{pair.sql(unfinished)}\n{pair.output()}",
    )
    return list(pair.sql(sa.select(records).order_by(records.c.id)))


def assert_done_once(pair: Pair, rows: Iterable[Any], effects: Iterable[str]) -> None:
    """Assert that every record is done, every effect exists once, and every lost attempt is recorded."""
    for row in rows:
        lost = lost_attempts(pair, row.id)
        assert row.status == "done", (row, pair.output())
        assert row.num_attempts == 1 + len(lost), (row, lost)
        assert row.num_lost == len(lost), (row, lost)
        assert [attempt.number for attempt in lost] == list(range(1, len(lost) + 1))
    assert Counter(pair.effects()) == Counter(effects)


def lost_attempts(pair: Pair, id: str) -> list[Any]:
    """The attempts of a record that did not end well: here, all of them by the death of a worker."""
    lost = list(pair.sql(sa.select(attempts).where(attempts.c.record_id == id).order_by(attempts.c.claim_token)))
    assert {attempt.failure for attempt in lost} <= {"lost"}, lost
    assert {attempt.error for attempt in lost} <= {"dexpy.errors.WorkerLost"}, lost
    return lost


def pid_of(worker_id: str) -> int:
    """The process that a worker's id names."""
    return int(worker_id.split(":")[1])


def by_the_database(pair: Pair, moment: datetime) -> datetime:
    """Convert a time of this machine to the database's clock."""
    with pair.engine.connect() as connection:
        return moment + timedelta(seconds=clock_ahead_s(connection) or 0.0)


def now(pair: Pair) -> datetime:
    """Return the current time of the database's clock."""
    return by_the_database(pair, datetime.now(timezone.utc))


def survivors_since(pair: Pair) -> datetime:
    """When the first began to serve of those that live now."""
    rows = pair.sql(sa.select(workers.c.pid, workers.c.started_at))
    return min(row.started_at for row in rows if is_alive(row.pid))


def assert_nothing_left(pair: Pair) -> None:
    """Assert that nothing runs, no transaction is open, and no message is left."""
    running = sa.select(records.c.id).where(records.c.status == "running")
    assert pair.sql(running) == []
    # Compared by session: live workers open new transactions all the time, which may be idle for a short time.
    idle = set(open_transactions(pair))
    eventually(
        lambda: idle.isdisjoint(open_transactions(pair)),
        "no transaction is left open",
        10,
        lambda: f"{idle}\n{describe_leftovers(pair)}",
    )
    eventually(lambda: not count_messages(pair), "no message is left", WAIT_S, lambda: describe_leftovers(pair))


def describe_leftovers(pair: Pair) -> str:
    """What is left, for the message of a failure."""
    return f"transactions: {open_transactions(pair)}\nmessages: {count_messages(pair)}\n{pair.output()}"


def open_transactions(pair: Pair) -> list[Any]:
    """Return the sessions that are idle in a transaction."""
    kind = pair.engine.dialect.name
    if kind == "postgresql":
        return list(
            pair.sql(
                "SELECT pid, xact_start FROM pg_stat_activity "
                "WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
            )
        )
    if kind == "sqlite":
        # Only one writer at a time: acquiring the lock shows that no other transaction is open.
        with pair.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout = 50")
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            except sa.exc.OperationalError as error:
                return [str(error)]
        return []
    return open_but_idle(pair.sql)


def count_messages(pair: Pair, queue: str = "default") -> int:
    """How many messages a queue holds; those that are being run too, but on RabbitMQ."""
    if pair.broker is not None and pair.broker.startswith("amqp"):
        # Reading messages there would claim them from the workers.
        return int(queue_depth(dexpy.current_runtime().broker, queue) or 0)
    return len(pair.queued(queue))


def worker_ids(pair: Pair, pid: int) -> list[str]:
    """Under what names a process is entered now."""
    return [row.id for row in pair.sql(sa.select(workers.c.id).where(workers.c.pid == pid))]


def lines_of(path: Path) -> list[str]:
    """The lines of a file, if there is one."""
    return path.read_text().splitlines() if path.exists() else []


def effects_of(numbers: Collection[int]) -> list[str]:
    """What marks of these numbers leave."""
    return [f"mark {number}" for number in numbers]


# ----------------------------------------------------------------------------------------- every process dies once

LOSES_THE_RUN = ("after_claim", "in_perform", "before_commit")
"""Failpoints at which a worker has started a run and not committed it."""
BACKLOG = 10
RUN_S = 5.0
"""The time that the remaining workers need for the backlog, beside the recovery interval."""


def kill_workers_at_each_point(kills: Kills, *, freezes: bool = False) -> None:
    """Kill or freeze workers at each failpoint of a run and of the relay, and check all records and effects.

    There is a backlog, which the first killed worker has fetched. Then one operation is enqueued for each failpoint: it
    passes the failpoints that were reached before, and kills its worker at its own.
    """
    pair = kills.pair
    steps: list[tuple[str, Any, dict[str, Any]]] = [
        ("in_perform", Mark(number=10), {}),
        ("before_commit", Mark(number=11), {}),
        ("in_after_commit_hook", Mark(number=12), {}),
        ("before_ack", Mark(number=13), {}),
    ]
    if not pair.is_transactional:
        steps += [("before_publish", EnqueueMark(number=14), {}), ("relay_rows_marked", Mark(number=15), {"in_": 0.05})]
    points = ["after_claim", *(point for point, _, _ in steps)]
    tickets = [Mark(number=number).async_().call() for number in range(BACKLOG)]
    if freezes:
        # A frozen process is not replaced. The first one stops while it records its session, uncommitted.
        points.append("database_session_recorded")
        kills.serve([f"{point}=freeze" for point in points], processes=len(points) + 1)
    else:
        kills.serve(points, processes=4)
    kills_by_point = {"after_claim": kills.wait_for("after_claim")}
    if freezes:
        kills_by_point["database_session_recorded"] = kills.wait_for("database_session_recorded")
    ticket_by_point: dict[str, Any] = {}
    for point, operation, options in steps:
        ticket_by_point[point] = operation.async_(**options).call()
        kills_by_point[point] = kills.wait_for(point)

    rows = wait_until_final(pair)

    extra_effects = [] if pair.is_transactional else ["spawn 14", *effects_of([14, 15])]
    assert_done_once(pair, rows, [*effects_of(range(14)), *extra_effects])
    by_id = {row.id: row for row in rows}
    survived_since = survivors_since(pair)
    for death in kills_by_point.values():
        # Earlier recoveries are not due to the kill: a busy process may have lost its lease before.
        attempts_of_worker = sa.select(attempts).where(
            attempts.c.worker == death.worker, attempts.c.ended_at >= death.at
        )
        lost = pair.sql(attempts_of_worker)
        if death.point not in ("relay_rows_marked", "database_session_recorded"):
            assert len(lost) == (death.point in LOSES_THE_RUN), (death, lost, pair.output())
        for attempt in lost:
            late_s = (attempt.ended_at - max(death.at, survived_since)).total_seconds()
            assert late_s < RECOVER_WITHIN_S, (death, attempt, pair.output())
    for ticket in tickets:
        late_s = (by_id[ticket.id].started_at - max(kills_by_point["after_claim"].at, survived_since)).total_seconds()
        assert late_s < RECOVER_WITHIN_S + RUN_S, (by_id[ticket.id], pair.output())
    if not pair.is_transactional:
        (child,) = (row for row in rows if row.parent_id == ticket_by_point["before_publish"].id)
        assert_offered_in_time(pair, child, max(kills_by_point["before_publish"].at, survived_since))
        relayed = by_id[ticket_by_point["relay_rows_marked"].id]
        assert_offered_in_time(pair, relayed, max(kills_by_point["relay_rows_marked"].at, survived_since))
    if freezes:
        kills.release()
        for death in kills_by_point.values():
            os.kill(death.pid, signal.SIGCONT)
    assert_nothing_left(pair)
    assert wait_until_final(pair) == rows, "resumed processes change nothing"


def assert_offered_in_time(pair: Pair, row: Any, since: datetime) -> None:
    """Assert that a run lost at a time was published, or started, within the recovery interval."""
    was_sent = row.enqueued_at is not None and row.enqueued_at > since
    offered_at = row.enqueued_at if was_sent else row.started_at
    assert (offered_at - since).total_seconds() < RECOVER_WITHIN_S, (since, row, pair.output())


def kill_enqueuers_at_each_point(kills: Kills) -> None:
    """Kill scripts at each point of an enqueue, while a worker serves: all of it is there, or nothing."""
    pair = kills.pair
    pair.start()
    uncommitted = ["after_insert", "before_application_commit"]
    points = [*uncommitted, "after_commit"]
    if not pair.is_transactional:
        points += ["before_publish", "after_publish"]
    statuses = kills.enqueue(points)
    deaths = [kills.wait_for(point) for point in points]

    assert statuses == [f"{death.pid}:{-signal.SIGKILL}" for death in deaths]
    committed = range(len(uncommitted), len(points))
    with_rows = sa.select(Customer.id).where(Customer.id >= WITH_ITS_ROW).order_by(Customer.id)
    assert [row.id - WITH_ITS_ROW for row in pair.sql(with_rows)] == list(committed)
    rows = sorted(wait_until_final(pair), key=lambda row: int(row.params["number"]))
    assert [row.params["number"] for row in rows] == list(committed)
    assert_done_once(pair, rows, effects_of(committed))
    for row, death in zip(rows, deaths[len(uncommitted) :], strict=True):
        assert row.num_attempts == 1
        assert_offered_in_time(pair, row, death.at)
    assert_nothing_left(pair)


# ---------------------------------------------------------------------------------------------------- crash loops


def run_crash_loops(kills: Kills) -> None:
    """Run operations that kill their worker each time: they end as lost, and other runs are executed.

    They are pending when the worker starts, and kill its processes before these report their start.
    """
    pair = kills.pair
    tickets = {
        operation: operation().async_().call() for operation in (KillWorker, KillWorkerWithoutRetry, KillWorkerWithRule)
    }
    other_tickets = [Mark(number=number).async_().call() for number in range(5)]
    worker = pair.serve([sys.executable, "-m", "dexpy", "worker", "apps.shop_slow_start", "-p", "2", "-t", "1"])

    rows = {row.id: row for row in wait_until_final(pair)}

    expected_texts = {
        KillWorker: "3 allowed, 4 lost",
        KillWorkerWithoutRetry: "0 allowed, 1 lost",
        KillWorkerWithRule: "1 allowed, 2 lost",
    }
    for operation, times in {KillWorker: 4, KillWorkerWithoutRetry: 1, KillWorkerWithRule: 2}.items():
        row = rows[tickets[operation].id]
        lost = lost_attempts(pair, row.id)
        assert (row.status, row.failure, row.error) == ("failed", "lost", "dexpy.errors.WorkerLost"), row
        assert (row.num_attempts, row.num_lost, row.claimed_by) == (times, times, None), row
        assert [attempt.number for attempt in lost] == list(range(1, times + 1)), lost
        assert len({attempt.worker for attempt in lost}) == times, lost
        assert lost[-1].worker in row.error_message
        assert expected_texts[operation] in row.error_message
        assert "retry()" in row.error_message
    assert_done_once(pair, [rows[ticket.id] for ticket in other_tickets], effects_of(range(5)))
    assert worker.process.poll() is None, worker.output()
    assert len(worker.lines("worker.died")) == 7, worker.output()
    assert_nothing_left(pair)


# ------------------------------------------------------------------------------------------------------- messages


def deliver_ten_times(pair: Pair) -> None:
    """Deliver one message ten times before it is run, to two workers at once, and ten times after it."""
    ticket = Mark(number=1).async_().call()
    row = dexpy.current_runtime().store.row(ticket.id)
    for _ in range(9):
        assert dexpy.current_runtime().dispatcher.publish_row(row)
    assert count_messages(pair) == 10
    pair.start(processes=2, threads=5)
    wait_until_final(pair)
    eventually(lambda: not count_messages(pair), "all ten are taken", WAIT_S, pair.output)

    for _ in range(10):
        assert dexpy.current_runtime().dispatcher.publish_row(row)
        eventually(lambda: not count_messages(pair), "one more is taken", WAIT_S, pair.output)

    (row,) = wait_until_final(pair)
    assert_done_once(pair, [row], ["mark 1"])
    assert (row.num_attempts, row.claim_token) == (1, 1)
    assert_nothing_left(pair)
