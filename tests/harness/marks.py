"""Queries of the marks and effects that the runs of `apps.shop_limits` have written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from apps import shop_limits

from dexpy.database.tables import FINAL, attempts, gates, records
from harness.policy_workers import PolicyPair
from harness.workers import eventually

WAIT_S = 60.0
"""A generous timeout for waits without a guaranteed limit."""


def wait_until_final(pair: PolicyPair) -> list[Any]:
    """Wait until every record has ended, and return all records."""
    unfinished = sa.select(records.c.id, records.c.status, records.c.blocked_key, records.c.error).where(
        records.c.status.not_in(FINAL)
    )
    eventually(
        lambda: not pair.sql(unfinished),
        "all have ended",
        WAIT_S,
        lambda: f"{pair.sql(unfinished)}\n{pair.output()}",
    )
    return list(pair.sql(sa.select(records).order_by(records.c.id)))


def marks(pair: PolicyPair) -> list[Any]:
    """Return all marks in order of time; at equal times an end precedes a start."""
    table = shop_limits.marks.c
    return list(pair.sql(sa.select(shop_limits.marks).order_by(table.at, table.what.desc())))


def max_at_once(pair: PolicyPair, dead: Collection[int] = ()) -> dict[str, int]:
    """Return the largest number of concurrent runs for each key.

    Args:
        pair: The pair of the runs.
        dead: The pids of killed processes; their started runs have no mark of an end.
    """
    all_marks = marks(pair)
    ended = {(mark.run, mark.pid) for mark in all_marks if mark.what == "end"}
    current: Counter[str] = Counter()
    maximum: Counter[str] = Counter()
    for mark in all_marks:
        if mark.pid in dead and (mark.run, mark.pid) not in ended:
            continue
        current[mark.key] += 1 if mark.what == "begin" else -1
        maximum[mark.key] = max(maximum[mark.key], current[mark.key])
    assert not any(current.values()), current
    return dict(maximum)


def effects(pair: PolicyPair) -> Counter[int]:
    """Return how often each effect was written, by its number."""
    return Counter(row.number for row in pair.sql(sa.select(shop_limits.effects.c.number)))


def assert_nothing_left(pair: PolicyPair) -> None:
    """Assert that no record is running or blocked and that few gates remain."""
    assert pair.sql(sa.select(records.c.id).where(records.c.blocked_key.is_not(None))) == []
    assert pair.sql(sa.select(records.c.id).where(records.c.status == "running")) == []
    assert len(pair.sql(sa.select(gates.c.key))) <= 20


def lost_by(pair: PolicyPair, pid: int) -> list[Any]:
    """Return the attempts of a killed process."""
    return [row for row in pair.sql(sa.select(attempts)) if row.worker and row.worker.split(":")[1] == str(pid)]
