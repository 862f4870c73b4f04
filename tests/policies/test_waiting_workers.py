"""A process that is killed while its enqueue waits for a key that an open transaction holds."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
import waiting_shop
from crew import Crew
from innodb import is_waited
from sqlalchemy.orm import Session
from workers import eventually

from dexpy import records

APPLICATION = waiting_shop
SCRIPT = str(Path(waiting_shop.__file__))
WAIT_S = 30.0
WAITING = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def waits(crew: Crew) -> bool:
    """Whether a session of the server waits for another one; a file says nothing of that."""
    kind = crew.engine.dialect.name
    if kind == "sqlite":
        return True
    return bool(crew.sql(WAITING)) if kind == "postgresql" else is_waited(crew.sql)


@pytest.mark.parametrize("name", ["Charge", "Reindex", "Named"])
@pytest.mark.parametrize("holder", ["commits", "rolls back"])
def test_whoever_is_killed_while_waiting_for_a_key_leaves_nothing_behind(crew: Crew, name: str, holder: str) -> None:
    engine = sa.create_engine(crew.url)
    with Session(engine) as session:
        first = waiting_shop.send(name, session)
        killed = crew.serve([sys.executable, SCRIPT, name])
        eventually(lambda: "asking" in killed.output() and waits(crew), "it waits", WAIT_S, killed.output)
        killed.signal(signal.SIGKILL)
        assert killed.ended() == -signal.SIGKILL, killed.output()
        assert "answer" not in killed.output()
        session.commit() if holder == "commits" else session.rollback()
    engine.dispose()

    third = waiting_shop.send(name)
    assert third.duplicate == (holder == "commits")
    assert (third.id == first.id) == (holder == "commits")
    crew.start()
    assert third.wait(WAIT_S) is not None
    assert records.all().count() == 1
    assert len(crew.effects()) == 1
