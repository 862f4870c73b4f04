"""The periodic tasks of a worker process, each in its own thread."""

from __future__ import annotations

from typing import Any

import dramatiq

from dexpy.foundation.periodic import PeriodicTask, PeriodicThread, end_all


class PeriodicTasks(dramatiq.Middleware):
    """Runs tasks in every worker process; works the same under ``dexpy worker`` and plain ``dramatiq``.

    Args:
        tasks: The tasks.
    """

    def __init__(self, *tasks: PeriodicTask) -> None:
        self.tasks = tasks
        self._threads: dict[int, list[PeriodicThread]] = {}

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        """Start a thread for each task."""
        self._threads[id(worker)] = [task.start() for task in self.tasks]

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
        """Stop the tasks that the runs in progress do not need; Dramatiq waits for those runs after this."""
        end_all([thread for thread in self._threads.get(id(worker), []) if not thread.task.while_draining])

    def after_worker_shutdown(self, broker: Any, worker: Any) -> None:
        """Stop the others: the runs have ended or were released."""
        end_all(self._threads.pop(id(worker), []))
