"""Cancellation, interruption and timeout of a run, requested from another thread.

A cancelled run raises in ``self.check_cancelled()``, at the next use of its session, at the next await, and at the
latest before its commit. At its timeout, `TimedOut` is raised inside `perform`, wherever it is.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from dexpy.foundation.errors import Cancelled, Interrupted, TimedOut


class CancelToken:
    """Cancels, interrupts or times out one run from another thread.

    Args:
        deadline: When the run times out, by the monotonic clock; None for never.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = deadline
        self._lock = threading.Lock()
        self._cancelled = False
        self._interrupted = False
        self._on_cancel: list[Callable[[], None]] = []
        self._thread: int | None = None
        self._timeout_raised = False

    @property
    def is_cancelled(self) -> bool:
        """Whether the run was cancelled."""
        return self._cancelled

    def cancel(self) -> None:
        """Cancel the run."""
        with self._lock:
            if self._cancelled:
                return
            self._cancelled = True
            callbacks, self._on_cancel = self._on_cancel, []
        for callback in callbacks:
            callback()

    @property
    def is_interrupted(self) -> bool:
        """Whether the run should be released."""
        return self._interrupted

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call a function when the run is cancelled; immediately if it already was."""
        with self._lock:
            if not self._cancelled:
                self._on_cancel.append(callback)
                return
        callback()

    def interrupt(self) -> None:
        """Interrupt the run at its next checkpoint, because its worker is stopping."""
        self._interrupted = True

    def check_interrupted(self) -> None:
        """Raise if the run was interrupted; called only when all effects of the run are committed.

        Raises:
            Interrupted: The run was interrupted.
        """
        if self._interrupted:
            raise Interrupted("The worker is stopping; another worker continues the run after its last committed step.")

    def check(self) -> None:
        """Raise if the run was cancelled.

        Raises:
            Cancelled: The run was cancelled.
        """
        if self._cancelled:
            raise Cancelled("The run was cancelled while it ran.")

    def time_out(self) -> bool:
        """Raise `TimedOut` inside `perform`; False if `perform` does not run now."""
        with self._lock:
            if self._thread is None:
                return False
            self._timeout_raised = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(TimedOut))
            return True

    @contextmanager
    def interruptible(self) -> Generator[None, None, None]:
        """Mark the block, in which `perform` runs, as one that `time_out` may interrupt."""
        with self._lock:
            self._thread = threading.get_ident()
        try:
            yield
        finally:
            with self._lock:
                self._thread = None
            if self._timeout_raised:
                # Raised asynchronously, and perhaps still pending: delivered here, before anything is committed.
                for _ in range(100):
                    _deliver_pending_exception()

    @contextmanager
    def shielded(self) -> Generator[None, None, None]:
        """Delay an interruption until the end of the block, for example of a commit inside `perform`."""
        with self._lock:
            thread, self._thread = self._thread, None
        if self._timeout_raised:
            for _ in range(100):
                _deliver_pending_exception()
        try:
            yield
        finally:
            with self._lock:
                self._thread = thread


def _deliver_pending_exception() -> None:
    """Deliver a pending exception: the interpreter checks for one whenever a function is called."""
