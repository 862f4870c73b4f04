"""The two actors, on whichever broker there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dramatiq
from dramatiq.middleware import CurrentMessage

from dexpy.background.jobs import Jobs
from dexpy.background.payload import DIRECT_JOB, RECORD_JOB

NO_TIME_LIMIT_MS = 366 * 24 * 3600 * 1000
"""Dramatiq would end a run after ten minutes; how long an operation may take is its own affair."""


class GiveBack(dramatiq.Middleware):
    """Returns what a worker does not bring to an end before its shutdown timeout; under plain ``dramatiq`` too."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
        """The worker is asked to end: a run that can go on elsewhere need not come to its end here."""
        self._jobs.watch.interrupt()

    def after_worker_shutdown(self, broker: Any, worker: Any) -> None:
        """The worker waits no longer."""
        self._jobs.give_back()


def declare_actors(broker: dramatiq.Broker, jobs: Jobs) -> None:
    """Declare the two actors on a broker; its other actors and its middleware stay as they are."""
    if not any(isinstance(middleware, CurrentMessage) for middleware in broker.middleware):
        broker.add_middleware(CurrentMessage())
    broker.add_middleware(GiveBack(jobs))
    # dexpy decides itself what is run again: a copy made by Dramatiq would be a second truth.
    wanted = {"max_retries": 0, "time_limit": NO_TIME_LIMIT_MS}
    options: dict[str, Any] = {name: value for name, value in wanted.items() if name in broker.actor_options}
    bodies: dict[str, Callable[..., None]] = {RECORD_JOB: jobs.run_record, DIRECT_JOB: jobs.run_direct}
    for name, body in bodies.items():
        dramatiq.actor(actor_name=name, broker=broker, queue_name="default", **options)(body)
