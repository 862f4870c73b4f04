"""A look at what runs in this process: who was called off, and who is out of time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, nullcontext
from typing import Any

import attrs
from sqlalchemy.engine import Row

from dexpy.declaration.contract import Contract
from dexpy.execution.stop import Stop
from dexpy.foundation.log import line
from dexpy.foundation.redaction import class_path
from dexpy.recording.signals import cancelled_among
from dexpy.recording.store import Store

EVERY_S = 0.25
HARD_AFTER_S = 10.0
"""So long after `TimedOut` a run that still goes on, in a call that nothing can interrupt, is given up, in seconds.

A run that is beside `perform` when its time is over, in a guard or at its commit, is not interrupted, but given up too.
"""


@attrs.define(eq=False)
class Run:
    """One attempt that is under way here.

    Attributes:
        id: Of the run.
        contract: Of its class.
        row: As the claim left it; None for a direct run.
        stop: How it is ended.
        deadline: When its time is over, by the monotonic clock; None for never.
        told_at: When it was told that its time is over; None before that.
        is_given_up: Whether its end was written although it goes on.
    """

    id: str
    contract: Contract
    row: Row[Any] | None
    stop: Stop = attrs.field(factory=Stop)
    deadline: float | None = None
    told_at: float | None = None
    is_given_up: bool = False


class Watch:
    """Everything that runs in this process.

    Args:
        store: Where signals are; None when nothing is recorded.
        give_up: Writes the end of a run that does not end.
    """

    def __init__(self, store: Store | None, give_up: Callable[[Run], None]) -> None:
        self._store = store
        self._give_up = give_up
        # With the thread of each: a run may perform another one, and is under way meanwhile.
        self._runs: dict[Run, int] = {}
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._interrupted = False

    @contextmanager
    def looking(self) -> Generator[None, None, None]:
        """Look again and again until the end of the block, in a process that is no worker."""
        over = threading.Event()

        def repeat() -> None:
            while not over.wait(EVERY_S):
                try:
                    self.look()
                except Exception as error:  # noqa: BLE001 - whatever a look runs into, there has to be a next one
                    line(logging.WARNING, "watch.failed", error=class_path(error))

        thread = threading.Thread(target=repeat, name="dexpy-watch-by-hand", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @contextmanager
    def over(self, id: str, contract: Contract, row: Row[Any] | None) -> Generator[Run, None, None]:
        """Watch over one attempt, in this thread, until the end of the block."""
        deadline = None if contract.timeout_s is None else time.monotonic() + contract.timeout_s
        run, thread = Run(id, contract, row, Stop(deadline), deadline), threading.get_ident()
        with self._lock:
            outer = next((other for other, its in reversed(self._runs.items()) if its == thread), None)
            self._runs[run] = thread
        if self._interrupted:
            run.stop.interrupt()
        try:
            # What is raised into this thread now would land in the inner run, and not in whose time is over.
            with nullcontext() if outer is None else outer.stop.outside():
                yield run
        finally:
            with self._lock:
                del self._runs[run]

    def interrupt(self) -> None:
        """Tell every run, and those that begin from now on, that its worker is about to end."""
        self._interrupted = True
        for run in self.runs:
            run.stop.interrupt()

    @property
    def runs(self) -> list[Run]:
        """What is under way."""
        with self._lock:
            return list(self._runs)

    @property
    def stuck(self) -> int:
        """How many threads are kept from work by runs that were given up and go on."""
        with self._lock:
            return len({thread for run, thread in self._runs.items() if run.is_given_up})

    def look(self) -> bool:
        """Tell the runs what concerns them.

        Returns:
            True: the look went well.
        """
        if not self._looking.acquire(blocking=False):
            # Another one is at it: nobody is told twice.
            return True
        try:
            runs = self.runs
            for run in runs:
                self._see_to_time(run)
            self.see_to_cancelled(runs)
        finally:
            self._looking.release()
        return True

    def see_to_cancelled(self, runs: Iterable[Run]) -> None:
        """Tell those of these runs that somebody has called off."""
        recorded = {run.row.id: run for run in runs if run.row is not None and not run.stop.is_cancelled}
        if recorded and self._store is not None:
            with self._store.begin() as connection:
                cancelled = cancelled_among(connection, list(recorded))
            for called_off in cancelled:
                recorded[called_off].stop.cancel()

    def _see_to_time(self, run: Run) -> None:
        now = time.monotonic()
        if run.deadline is None or now < run.deadline:
            return
        if run.told_at is None and run.stop.time_out():
            run.told_at = now
        if now - (run.told_at or run.deadline) >= HARD_AFTER_S and not run.is_given_up:
            run.is_given_up = True
            facts = {"operation": run.contract.name, "run": run.id, "timeout_s": run.contract.timeout_s}
            line(logging.ERROR, "run.stuck", **facts, advice="it keeps a thread until it returns")
            # Beside the watch: a database that is away, or locked by this very run, must not keep others from theirs.
            threading.Thread(target=self._end, args=(run,), name="dexpy-give-up", daemon=True).start()

    def _end(self, run: Run) -> None:
        try:
            self._give_up(run)
        except Exception as error:  # noqa: BLE001 - there is nobody above this to be told
            line(logging.ERROR, "run.not_given_up", run=run.id, error=class_path(error))
