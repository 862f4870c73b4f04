"""The liveness locks of workers on a SQLite file: each is held exactly as long as its process is alive."""

from __future__ import annotations

import os
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dexpy.database.engine import Database
from dexpy.database.tables import records
from dexpy.foundation.clock import clock
from dexpy.liveness.worker_registry import SqliteLivenessLocks
from dexpy.maintenance.relay import Relay
from dexpy.recording import batches
from dexpy.recording.store import insert_record
from dexpy.testing import Isolated


@pytest.fixture
def liveness_locks(tmp_path: Path) -> SqliteLivenessLocks:
    return SqliteLivenessLocks(Database(f"sqlite:///{tmp_path / 'records.db'}"))


def test_a_worker_can_start_while_the_last_other_worker_ends(
    liveness_locks: SqliteLivenessLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ending worker removes the folder of the locks after the starting one created it, and before it uses it."""
    make, taken_away = Path.mkdir, []

    def make_for_nothing(folder: Path, *arguments: Any, **options: Any) -> None:
        make(folder, *arguments, **options)
        if not taken_away:
            folder.rmdir()
            taken_away.append(folder)

    monkeypatch.setattr(Path, "mkdir", make_for_nothing)
    liveness_locks.acquire("host:1:one")

    assert len(taken_away) == 1
    assert liveness_locks.find_dead(["host:1:one", "host:1:other"]) == {"host:1:other"}
    liveness_locks.release("host:1:one")
    assert liveness_locks.find_dead(["host:1:one"]) == {"host:1:one"}


def test_a_lock_whose_folder_cannot_be_created_raises(tmp_path: Path) -> None:
    liveness_locks = SqliteLivenessLocks(Database(f"sqlite:///{tmp_path / 'nowhere' / 'records.db'}"))
    with pytest.raises(FileNotFoundError):
        liveness_locks.acquire("host:1:one")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_sees_its_parent_alive_as_long_as_the_parent_holds_its_lock(
    liveness_locks: SqliteLivenessLocks,
) -> None:
    """The child inherits the parent's list of its own locks in memory, and must not use it."""
    liveness_locks.acquire("host:1:parent")
    asks, answers = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(asks[1])
        try:
            while os.read(asks[0], 1):
                os.write(answers[1], b"d" if liveness_locks.find_dead(["host:1:parent"]) else b"l")
        finally:
            os._exit(0)

    def check_lock() -> bytes:
        os.write(asks[1], b"?")
        return os.read(answers[0], 1)

    try:
        before = check_lock()
        liveness_locks.release("host:1:parent")
        after = check_lock()
    finally:
        for end in (*asks, *answers):
            os.close(end)
        os.waitpid(child, 0)

    assert (before, after) == (b"l", b"d")


def test_recovery_and_expiry_work_batch_by_batch(isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch) -> None:
    """One poll changes all rows, in transactions of at most one batch."""
    monkeypatch.setattr(batches, "BATCH", 2)
    store, heartbeat = isolated_runtime.runtime.store, isolated_runtime.runtime.services.heartbeat
    assert heartbeat is not None
    with store.begin() as connection:
        for number in range(5):
            facts = {"operation": "n", "queue": "default", "params": {}}
            insert_record(connection, {"id": f"run {number}", "status": "running", "claimed_by": "gone:1:x", **facts})
            late = {"scheduled_at": clock.now(), "expires_at": clock.now() - timedelta(seconds=1)}
            insert_record(connection, {"id": f"late {number}", "status": "pending", **late, **facts})
    moved: Counter[str] = Counter()
    most: Counter[str] = Counter()

    @sa.event.listens_for(store.database.engine, "after_cursor_execute")
    def count(_c: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("UPDATE") and "operation_records" in statement.split()[1]:
            moved[parameters[0]] += 1

    @sa.event.listens_for(store.database.engine, "commit")
    def end(_: Any) -> None:
        for status, rows in moved.items():
            most[status] = max(most[status], rows)
        moved.clear()

    assert Relay(isolated_runtime.runtime.dispatcher, heartbeat, isolated_runtime.runtime.intervals).run_once()

    statuses = [row.status for row in store.rows(sa.select(records).order_by(records.c.id))]
    assert statuses == ["expired"] * 5 + ["pending"] * 5
    assert most == {"expired": 2, "pending": 2}
