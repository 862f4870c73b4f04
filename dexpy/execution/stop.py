"""How somebody else ends a run: asked from another thread, seen at the run's next step.

A run that was called off sees it in ``self.check_cancelled()``, at the next use of its session, at the next await, and
last before its commit. A run out of time gets `TimedOut` raised inside `perform`, wherever it is.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from dexpy.foundation.errors import Cancelled, Interrupted, TimedOut


class Stop:
    """What one run is told from outside.

    Args:
        deadline: When its time is over, by the monotonic clock; None for never.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = deadline
        self._lock = threading.Lock()
        self._cancelled = False
        self._interrupted = False
        self._on_cancel: list[Callable[[], None]] = []
        self._thread: int | None = None
        self._overtime = False

    @property
    def is_cancelled(self) -> bool:
        """Whether the run was called off."""
        return self._cancelled

    def cancel(self) -> None:
        """Call the run off."""
        with self._lock:
            if self._cancelled:
                return
            self._cancelled = True
            told, self._on_cancel = self._on_cancel, []
        for tell in told:
            tell()

    def on_cancel(self, tell: Callable[[], None]) -> None:
        """Have a function called when the run is called off; at once if it is."""
        with self._lock:
            if not self._cancelled:
                self._on_cancel.append(tell)
                return
        tell()

    def interrupt(self) -> None:
        """Have the run given back where it can go on from later: its worker is about to end."""
        self._interrupted = True

    def check_interrupted(self) -> None:
        """Raise if the run is to be given back; asked where all that it has done is committed.

        Raises:
            Interrupted: It is.
        """
        if self._interrupted:
            raise Interrupted("The worker is about to end: the run goes on elsewhere, after what it has committed.")

    def check(self) -> None:
        """Raise if the run was called off.

        Raises:
            Cancelled: It was.
        """
        if self._cancelled:
            raise Cancelled("The run was called off while it ran.")

    def time_out(self) -> bool:
        """Raise `TimedOut` inside `perform`; False if nothing of it runs now."""
        with self._lock:
            if self._thread is None:
                return False
            self._overtime = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(TimedOut))
            return True

    @contextmanager
    def inside(self) -> Generator[None, None, None]:
        """While `perform` runs: only here may it be interrupted."""
        with self._lock:
            self._thread = threading.get_ident()
        try:
            yield
        finally:
            with self._lock:
                self._thread = None
            if self._overtime:
                # Sent, and perhaps not arrived: here at the latest, before anything is written or committed.
                for _ in range(100):
                    _arrive()

    @contextmanager
    def outside(self) -> Generator[None, None, None]:
        """While something is committed in the middle of `perform`: not to be interrupted before it has ended."""
        with self._lock:
            thread, self._thread = self._thread, None
        if self._overtime:
            for _ in range(100):
                _arrive()
        try:
            yield
        finally:
            with self._lock:
                self._thread = thread


def _arrive() -> None:
    """The interpreter looks for what was sent to a thread whenever a function begins."""
