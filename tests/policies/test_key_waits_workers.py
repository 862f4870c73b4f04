"""A process that is killed while its enqueue waits for a key that an open transaction holds."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from apps import shop_keys
from harness.policy_workers import PolicyPair
from harness.workers import eventually
from innodb import is_waited
from sqlalchemy.orm import Session

from dexpy import records

APPLICATION = shop_keys
SCRIPT = str(Path(shop_keys.__file__))
WAIT_S = 30.0
WAITING = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def waits(pair: PolicyPair) -> bool:
    """Whether a session of the server waits for a lock; True on SQLite, which cannot report it."""
    kind = pair.engine.dialect.name
    if kind == "sqlite":
        return True
    return bool(pair.sql(WAITING)) if kind == "postgresql" else is_waited(pair.sql)


@pytest.mark.parametrize("name", ["Charge", "Reindex", "ReindexWithToken"])
@pytest.mark.parametrize("holder", ["commits", "rolls back"])
def test_a_process_that_is_killed_while_it_waits_for_a_key_leaves_nothing_behind(
    pair: PolicyPair, name: str, holder: str
) -> None:
    engine = sa.create_engine(pair.url)
    with Session(engine) as session:
        first = shop_keys.enqueue(name, session)
        killed = pair.serve([sys.executable, SCRIPT, name])
        eventually(
            lambda: "enqueueing" in killed.output() and waits(pair),
            "the enqueue waits for the key",
            WAIT_S,
            killed.output,
        )
        killed.signal(signal.SIGKILL)
        assert killed.ended() == -signal.SIGKILL, killed.output()
        assert "answer" not in killed.output()
        session.commit() if holder == "commits" else session.rollback()
    engine.dispose()

    third = shop_keys.enqueue(name)
    assert third.duplicate == (holder == "commits")
    assert (third.id == first.id) == (holder == "commits")
    pair.start()
    assert third.wait(WAIT_S) is not None
    assert records.all().count() == 1
    assert len(pair.effects()) == 1
