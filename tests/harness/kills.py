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
    """The kill or stop of the first process at a failpoint.

    Attributes:
        point: The name of the failpoint.
        pid: The pid of the process.
        at: The time of the kill, by the database's clock.
        worker: The worker id of the process at that time, or None. A process whose lease has expired gets a new id.
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
        pair.variables = {**pair.variables, "DEXPY_RECOVER_WITHIN": f"{RECOVER_WITHIN_S:g}s"}

    def command(self, points: Iterable[str], *arguments: str) -> list[str]:
        """Return a command of dexpy whose processes are killed at failpoints."""
        return [sys.executable, str(HARNESS / "die_at_failpoints.py"), str(self.folder), ",".join(points), *arguments]

    def serve(self, points: Iterable[str], *arguments: str, processes: int = 1, threads: int = 1) -> Worker:
        """Start a worker whose processes are killed at failpoints; some may die before the others start."""
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
        moment = to_database_time(self.pair, datetime.fromtimestamp(float(at), timezone.utc))
        return Kill(point, int(pid), moment, *name)

    def release(self) -> None:
        """Release the processes that wait at a failpoint."""
        (self.folder / GO).touch()


@contextlib.contextmanager
def killed_pair(name: str, folder: Path) -> Generator[Kills]:
    """Yield a configured pair without a worker, whose processes can be killed.

    Args:
        name: The name of the pair, as for `pairs.open_pair`.
        folder: A temporary folder.
    """
    with open_pair(name, folder, shop_failpoints) as pair:
        pair.configure()
        yield Kills(pair)
    install(None)


def wait_until_final(pair: Pair, within_s: float = WAIT_S) -> list[Any]:
    """Wait until every record has ended, and return all records."""
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
    """Return the attempts of a record whose worker died; assert that no attempt failed in another way."""
    lost = list(pair.sql(sa.select(attempts).where(attempts.c.record_id == id).order_by(attempts.c.claim_token)))
    assert {attempt.failure for attempt in lost} <= {"lost"}, lost
    assert {attempt.error for attempt in lost} <= {"dexpy.errors.WorkerLost"}, lost
    return lost


def pid_of(worker_id: str) -> int:
    """Return the pid in a worker id."""
    return int(worker_id.split(":")[1])


def to_database_time(pair: Pair, moment: datetime) -> datetime:
    """Convert a time of this machine to the database's clock."""
    with pair.engine.connect() as connection:
        return moment + timedelta(seconds=clock_ahead_s(connection) or 0.0)


def now(pair: Pair) -> datetime:
    """Return the current time of the database's clock."""
    return to_database_time(pair, datetime.now(timezone.utc))


def survivors_since(pair: Pair) -> datetime:
    """Return the start time of the oldest worker process that is alive."""
    rows = pair.sql(sa.select(workers.c.pid, workers.c.started_at))
    return min(row.started_at for row in rows if is_alive(row.pid))


def assert_nothing_left(pair: Pair) -> None:
    """Assert that nothing runs, no transaction is open, and no message is left."""
    running = sa.select(records.c.id).where(records.c.status == "running")
    assert pair.sql(running) == []
    # Live workers also have short idle transactions; only a transaction that stays open is an error.
    idle = set(open_transactions(pair))
    eventually(
        lambda: idle.isdisjoint(open_transactions(pair)),
        "no transaction is left open",
        10,
        lambda: f"{idle}\n{describe_leftovers(pair)}",
    )
    eventually(lambda: not count_messages(pair), "no message is left", WAIT_S, lambda: describe_leftovers(pair))


def describe_leftovers(pair: Pair) -> str:
    """Describe open transactions and messages for the message of a failure."""
    return f"transactions: {open_transactions(pair)}\nmessages: {count_messages(pair)}\n{pair.output()}"


def open_transactions(pair: Pair) -> list[Any]:
    """Return the sessions that are idle in a transaction; on SQLite the error of a held write lock."""
    kind = pair.engine.dialect.name
    if kind == "postgresql":
        return list(
            pair.sql(
                "SELECT pid, xact_start FROM pg_stat_activity "
                "WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
            )
        )
    if kind == "sqlite":
        # SQLite has one write lock: acquiring it shows that no other transaction writes.
        with pair.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout = 50")
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            except sa.exc.OperationalError as error:
                return [str(error)]
        return []
    return open_but_idle(pair.sql)


