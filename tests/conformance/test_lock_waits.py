"""Locks of other transactions on servers: recovery does not wait for them, and a delete waits for its own rows only."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import servers
import sqlalchemy as sa
from apps.shop_failpoints import Mark
from harness.kills import (
    RECOVER_WITHIN_S,
    WAIT_S,
    Kills,
    assert_available_in_time,
    assert_done_once,
    effects_of,
    killed_pair,
    lost_attempts,
    now,
    wait_until_final,
    worker_ids,
)
from harness.workers import eventually

import dexpy
from dexpy.brokers.sql import statements
from dexpy.brokers.sql.broker import SqlBroker
from dexpy.database import lock_timeouts, schema
from dexpy.database.engine import Database
from dexpy.database.tables import records, worker_sessions, workers
from dexpy.liveness import worker_registry
from dexpy.liveness.intervals import RecoveryIntervals
from dexpy.maintenance.recovery import LOCK_WAIT_S
from dexpy.maintenance.relay import Relay

on_both = pytest.mark.parametrize("kills", ["postgresql+redis", "mariadb+sql"], indirect=True)
on_servers = pytest.mark.parametrize("server", ["postgresql", "mariadb"], indirect=True)
KEYS = [(workers, "id"), (worker_sessions, "worker")]
POLL_S = 15.0
"""The limit for a relay pass in seconds; the lock timeout of the servers is at least 50 s."""


@pytest.fixture
def kills(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Kills]:
    """Yield a pair without a worker; the parameter is its name."""
    with killed_pair(request.param, tmp_path) as opened:
        yield opened


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Database]:
    """Yield a database with dexpy's tables."""
    with servers.database(request.param, tmp_path) as url:
        database = Database(url)
        with database.begin() as connection:
            schema.create(connection)
        yield database
        database.dispose()


def dead_worker(id: str) -> dict[str, Any]:
    """Return the row of a worker whose lease has expired."""
    return {"id": id, "lease_s": -1.0, "host": "elsewhere", "pid": 1, "threads": 1, "queues": None}


@on_both
def test_a_worker_that_is_frozen_while_it_registers_a_session_does_not_block_the_recovery_of_its_runs(
    kills: Kills,
) -> None:
    pair = kills.pair
    kills.serve(["in_perform=wait"])
    ticket = Mark(number=1).async_().call()
    pid = kills.wait_for("in_perform").pid
    (worker,) = worker_ids(pair, pid)
    pair.start()
    os.kill(pid, signal.SIGSTOP)
    frozen_at = now(pair)
    try:
        with pair.engine.begin() as other_transaction:
            # The state of a worker that froze before this commit; no recovery ends a session without a committed row.
            other_transaction.execute(sa.insert(worker_sessions).values(worker=worker, backend="7/elsewhere"))
            (row,) = wait_until_final(pair)
    finally:
        kills.release()
        os.kill(pid, signal.SIGCONT)

    assert_done_once(pair, [row], effects_of([1]))
    assert_available_in_time(pair, row, frozen_at)
    assert [lost.worker for lost in lost_attempts(pair, ticket.id)] == [worker]


@on_both
def test_a_relay_pass_waits_for_no_lock_for_long_and_does_its_other_tasks(kills: Kills) -> None:
    pair, dispatcher = kills.pair, dexpy.current_runtime().dispatcher
    assert dispatcher.store is not None
    heartbeat = dexpy.current_runtime().services.heartbeat
    assert heartbeat is not None
    with dispatcher.store.begin() as connection:
        worker_registry.register(connection, **dead_worker("gone"))
    locked = Mark(number=1).async_(in_=86_400).call()
    late = Mark(number=2).async_(in_=86_400).call()
    pair.change(sa.update(records).where(records.c.id == locked.id).values(status="running", claimed_by="gone"))
    pair.change(sa.update(records).where(records.c.id == late.id).values(expires_at=now(pair)))
    relay = Relay(dispatcher, heartbeat, RecoveryIntervals(RECOVER_WITHIN_S))

    with pair.engine.begin() as other_transaction:
        other_transaction.execute(sa.select(workers).with_for_update())
        began = time.monotonic()
        is_complete = relay.run_once()
        took_s = time.monotonic() - began

    assert not is_complete, "the row of the dead worker still exists"
    assert took_s < POLL_S
    assert (locked.reload().status, late.reload().status) == ("pending", "expired")
    assert relay.run_once()
    assert pair.sql(sa.select(workers.c.id).where(workers.c.id == "gone")) == []


