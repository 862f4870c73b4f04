"""Workers of one queue that have different classes, as during a deploy or with two applications."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import servers
import sqlalchemy as sa

import dexpy
from dexpy import Operation, defer, enqueue_all, records
from dexpy.brokers.sql.statements import claimable, class_marker, counts, most_urgent
from dexpy.brokers.sql.statements import select_deferred as waiting_for_a_class
from dexpy.brokers.sql.unknown_classes import SkippedClasses
from dexpy.database.column_types import after
from dexpy.database.tables import messages, worker_names, workers
from dexpy.liveness import worker_registry
from dexpy.runtime import current_runtime
from dexpy.testing import Isolated
from dexpy.worker.unknown_operations import UnknownRecords, unknown_policy

WITHIN_S = 12.0
TESTS = Path(__file__).parents[1]


def eventually(is_true: Callable[[], object], description: str, within_s: float = WITHIN_S) -> None:
    until = time.monotonic() + within_s
    while not is_true():
        assert time.monotonic() < until, f"{description}: not within {within_s} s"
        time.sleep(0.05)


@contextmanager
def worker(app: str, folder: Path, url: str, broker: str | None, *options: str) -> Generator[subprocess.Popen[bytes]]:
    """Run `dexpy worker` during the block."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DEXPY_")}
    environment |= {"DEXPY_DATABASE": url, "PYTHONPATH": f"{TESTS}:{TESTS.parent}", "SENT_FILE": str(folder / "sent")}
    if broker is not None:
        environment["DEXPY_BROKER"] = broker
    command = [sys.executable, "-m", "dexpy", "worker", app, "-t", "4", *(options or ("-p", "1"))]
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def live_workers() -> int:
    store = current_runtime().store
    assert store is not None
    with store.begin() as connection:
        alive = worker_registry.live_workers(connection, worker_registry.SqliteLivenessLocks(store.database))
    return sum(row.threads > 0 for row in alive)


def everything_is_run(folder: Path) -> None:
    from apps.shared_queue_mailer import SendDirectly, SendMail, send_later
    from apps.shared_queue_orders import TakeOrder

    tickets = [SendMail(n=n).async_().call() for n in range(20)]
    tickets += enqueue_all([SendMail(n=n) for n in range(20)], priority=3)
    tickets += [TakeOrder(n=n).async_().call() for n in range(10)]
    for n in range(10):
        SendDirectly(n=n).async_().call()
        defer(send_later, n)
    sent_file = folder / "sent"
    expected = {f"{kind} {n}" for kind in ("direct", "deferred") for n in range(10)}
    eventually(lambda: records.pending().count() + records.where(status="running").count() == 0, "all runs have ended")
    eventually(lambda: sent_file.exists() and set(sent_file.read_text().splitlines()) == expected, "all mail is sent")
    assert all(ticket.reload().done for ticket in tickets)
    assert len(sent_file.read_text().splitlines()) == len(expected), "each mail is sent once"


def put_off() -> int:
    store = current_runtime().store
    assert store is not None
    with store.begin() as connection:
        return len(connection.execute(waiting_for_a_class(600)).all())


@contextmanager
def a_worker_that_starts_late(folder: Path, url: str, broker: str | None) -> Generator[None]:
    """Enqueue operations that no worker knows, and start a worker that runs them."""
    from apps.shared_queue_mailer import SendDirectly, SendMail, send_later

    eventually(lambda: live_workers() > 0, "a worker serves the queue", 30)
    tickets = [SendMail(n=n).async_().call() for n in range(5)]
    SendDirectly(n=0).async_().call()
    defer(send_later, 0)
    eventually(lambda: put_off() == 7, "the worker has deferred the unknown operations")
    sent_file = folder / "sent"
    with worker("apps.shared_queue_mailer", folder, url, broker, "-p", "2"):
        eventually(lambda: live_workers() >= 3, "three processes serve the queue", 30)
        eventually(lambda: all(ticket.reload().done for ticket in tickets), "all recorded runs are done")
        expected = ["deferred 0", "direct 0"]
        eventually(
            lambda: sent_file.exists() and sorted(sent_file.read_text().splitlines()) == expected, "all mail is sent"
        )
        sent_file.unlink()
        yield


def test_l1_the_worker_that_knows_a_class_runs_it_without_delay(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'app.db'}"
    dexpy.configure(database=url)
    with worker("apps.shared_queue_orders", tmp_path, url, None), a_worker_that_starts_late(tmp_path, url, None):
        everything_is_run(tmp_path)
        # Two workers know none of the operations; the remaining worker runs them.
        with worker("apps.shared_queue_orders", tmp_path, url, None, "--burst") as burst:
            assert burst.wait(30) == 0


@pytest.mark.servers
@pytest.mark.parametrize(
    ("database", "broker"),
    [("postgresql", "sql"), ("mariadb", "sql"), ("sqlite", "redis"), ("postgresql", "rabbitmq")],
)
def test_l1_the_worker_that_knows_a_class_runs_it_without_delay_on_servers(
    database: str, broker: str, tmp_path: Path
) -> None:
    with servers.database(database, tmp_path) as url, servers.broker(broker) as address:
        dexpy.configure(database=url, **({} if address is None else {"broker": address}))
        store = current_runtime().store
        assert store is not None
        if database != "sqlite":
            from dexpy.database import schema

            with store.database.begin() as connection:
                schema.create(connection)
        try:
            with (
                worker("apps.shared_queue_orders", tmp_path, url, address),
                a_worker_that_starts_late(tmp_path, url, address),
            ):
                everything_is_run(tmp_path)
        finally:
            current_runtime().close()


