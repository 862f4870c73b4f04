"""The watchdog: tracks the runs of this process, enforces their timeouts and delivers their cancellations."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable
from contextlib import contextmanager, nullcontext
from typing import Any

import attrs
from sqlalchemy.engine import Row

from dexpy.declaration.contract import Contract
from dexpy.execution.cancellation import CancelToken
from dexpy.foundation.backoff import Backoff
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.periodic import PeriodicTask
from dexpy.foundation.redaction import class_path

CHECK_EVERY_S = 0.25
_RETRY_PAUSE = Backoff(first_s=CHECK_EVERY_S, longest_s=CHECK_EVERY_S)
HARD_AFTER_S = 10.0
"""How long after `TimedOut` a run that does not end, because of an uninterruptible call, is given up, in seconds.

A run outside of `perform` at its timeout, in a guard or at its commit, is not interrupted, but also given up.
"""


@attrs.define(eq=False)
class Run:
    """One attempt that runs in this process.

    Attributes:
        id: The run's id.
        contract: The contract of its class.
        row: The record as claimed; None for a direct run.
        cancel_token: Cancels, interrupts or times out the run.
        deadline: When it times out, by the monotonic clock; None for never.
        timed_out_at: When `TimedOut` was raised in it; None before.
        is_given_up: Whether its end was written although it still runs.
        pid: The process that runs it.
        started_at: When it began, by the monotonic clock.
    """

    id: str
    contract: Contract
    row: Row[Any] | None
    cancel_token: CancelToken = attrs.field(factory=CancelToken)
    deadline: float | None = None
    timed_out_at: float | None = None
    is_given_up: bool = False
    pid: int = attrs.field(factory=os.getpid)
    started_at: float = attrs.field(factory=time.monotonic)

    @property
    def duration_ms(self) -> float:
        """How long it has run, in milliseconds."""
        return (time.monotonic() - self.started_at) * 1000


class Watchdog:
    """Tracks the runs of this process, and delivers timeouts and cancellations to them.

    Args:
        cancelled_among: Returns the ids of those records whose cancellation is requested.
        give_up: Writes the end of a run that does not stop.
    """

    def __init__(
        self, cancelled_among: Callable[[Collection[str]], Collection[str]], give_up: Callable[[Run], None]
    ) -> None:
        self._cancelled_among = cancelled_among
        self._give_up = give_up
        # With the thread of each: a run may perform another run in the same thread.
        self._runs: dict[Run, int] = {}
        self._lock = threading.Lock()
        self._check_lock = threading.Lock()
        self._interrupted = False
        self.num_runs = 0
        """How many runs have begun in this process; those that a run performs itself do not count."""
        self._checked_at = time.monotonic()

    @property
    def checked_s_ago(self) -> float:
        """Seconds since the last check."""
        return time.monotonic() - self._checked_at

    @contextmanager
    def run_periodically(self) -> Generator[None, None, None]:
        """Check periodically until the end of the block, in a process without a worker."""
        thread = PeriodicTask("watch", CHECK_EVERY_S, self.check, _RETRY_PAUSE, waits_first=True).start()
        try:
            yield
        finally:
            thread.end()

    @contextmanager
    def track(self, id: str, contract: Contract, row: Row[Any] | None) -> Generator[Run, None, None]:
        """Track one attempt, in this thread, until the end of the block."""
        deadline = None if contract.timeout_s is None else time.monotonic() + contract.timeout_s
        run, thread = Run(id, contract, row, CancelToken(deadline), deadline), threading.get_ident()
        outer: Run | None = None
        with self._lock:
            for other, run_thread in self._runs.items():
                if run_thread == thread:
                    outer = other
            self._runs[run] = thread
            self.num_runs += outer is None
        if self._interrupted:
            run.cancel_token.interrupt()
        try:
            # An exception raised into this thread now would hit the inner run instead of the outer one.
            with nullcontext() if outer is None else outer.cancel_token.shielded():
                yield run
        finally:
            with self._lock:
                del self._runs[run]

    def interrupt(self) -> None:
        """Interrupt every run, and those that start from now on, because the worker is stopping."""
        self._interrupted = True
        for run in self.runs:
            run.cancel_token.interrupt()

    def resume(self) -> None:
        """Interrupt no runs that start from now on."""
        self._interrupted, self._checked_at = False, time.monotonic()

    @property
    def runs(self) -> list[Run]:
        """The runs of this process."""
        with self._lock:
            return list(self._runs)

    def threads(self) -> list[tuple[Run, int]]:
        """Return the runs of this process with the ids of their threads, the outer runs of a thread first."""
        with self._lock:
            return list(self._runs.items())

    @property
    def stuck_threads(self) -> int:
        """The number of threads that are blocked by runs that were given up and still run."""
        with self._lock:
            return len({thread for run, thread in self._runs.items() if run.is_given_up})

    def check(self) -> bool:
        """Deliver timeouts and cancellations to the runs.

        Returns:
            True, for `PeriodicTask`: the check succeeded.
        """
        if not self._check_lock.acquire(blocking=False):
            # Another thread is checking: nothing is delivered twice.
            return True
        try:
            runs = self.runs
            for run in runs:
                self._deliver_timeouts(run)
            self._checked_at = time.monotonic()
            self.deliver_cancellations(runs)
        finally:
            self._check_lock.release()
        return True

    def deliver_cancellations(self, runs: Iterable[Run]) -> None:
        """Cancel those of the runs whose cancellation was requested."""
        recorded = {run.row.id: run for run in runs if run.row is not None and not run.cancel_token.is_cancelled}
        for run_id in self._cancelled_among(recorded) if recorded else ():
            recorded[run_id].cancel_token.cancel()

    def _deliver_timeouts(self, run: Run) -> None:
        now = time.monotonic()
        if run.deadline is None or now < run.deadline:
            return
        if run.timed_out_at is None and run.cancel_token.time_out():
            run.timed_out_at = now
        if now - (run.timed_out_at or run.deadline) >= HARD_AFTER_S and not run.is_given_up:
            run.is_given_up = True
            facts = {"operation": run.contract.name, "run_id": run.id, "timeout_s": run.contract.timeout_s}
            log_event(LogEvent.RUN_STUCK, **facts, advice="it occupies a thread until it returns")
            # In its own thread: a database that is unreachable or locked by this run must not block the watchdog.
            threading.Thread(target=self._give_up_contained, args=(run,), name="dexpy-give-up", daemon=True).start()

    def _give_up_contained(self, run: Run) -> None:
        try:
            self._give_up(run)
        except Exception as error:  # noqa: BLE001 - the thread's outermost function
            log_event(LogEvent.RUN_END_NOT_WRITTEN, run_id=run.id, error=class_path(error))
