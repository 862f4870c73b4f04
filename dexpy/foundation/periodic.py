"""Periodic tasks, each in its own thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

import attrs

from dexpy.foundation.backoff import Backoff
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path

LONGEST_PAUSE_S = 10.0
"""The maximum pause after failures, in seconds, unless the interval of the task is longer."""


@attrs.frozen
class PeriodicTask:
    """A periodic task and its intervals.

    Attributes:
        name: The name of the thread, also in the log.
        every_s: The pause after a successful run, in seconds.
        run_once: A function that runs the task once; returns whether it succeeded.
        retry: The pauses after failed runs; doubling from `every_s` by default.
        waits_first: Whether the thread pauses before the first run.
        pause_s: A function that returns the pause after a successful run, instead of `every_s`.
        while_draining: Whether a worker that stops runs it until its last run has ended or was released.
    """

    name: str
    every_s: float
    run_once: Callable[[], bool]
    retry: Backoff | None = None
    waits_first: bool = False
    pause_s: Callable[[], float] | None = None
    while_draining: bool = False

    @property
    def backoff(self) -> Backoff:
        """The pauses after consecutive failed runs."""
        return self.retry or Backoff(self.every_s, max(self.every_s, LONGEST_PAUSE_S))

    def start(self) -> PeriodicThread:
        """Start a thread that runs the task until it is stopped."""
        thread = PeriodicThread(self)
        thread.start()
        return thread


class PeriodicThread(threading.Thread):
    """The thread of a task, a daemon thread."""

    def __init__(self, task: PeriodicTask) -> None:
        super().__init__(name=f"dexpy-{task.name}", daemon=True)
        self.task = task
        self._over = threading.Event()

    def run(self) -> None:
        """Run the task until the thread is stopped."""
        if self.task.waits_first:
            self._over.wait(self.task.every_s)
        failures = 0
        while not self._over.is_set():
            pause_s, failures = self._run_once(failures)
            self._over.wait(pause_s)

    def _run_once(self, failures: int) -> tuple[float, int]:
        """Run the task after a number of consecutive failures; return the next pause and the new number of failures."""
        task = self.task
        retry_s = task.backoff.pause_s(failures)
        try:
            if task.run_once():
                return task.every_s if task.pause_s is None else task.pause_s(), 0
        except Exception as error:  # noqa: BLE001 - the next run must happen whatever this one raised
            log_event(LogEvent.TASK_FAILED, task=task.name, error=class_path(error), retry_in_s=retry_s)
        return retry_s, failures + 1

    def stop(self) -> None:
        """Start no further runs; return at once."""
        self._over.set()

    def end(self) -> None:
        """Stop, and wait for a run in progress."""
        self.stop()
        self.join()


def end_all(threads: list[PeriodicThread]) -> None:
    """Stop all threads, then wait for them."""
    for thread in threads:
        thread.stop()
    for thread in threads:
        thread.join()