class Known(Operation):
    n: int = 0

    def perform(self) -> int:
        return self.n


def _insert_message(connection: sa.Connection, name: str, priority: int = 0) -> None:
    values = {"queue": "default", "message_id": name, "payload": f'{{"kwargs":{{{class_marker(name)},"n":1}}}}'}
    connection.execute(
        sa.insert(messages).values(**values, priority=priority, due_at=after(0), created_at=after(0), dead=False)
    )


@pytest.mark.parametrize(
    "kind",
    ["sqlite", *(pytest.param(kind, marks=pytest.mark.servers) for kind in ("postgresql", "mariadb"))],
)
def test_l1_messages_of_an_unknown_class_are_skipped_at_any_priority(kind: str, tmp_path: Path) -> None:
    with servers.database(kind, tmp_path) as url:
        dexpy.configure(database=url)
        store = current_runtime().store
        assert store is not None
        messages.create(store.database.engine)
        with store.database.begin() as connection:
            for number in range(5):
                _insert_message(connection, "shop.Other", number % 3)
            _insert_message(connection, "shop.other")
            _insert_message(connection, "shop.Übrig")
        skipped = frozenset({"shop.Other", "shop.Übrig"})
        with store.database.begin() as connection:
            assert most_urgent(connection, "default") == 2
            assert most_urgent(connection, "default", skipped) == 0
            assert [row.payload for row in claimable(connection, "default", 9, skipped)] == [
                f'{{"kwargs":{{{class_marker("shop.other")},"n":1}}}}'
            ]
            assert int(connection.execute(counts(None, skipped)).one()[0]) == 1
            assert most_urgent(connection, "default", skipped | {"shop.other"}) is None
        current_runtime().close()


def test_l1_a_limited_number_of_classes_is_skipped() -> None:
    skipped = SkippedClasses()
    assert all(skipped.add(f"shop.Job{number}") for number in range(50))
    assert not skipped.add("shop.OneMore")
    assert skipped.add("shop.Job1")
    assert len(skipped.names()) == 50


def test_l1_a_class_that_only_a_dead_worker_knew_waits_like_an_unknown_class(isolated_runtime: Isolated) -> None:
    store = isolated_runtime.runtime.store
    assert store is not None
    liveness_locks = worker_registry.SqliteLivenessLocks(store.database)
    with store.begin() as connection:
        worker_registry.register(connection, "dead", 0.0, names=["shop.Old"], host="h", pid=1, threads=4, queues=None)
    with store.begin() as connection:
        assert worker_registry.known_classes(connection, liveness_locks, "default").names == frozenset()
    liveness_locks.acquire("alive")
    try:
        with store.begin() as connection:
            facts = {"host": "h", "pid": 2, "threads": 4}
            worker_registry.register(connection, "alive", 60.0, names=["shop.New"], **facts, queues=["default"])
        with store.begin() as connection:
            assert worker_registry.known_classes(connection, liveness_locks, "default").names == {"shop.New"}
            assert worker_registry.known_classes(connection, liveness_locks, "other").names == frozenset()
            worker_registry.update_names(connection, "alive", ["shop.New", "shop.Newer"])
            assert worker_registry.known_classes(connection, liveness_locks, "default").names == {
                "shop.New",
                "shop.Newer",
            }
            worker_registry.unregister(connection, ["alive", "dead"])
            assert connection.execute(sa.select(worker_names)).all() == []
            assert connection.execute(sa.select(workers)).all() == []
    finally:
        liveness_locks.release("alive")


def test_l1_a_new_worker_makes_only_runs_of_its_own_classes_due(isolated_runtime: Isolated) -> None:
    store = isolated_runtime.runtime.store
    assert store is not None
    unknown_operations = UnknownRecords(isolated_runtime.runtime.dispatcher, unknown_policy(None), store)
    later = after(30)
    with store.begin() as connection:
        for number, (name, put_off, due_at) in enumerate(
            [("shop.New", True, later), ("shop.New", False, later), ("shop.Other", True, later)]
        ):
            facts = '"unknown_since":1.0' if put_off else ""
            payload = f'{{"kwargs":{{{class_marker(name)}}},"options":{{"dexpy":{{{facts}}}}}}}'
            row = {"queue": "default", "message_id": str(number), "payload": payload, "priority": 0, "dead": False}
            connection.execute(sa.insert(messages).values(**row, due_at=due_at, created_at=after(0)))
        odd = {"queue": "default", "message_id": "9", "payload": '"unknown_since"', "priority": 0, "dead": False}
        connection.execute(sa.insert(messages).values(**odd, due_at=later, created_at=after(0)))
    unknown_operations.make_due(["shop.New"], ["elsewhere"])
    with store.begin() as connection:
        assert [row.payload for row in claimable(connection, "default", 9)] == []
    unknown_operations.make_due(["shop.New"], None)
    with store.begin() as connection:
        assert ["shop.New" in row.payload for row in claimable(connection, "default", 9)] == [True]
