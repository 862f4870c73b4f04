"""Something that is done again and again in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

import attrs

from dexpy.foundation.backoff import Backoff
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path

LONGEST_PAUSE_S = 10.0
"""The longest pause after failures, in seconds, unless the task's own interval is longer."""


@attrs.frozen
class PeriodicTask:
    """One kind of work, and when it is done again.

    Attributes:
        name: Of the thread, and in the log.
        every_s: The pause after a run that went well, in seconds.
        run_once: One run; returns whether it went well.
        retry: Other pauses after runs that did not go well than those that double from `every_s`.
        waits_first: Whether a pause comes before the first run.
    """

    name: str
    every_s: float
    run_once: Callable[[], bool]
    retry: Backoff | None = None
    waits_first: bool = False

    @property
    def backoff(self) -> Backoff:
        """The pauses after runs in a row that did not go well."""
        return self.retry or Backoff(self.every_s, max(self.every_s, LONGEST_PAUSE_S))

    def start(self) -> PeriodicThread:
        """Start a thread that runs the task until it is stopped."""
        thread = PeriodicThread(self)
        thread.start()
        return thread


class PeriodicThread(threading.Thread):
    """The thread of a task; it does not keep its process alive."""

    def __init__(self, task: PeriodicTask) -> None:
        super().__init__(name=f"dexpy-{task.name}", daemon=True)
        self._task = task
        self._over = threading.Event()

    def run(self) -> None:
        """Run the task until the thread is stopped."""
        if self._task.waits_first:
            self._over.wait(self._task.every_s)
        failures = 0
        while not self._over.is_set():
            pause_s, failures = self._run_once(failures)
            self._over.wait(pause_s)

    def _run_once(self, failures: int) -> tuple[float, int]:
        """Run the task after so many failures in a row; return the pause until the next run and the new number."""
        task = self._task
        retry_s = task.backoff.pause_s(failures)
        try:
            if task.run_once():
                return task.every_s, 0
        except Exception as error:  # noqa: BLE001 - the next run must happen whatever this one raised
            log_event(LogEvent.TASK_FAILED, task=task.name, error=class_path(error), retry_in_s=retry_s)
        return retry_s, failures + 1

    def stop(self) -> None:
        """Let no further run begin; return at once."""
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
