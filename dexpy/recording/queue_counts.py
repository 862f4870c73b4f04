"""Counts of the runs in each queue; they read the rows of pending, running and recently ended runs only."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dexpy.database.column_types import as_of
from dexpy.database.tables import records

_r = records.c


@attrs.frozen
class QueueCounts:
    """The runs of one queue.

    Attributes:
        due: Pending runs that are due.
        scheduled: Pending runs that are due later.
        running: Running runs.
        ended: Runs that have ended in the window.
        oldest_due_at: Since when the run that is due longest is due; None if none is due.
    """

    due: int = 0
    scheduled: int = 0
    running: int = 0
    ended: int = 0
    oldest_due_at: datetime | None = None


_IS_DUE = sa.or_(_r.scheduled_at.is_(None), _r.scheduled_at <= as_of(0))
_PENDING = (
    sa.select(
        _r.queue,
        sa.func.count().label("waiting"),
        sa.func.sum(sa.case((_IS_DUE, 1), else_=0)).label("due"),
        sa.func.min(sa.case((_IS_DUE, sa.func.coalesce(_r.scheduled_at, _r.created_at)))).label("oldest_due_at"),
    )
    .where(_r.status == "pending")
    .group_by(_r.queue)
)
_RUNNING = sa.select(_r.queue, sa.func.count().label("num")).where(_r.status == "running").group_by(_r.queue)
_ENDED = sa.select(_r.queue, sa.func.count().label("num")).group_by(_r.queue)


def count_runs(connection: Connection, window_s: float, queue: str | None = None) -> Mapping[str, QueueCounts]:
    """Return the counts by queue, of the queues that have any runs.

    Args:
        connection: A connection to the database.
        window_s: The seconds back from now in which ended runs are counted.
        queue: The only queue to count; None for all.
    """
    only = () if queue is None else (_r.queue == queue,)
    counts: dict[str, QueueCounts] = {}
    for row in connection.execute(_PENDING.where(*only)):
        # MariaDB returns sums as Decimal.
        due = int(row.due)
        counts[str(row.queue)] = QueueCounts(due, row.waiting - due, oldest_due_at=row.oldest_due_at)
    for row in connection.execute(_RUNNING.where(*only)):
        counts[str(row.queue)] = attrs.evolve(counts.get(str(row.queue), QueueCounts()), running=row.num)
    for row in connection.execute(_ENDED.where(_r.completed_at > as_of(-window_s), *only)):
        counts[str(row.queue)] = attrs.evolve(counts.get(str(row.queue), QueueCounts()), ended=row.num)
    return counts
