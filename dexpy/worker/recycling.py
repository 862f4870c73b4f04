"""Recycling: a process that has reached a limit of runs or memory finishes its runs and exits, to be replaced."""

from __future__ import annotations

import os
import random
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import dramatiq

from dexpy.foundation.errors import ConfigurationError
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.sizes import format_size
from dexpy.worker.watchdog import Watchdog

JITTER = 0.1
"""The share of a limit that each process subtracts at random, so that processes are not replaced together."""
EXIT_RECYCLED = 76
"""The exit status of a process that is to be replaced at once."""
MB = 1_000_000


def resident_memory() -> int:
    """Return the resident memory of this process in bytes; where there is no ``/proc``, the highest so far."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


@attrs.define(eq=False)
class Recycling:
    """The limits of one process, each lowered by up to `JITTER`.

    Attributes:
        max_runs: After how many runs it is recycled; None for never.
        max_memory: At how many bytes of resident memory it is recycled; None for never.
        watchdog: Counts the runs.
        memory: Returns the resident memory in bytes.
        reason: The setting whose limit was reached; None before.
    """

    max_runs: int | None
    max_memory: int | None
    watchdog: Watchdog
    memory: Callable[[], int] = resident_memory
    reason: str | None = None
    _started_at: float = attrs.field(factory=time.monotonic, init=False)
    _reached_at: float = attrs.field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        share = random.uniform(1 - JITTER, 1)  # noqa: S311 - no secret
        if self.max_memory is not None:
            self._require_room(self.max_memory)
            self.max_memory = round(self.max_memory * share)
        if self.max_runs is not None:
            self.max_runs = round(self.max_runs * share) or 1

    def _require_room(self, limit: int) -> None:
        used = self.memory()
        if used >= limit * (1 - JITTER):
            raise ConfigurationError(
                f"max_memory: expected much more than the {used // MB}MB that the worker uses at its start, got "
                f"{format_size(limit)}. Raise it."
            )

    def is_due(self) -> bool:
        """Return whether the process has reached a limit; it has run at least one operation then."""
        if self.reason is None and self.watchdog.num_runs:
            if self.max_runs is not None and self.watchdog.num_runs >= self.max_runs:
                self.reason = "max_runs"
            elif self.max_memory is not None and self.memory() >= self.max_memory:
                self.reason = "max_memory"
            self._reached_at = time.monotonic()
        return self.reason is not None

    def log_end(self) -> None:
        """Log that the process has finished its runs."""
        now = time.monotonic()
        log_event(
            LogEvent.WORKER_RECYCLED,
            pid=os.getpid(),
            reason=self.reason,
            num_runs=self.watchdog.num_runs,
            memory_mb=self.memory() // MB,
            uptime_s=now - self._started_at,
            duration_ms=(now - self._reached_at) * 1000,
        )


def stop_fetching(worker: dramatiq.Worker) -> None:
    """Fetch no more messages; those that are fetched already still run, and the runs continue."""
    stop: Callable[[], None] | None = getattr(worker.broker, "stop_fetching", None)
    if stop is not None:
        stop()
        return
    # A broker of the application keeps fetching, and its messages return to their queues when the worker stops.
    for thread in worker.workers:
        thread.stop()


def num_unfinished(worker: dramatiq.Worker) -> int:
    """Return how many messages a worker that fetches no more has not finished."""
    if hasattr(worker.broker, "stop_fetching"):
        return worker.work_queue.unfinished_tasks
    threads: list[Any] = worker.workers
    return sum(thread.is_alive() for thread in threads)


def exit_after(seconds: float, status: int) -> None:
    """End this process if it has not ended by itself: a thread of the application may keep it alive."""
    timer = threading.Timer(seconds, os._exit, (status,))
    timer.daemon = True
    timer.start()
