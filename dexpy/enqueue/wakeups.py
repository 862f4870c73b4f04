"""Wakeups: calls of a function with a key, each at its time, in a thread that starts with the first one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from dexpy.foundation.backoff import Backoff
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path

Key = TypeVar("Key")
RETRY = Backoff(first_s=0.5, longest_s=10.0)
"""The pauses after a call that failed."""


class Wakeups(Generic[Key]):
    """Calls a function with each scheduled key.

    Args:
        name: The name of the thread, also in the log.
        wake: Called with a key at its time; it may schedule the key again.
    """

    def __init__(self, name: str, wake: Callable[[Key], None]) -> None:
        self._name = name
        self._wake = wake
        self._due_at: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._changed = threading.Condition()
        self._num_open = 0
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Accept keys, until `close` was called as often."""
        with self._changed:
            self._num_open += 1

    def close(self) -> None:
        """Accept no more keys, drop the scheduled ones, and wait for the thread."""
        with self._changed:
            self._num_open -= 1
            if self._num_open > 0:
                return
            self._due_at.clear()
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def schedule(self, key: Key, wait_s: float) -> None:
        """Call the function with a key after some seconds, unless it is scheduled earlier; nothing while not open."""
        due_at = time.monotonic() + wait_s
        with self._changed:
            if self._num_open <= 0 or self._due_at.get(key, due_at + 1) <= due_at:
                return
            self._due_at[key] = due_at
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"dexpy-{self._name}", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        while (key := self._next_key()) is not None:
            try:
                self._wake(key)
            except Exception as error:  # noqa: BLE001 - the other keys must be woken all the same
                num_failures = self._failures.get(key, 0)
                self._failures[key] = num_failures + 1
                pause_s = RETRY.pause_s(num_failures)
                log_event(LogEvent.TASK_FAILED, task=self._name, error=class_path(error), retry_in_s=pause_s)
                self.schedule(key, pause_s)
            else:
                self._failures.pop(key, None)

    def _next_key(self) -> Key | None:
        """Wait for the next due key; None after the end."""
        with self._changed:
            while self._num_open > 0:
                if not self._due_at:
                    self._changed.wait()
                    continue
                key = min(self._due_at, key=self._due_at.__getitem__)
                pause_s = self._due_at[key] - time.monotonic()
                if pause_s <= 0:
                    del self._due_at[key]
                    return key
                self._changed.wait(pause_s)
            self._thread = None
            return None
