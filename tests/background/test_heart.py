"""The signs of life of a worker process, in the order in which others may see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

import dexpy
from dexpy.recording import liveness
from dexpy.recording.tables import workers
from dexpy.runtime import install


def test_a_workers_lock_is_held_before_anybody_can_see_its_row(tmp_path: Path) -> None:
    """One that has a row and no lock is taken for dead by whoever looks in that moment."""
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path / 'records.db'}")
    dispatcher, database = runtime.dispatcher, runtime.store.database
    dispatcher.prepare()
    assert dispatcher.heart is not None
    lifelines, dead_at_commit = liveness.Lifelines(database), []

    def look(connection: Any) -> None:
        ids = connection.execute(sa.select(workers.c.id)).scalars().all()
        if ids:
            dead_at_commit.append(lifelines.dead(ids))

    sa.event.listen(database.engine, "commit", look)
    try:
        dispatcher.heart.begin()
    finally:
        sa.event.remove(database.engine, "commit", look)
        runtime.close()
        install(None)
    assert dead_at_commit
    assert all(dead == set() for dead in dead_at_commit)
