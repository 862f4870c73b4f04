"""Dumps: on a signal, a worker process logs what each of its threads runs, with the stack of the thread.

The handler only starts a thread, because it may interrupt the main thread while that holds a lock of `logging`.
If a thread holds the interpreter's lock, no Python code runs: the supervisor then sends a second signal, for which
`faulthandler` writes the stacks itself.
"""

from __future__ import annotations

import _thread
import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from types import FrameType

from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event, log_with_stack
from dexpy.foundation.redaction import class_path
from dexpy.foundation.safe_text import storable
from dexpy.worker.watchdog import Run, Watchdog

OFF = "off"
DUMP_SIGNALS = {"USR1": signal.SIGUSR1, "USR2": signal.SIGUSR2}
"""The values of the setting `dump_signal` that name a signal."""
FALLBACK: int = signal.SIGRTMIN + 10 if sys.platform == "linux" else getattr(signal, "SIGINFO", signal.SIGUSR2)
"""The signal for which the interpreter writes the stacks without running Python code; rarely used otherwise."""
ANSWER_WITHIN_S = 2.0
"""How long the supervisor waits for a dump before it sends the fallback signal, in seconds."""
REPEAT_AFTER_S = 0.5
"""A request within this time after a dump is the same request, sent to the process and to its supervisor."""
MAX_FRAMES = 100
"""The number of frames of one stack; of a deeper one the outermost are left out."""
STDERR = 2


class Dumper:
    """Logs the threads of this process when a signal comes.

    Args:
        answered: Called after each dump.
    """

    def __init__(self, answered: Callable[[], None]) -> None:
        self.watchdog: Watchdog | None = None
        """Tracks the runs; None before the application is imported."""
        self._answered = answered
        self._lock = threading.Lock()
        self._dumped_at = -REPEAT_AFTER_S

    def install(self, name: str) -> None:
        """Install the handlers; call it in the main thread.

        Args:
            name: The setting `dump_signal`.
        """
        if (number := DUMP_SIGNALS.get(name)) is not None:
            signal.signal(number, self._on_signal)
            # The number of the stream, because the application may close or replace `sys.stderr`.
            faulthandler.register(FALLBACK, file=STDERR, all_threads=True)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (number, FALLBACK))

    def _on_signal(self, _number: int, _frame: object) -> None:
        # Not by `threading`, whose lock this thread may hold.
        _thread.start_new_thread(self._dump_contained, ())

    def _dump_contained(self) -> None:
        threading.current_thread().name = "dexpy-dump"
        try:
            with self._lock:
                if time.monotonic() - self._dumped_at >= REPEAT_AFTER_S:
                    self.dump()
                self._dumped_at = time.monotonic()
        except Exception as error:  # noqa: BLE001 - the thread's outermost function
            log_event(LogEvent.TASK_FAILED, task="dump", error=class_path(error))
        with contextlib.suppress(OSError):
            self._answered()

    def dump(self) -> None:
        """Log each thread of this process with its runs and its stack."""
        runs: dict[int, list[Run]] = {}
        for run, thread_id in [] if self.watchdog is None else self.watchdog.threads():
            runs.setdefault(thread_id, []).append(run)
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        all_frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]
        frames = {number: frame for number, frame in all_frames.items() if number != _thread.get_ident()}
        num_runs = sum(map(len, runs.values()))
        log_event(LogEvent.WORKER_DUMPED, pid=os.getpid(), threads=len(frames), count=num_runs)
        # The threads with runs first.
        for thread_id in sorted(frames, key=lambda number: (number not in runs, names.get(number, ""))):
            *outer, innermost = [*runs.get(thread_id, ())] or [None]
            for run in outer:
                self._log_thread(names.get(thread_id), run, None)
            self._log_thread(names.get(thread_id), innermost, frames[thread_id])

    def _log_thread(self, name: str | None, run: Run | None, frame: FrameType | None) -> None:
        facts: dict[str, object] = {}
        if run is not None:
            since = datetime.now(timezone.utc) - timedelta(milliseconds=run.duration_ms)
            facts = {
                "operation": run.contract.name,
                "run_id": run.id,
                "attempt": None if run.row is None else run.row.num_attempts,
                "started_at": since.isoformat(timespec="milliseconds"),
                "duration_ms": run.duration_ms,
            }
        stack = None if frame is None else stack_of(frame)
        log_with_stack(LogEvent.THREAD_DUMPED, stack, **facts, thread_name=name, pid=os.getpid())


def stack_of(frame: FrameType) -> str:
    """Return file, line and function of each frame, the most recent call last: no source text, no local values."""
    frames = [(each.f_code, number) for each, number in traceback.walk_stack(frame)]
    left_out = [f"  ... {len(frames) - MAX_FRAMES} outer frames"] if len(frames) > MAX_FRAMES else []
    lines = [f'  File "{code.co_filename}", line {number}, in {code.co_name}' for code, number in frames[:MAX_FRAMES]]
    return storable("\n".join(["Stack (most recent call last):", *left_out, *reversed(lines)]))
