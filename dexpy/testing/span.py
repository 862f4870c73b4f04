"""Runs what a worker would run in a span of time, in the thread of a test, and moves the clock meanwhile."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from dexpy.database.column_types import as_of
from dexpy.database.tables import messages, rate_starts, records, recurring
from dexpy.foundation.errors import OptionsError, did_you_mean
from dexpy.maintenance.recurring_registration import declared_tasks
from dexpy.maintenance.tick_plan import next_tick
from dexpy.recording import recurring_tasks
from dexpy.runtime import Runtime

if TYPE_CHECKING:
    from dexpy.assembly import Recorded


class Span:
    """The due times of an isolated runtime.

    Args:
        runtime: A runtime with a database that also transports the messages.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._store = runtime.open_store()
        self._runtime = runtime

    @property
    def _recorded(self) -> Recorded:
        recorded = self._runtime.services.recorded
        assert recorded is not None  # noqa: S101 - an isolated runtime has a database
        return recorded

    def now(self) -> datetime:
        """Return the time of the database."""
        now: datetime = self._store.rows(sa.select(as_of(0)))[0][0]
        return now

    def register(self, keys: Collection[str] | None) -> None:
        """Register the recurring tasks of this process, as the first worker that is started.

        Args:
            keys: The keys of the tasks; None for all.

        Raises:
            OptionsError: No task has one of the keys.
        """
        settings = self._runtime.settings
        tasks = declared_tasks(settings.zone, entries=settings.configuration.recurring).tasks
        with self._store.begin() as connection:
            stored = set(connection.execute(sa.select(recurring.c.key)).scalars())
        for key in keys or ():
            if key not in tasks and key not in stored:
                known = [*tasks, *stored]
                raise OptionsError(
                    f"run_for(recurring=...): {key!r}: no recurring task has this key.{did_you_mean(key, known)}"
                )
        with self._store.begin() as connection:
            for key, task in tasks.items():
                if key in stored or (keys is not None and key not in keys):
                    continue
                now, definition = self.now(), task.definition
                next_at = now if definition.runs_at_start else next_tick(definition.schedule, now)
                values = {**definition.columns(task.contract), "declared_at": now, "next_at": next_at}
                recurring_tasks.insert_task(connection, key, values)

    def enqueue_ticks(self) -> None:
        """Enqueue the due ticks of all recurring tasks."""
        self._recorded.recurring.run_once()

    def next_due(self) -> datetime | None:
        """Return the time of the next tick or delayed message after now; None if there is none."""
        due: list[sa.Select[Any]] = [
            sa.select(sa.func.min(messages.c.due_at)).where(messages.c.due_at > as_of(0), sa.not_(messages.c.dead)),
            sa.select(sa.func.min(recurring.c.next_at)).where(
                recurring.c.next_at > as_of(0), recurring.c.retired_at.is_(None), recurring.c.paused_at.is_(None)
            ),
            sa.select(sa.func.min(recurring.c.paused_until)).where(
                recurring.c.paused_until > as_of(0), recurring.c.retired_at.is_(None)
            ),
        ]
        # A run above its rate limit may start when a start of its key is out of the window.
        waiting = sa.select(records.c.blocked_key).where(records.c.blocked_key.is_not(None))
        due.append(
            sa.select(sa.func.min(rate_starts.c.expires_at)).where(
                rate_starts.c.expires_at > as_of(0), rate_starts.c.key.in_(waiting)
            )
        )
        times = [row[0] for query in due for row in self._store.rows(query)]
        return min((time for time in times if time is not None), default=None)


def seconds_until(moment: datetime, now: datetime) -> timedelta:
    """Return the time from now to a moment; zero if it has passed."""
    return max(moment - now, timedelta(0))