def count_messages(pair: Pair, queue: str = "default") -> int:
    """Return the number of messages of a queue; it includes messages that are being processed, except on RabbitMQ."""
    if pair.broker is not None and pair.broker.startswith("amqp"):
        # RabbitMQ can only count: reading a message would claim it.
        return int(queue_depth(dexpy.current_runtime().broker, queue) or 0)
    return len(pair.queued(queue))


def worker_ids(pair: Pair, pid: int) -> list[str]:
    """Return the worker ids under which a process is registered."""
    return [row.id for row in pair.sql(sa.select(workers.c.id).where(workers.c.pid == pid))]


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file; none if it does not exist."""
    return path.read_text().splitlines() if path.exists() else []


def effects_of(numbers: Collection[int]) -> list[str]:
    """Return the effects of the `Mark` operations with these numbers."""
    return [f"mark {number}" for number in numbers]


# ------------------------------------------------------------------------------------ a kill at each failpoint

LOSES_THE_RUN = ("after_claim", "in_perform", "before_commit")
"""Failpoints at which a worker has started a run and not committed it."""
BACKLOG = 10
RUN_S = 5.0
"""The time in seconds that the remaining workers need for the backlog after the recovery."""


def kill_workers_at_each_point(kills: Kills, *, freezes: bool = False) -> None:
    """Kill or freeze workers at each failpoint of a run and of the relay, and check all records and effects.

    The first killed worker has already fetched a backlog. Then one operation is enqueued for each failpoint. A
    failpoint acts once, so the operation passes the earlier ones and stops its worker at its own.
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
        # A frozen process is not replaced. The first one to run stops before it commits the record of its session.
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
        # A slow process may have lost its lease before the kill; ignore the recoveries of that time.
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
        assert_available_in_time(pair, child, max(kills_by_point["before_publish"].at, survived_since))
        relayed = by_id[ticket_by_point["relay_rows_marked"].id]
        assert_available_in_time(pair, relayed, max(kills_by_point["relay_rows_marked"].at, survived_since))
    if freezes:
        kills.release()
        for death in kills_by_point.values():
            os.kill(death.pid, signal.SIGCONT)
    assert_nothing_left(pair)
    assert wait_until_final(pair) == rows, "resumed processes change no record"


def assert_available_in_time(pair: Pair, row: Any, since: datetime) -> None:
    """Assert that a run was published or started within the recovery interval after its loss."""
    was_published = row.enqueued_at is not None and row.enqueued_at > since
    available_at = row.enqueued_at if was_published else row.started_at
    assert (available_at - since).total_seconds() < RECOVER_WITHIN_S, (since, row, pair.output())


def kill_enqueuers_at_each_point(kills: Kills) -> None:
    """Kill processes at each failpoint of an enqueue while a worker runs, and check that each stored all or nothing."""
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
        assert_available_in_time(pair, row, death.at)
    assert_nothing_left(pair)


# ---------------------------------------------------------------------------------------------------- crash loops


def run_crash_loops(kills: Kills) -> None:
    """Run operations that kill their worker in each attempt; check that they end as lost and that other runs succeed.

    The runs are due when the worker starts, so they kill its processes before these report their start.
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
    """Deliver a message ten times to two workers before its run, and ten times after it; check that it runs once."""
    ticket = Mark(number=1).async_().call()
    row = dexpy.current_runtime().store.row(ticket.id)
    for _ in range(9):
        assert dexpy.current_runtime().dispatcher.publish_row(row)
    assert count_messages(pair) == 10
    pair.start(processes=2, threads=5)
    wait_until_final(pair)
    eventually(lambda: not count_messages(pair), "all ten messages are consumed", WAIT_S, pair.output)

    for _ in range(10):
        assert dexpy.current_runtime().dispatcher.publish_row(row)
        eventually(lambda: not count_messages(pair), "another message is consumed", WAIT_S, pair.output)

    (row,) = wait_until_final(pair)
    assert_done_once(pair, [row], ["mark 1"])
    assert (row.num_attempts, row.claim_token) == (1, 1)
    assert_nothing_left(pair)
