"""The heartbeat of a worker process: the order in which its lock and its row become visible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

import dexpy
from dexpy.database.tables import workers
from dexpy.liveness import worker_registry
from dexpy.runtime import install


def test_the_lock_of_a_worker_is_held_before_its_row_is_visible(tmp_path: Path) -> None:
    """A check at a moment with a row but no lock would treat the worker as dead."""
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path / 'records.db'}")
    dispatcher, database = runtime.dispatcher, runtime.store.database
    dispatcher.require_tables()
    assert runtime.services.heartbeat is not None
    liveness_locks, dead_at_commit = worker_registry.SqliteLivenessLocks(database), []

    def observe(connection: Any) -> None:
        ids = connection.execute(sa.select(workers.c.id)).scalars().all()
        if ids:
            dead_at_commit.append(liveness_locks.find_dead(ids))

    sa.event.listen(database.engine, "commit", observe)
    try:
        runtime.services.heartbeat.start()
    finally:
        sa.event.remove(database.engine, "commit", observe)
        runtime.close()
        install(None)
    assert dead_at_commit
    assert all(dead == set() for dead in dead_at_commit)