@on_servers
def test_a_bounded_wait_is_over_in_time_and_leaves_the_connection_as_it_was(server: Database) -> None:
    setting = {"postgresql": "SHOW lock_timeout"}.get(server.engine.dialect.name, "SELECT @@innodb_lock_wait_timeout")

    def lock_timeout() -> Any:
        with server.begin() as connection:
            return connection.exec_driver_sql(setting).scalar(), connection.connection.driver_connection

    with server.begin() as connection:
        worker_registry.register(connection, **dead_worker("gone"))
    before = lock_timeout()
    other = sa.create_engine(server.url)
    with other.begin() as other_transaction:
        other_transaction.execute(sa.select(workers).with_for_update())
        began = time.monotonic()
        with lock_timeouts.limited(LOCK_WAIT_S), pytest.raises(sa.exc.OperationalError), server.begin() as connection:
            connection.execute(sa.update(workers).values(pid=2))
    other.dispose()

    assert LOCK_WAIT_S <= time.monotonic() - began < POLL_S
    assert lock_timeout() == before


# --------------------------------------------------------------------------------------------------------- deletes


def enter(connection: sa.Connection, ids: str) -> None:
    for id in ids:
        worker_registry.register(connection, **dead_worker(id))
        connection.execute(sa.insert(worker_sessions).values(worker=id, backend=f"{id}/elsewhere"))


@on_servers
@pytest.mark.parametrize("leaving", ["a", "abc"])
def test_a_worker_that_unregisters_does_not_wait_for_one_that_registers(server: Database, leaving: str) -> None:
    remaining = [sa.select(table.c[name]).order_by(table.c[name]) for table, name in KEYS]
    with server.begin() as connection:
        enter(connection, "abc")
    other = sa.create_engine(server.url)
    with other.begin() as other_transaction:
        enter(other_transaction, "d")
        # Including the case of all committed rows, for which the server scans the whole small table.
        with lock_timeouts.limited(LOCK_WAIT_S), server.begin() as connection:
            worker_registry.unregister(connection, list(leaving))
            staying = [one for one in "abc" if one not in leaving]
            assert [list(connection.execute(query).scalars()) for query in remaining] == [staying, staying]
    other.dispose()


@on_servers
def test_sessions_of_dead_workers_are_deleted_while_others_are_recorded(server: Database) -> None:
    with server.begin() as connection:
        enter(connection, "abc")
        connection.execute(sa.delete(workers).where(workers.c.id != "a"))
    other = sa.create_engine(server.url)
    with other.begin() as other_transaction:
        enter(other_transaction, "d")
        with lock_timeouts.limited(LOCK_WAIT_S), server.begin() as connection:
            worker_registry.delete_orphaned_names(connection)
            assert connection.execute(sa.select(worker_sessions.c.worker)).scalars().all() == ["a"]
    other.dispose()


@on_servers
def test_acknowledgements_do_not_wait_for_open_transactions_that_have_enqueued(server: Database) -> None:
    broker = SqlBroker(server)
    broker.declare_queue("default")
    posted = {"p_queue": "default", "p_priority": 0, "p_wait_s": 0}
    with server.begin() as connection:
        for number in range(3):
            payload = dramatiq.Message("default", "actor", (), {}, {}).encode().decode()
            connection.execute(statements.INSERT_AFTER, {**posted, "p_message_id": str(number), "p_payload": payload})
    claimed = [message for _ in range(3) if (message := broker.claim()) is not None]
    other = sa.create_engine(server.url)
    with other.begin() as other_transaction:
        other_transaction.execute(statements.INSERT_AFTER, {**posted, "p_message_id": "open", "p_payload": "{}"})
        threads = [threading.Thread(target=message.ack) for message in claimed]
        began = time.monotonic()
        # The acknowledgements queue up while another write holds the lock, and are then written together.
        with broker._leases._write_lock:
            for thread in threads:
                thread.start()
            eventually(lambda: len(broker._leases._pending_acks) == 3, "all three acknowledgements wait", WAIT_S)
        for thread in threads:
            thread.join()
        assert time.monotonic() - began < POLL_S
    other.dispose()
    with server.connect() as connection:
        assert connection.execute(sa.select(statements.messages.c.message_id)).scalars().all() == ["open"]
