"""What the runs of `limited_shop` have marked, looked at without their records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import limited_shop
import sqlalchemy as sa
from crew import Crew
from workers import eventually

from dexpy.recording.tables import FINAL, attempts, gates, records

WAIT_S = 60.0
"""A busy machine is no failure, where nothing was promised."""


def all_final(crew: Crew) -> list[Any]:
    """Wait until every record has ended; all of them."""
    unfinished = sa.select(records.c.id, records.c.status, records.c.blocked_key, records.c.error).where(
        records.c.status.not_in(FINAL)
    )
    eventually(
        lambda: not crew.sql(unfinished), "all have ended", WAIT_S, lambda: f"{crew.sql(unfinished)}\n{crew.tell()}"
    )
    return list(crew.sql(sa.select(records).order_by(records.c.id)))


def marks(crew: Crew) -> list[Any]:
    """All marks, in the order of their moments; of one moment an end before a beginning."""
    table = limited_shop.marks.c
    return list(crew.sql(sa.select(limited_shop.marks).order_by(table.at, table.what.desc())))


def most_at_once(crew: Crew, dead: Collection[int] = ()) -> dict[str, int]:
    """For each key how many were at work at once at most.

    Args:
        crew: Whose runs they are.
        dead: Processes that were killed: what they began ended with them, at a moment that nobody marked.
    """
    found = marks(crew)
    ended = {(mark.run, mark.pid) for mark in found if mark.what == "end"}
    now: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for mark in found:
        if mark.pid in dead and (mark.run, mark.pid) not in ended:
            continue
        now[mark.key] += 1 if mark.what == "begin" else -1
        most[mark.key] = max(most[mark.key], now[mark.key])
    assert not any(now.values()), now
    return dict(most)


def effects(crew: Crew) -> Counter[int]:
    """What the runs have done."""
    return Counter(row.number for row in crew.sql(sa.select(limited_shop.effects.c.number)))


def nothing_is_left(crew: Crew) -> None:
    """No record runs or waits for a slot."""
    assert crew.sql(sa.select(records.c.id).where(records.c.blocked_key.is_not(None))) == []
    assert crew.sql(sa.select(records.c.id).where(records.c.status == "running")) == []
    assert len(crew.sql(sa.select(gates.c.key))) <= 20


def lost_by(crew: Crew, pid: int) -> list[Any]:
    """The attempts that a killed process has left."""
    return [row for row in crew.sql(sa.select(attempts)) if row.worker and row.worker.split(":")[1] == str(pid)]
