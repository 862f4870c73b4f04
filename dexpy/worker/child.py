"""One worker process as its parent sees it: what it has reported, and what is wrong with it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import attrs

from dexpy.worker.health import Health
from dexpy.worker.process import WorkerOptions

REPORT_LATE_S = 10.0
"""A process whose last report is older than this, in seconds, is not live."""
LIVE, READY = "/live", "/ready"


@attrs.define(eq=False)
class Child:
    """One worker process, or a dead one that is to be replaced.

    Attributes:
        options: Its options.
        process: The process.
        pipe: Its reports.
        started_at: When it was started, by the monotonic clock.
        deaths: How many predecessors have died in a row.
        is_ready: Whether it has started to serve its queues.
        failure: Why it could not start, as "error" or "away" and a text; None if it could.
        health: Its last report; None before the first one.
        reported_at: When that came, by the monotonic clock.
        restart_at: When the dead process is replaced, by the monotonic clock.
        files: The files that it has loaded, as JSON, which the parent has not read yet.
        answer_until: Until when it should have answered the signal for a dump, by the monotonic clock.
    """

    options: WorkerOptions
    process: Any
    pipe: Connection
    started_at: float
    deaths: int = 0
    is_ready: bool = False
    failure: tuple[str, str] | None = None
    health: Health | None = None
    reported_at: float = 0.0
    restart_at: float | None = None
    answer_until: float | None = None
    files: list[str] = attrs.field(factory=list[str])
    _is_closed: bool = attrs.field(default=False, init=False)

    @property
    def events(self) -> list[Connection | int]:
        """What is readable when the process has reported or ended."""
        return [self.process.sentinel, *([] if self._is_closed else [self.pipe])]

    def receive(self) -> None:
        """Read all reports that have come."""
        try:
            while self.pipe.poll():
                event, text = self.pipe.recv()
                self.reported_at = time.monotonic()
                if event == "health":
                    self.health = Health.decode(text)
                elif event == "files":
                    self.files.append(text)
                elif event == "dumped":
                    self.answer_until = None
                elif event == "ready":
                    self.is_ready = True
                else:
                    self.failure = event, text
        except (EOFError, OSError):
            # It has ended, or reports nothing more.
            self._is_closed = True

    def problems(self, path: str) -> list[str]:
        """Return why the process is not live, or not ready.

        Args:
            path: ``/live`` or ``/ready``.
        """
        if not self.process.is_alive():
            # The parent replaces it, so a restart of the parent would not help.
            status = f"the process exited with status {self.process.exitcode}, and is replaced"
            return [status] if path == READY else []
        if self.health is None or self.health.is_stopping:
            doing = "starting" if self.health is None else "stopping"
            return [f"the process is {doing}"] if path == READY else []
        problems = list(self.health.live)
        late_s = time.monotonic() - self.reported_at
        if late_s > REPORT_LATE_S:
            problems.append(f"main loop: no report for {late_s:.0f} s")
        return problems if path == LIVE else [*problems, *self.health.ready]


def answer(path: str, children: Sequence[Child], *, is_stopping: bool) -> tuple[int, dict[str, Any]] | None:
    """Return status and body of the response for a path; None for an unknown path.

    Args:
        path: The path of the request.
        children: The processes.
        is_stopping: Whether all of them are being stopped.
    """
    if path not in (LIVE, READY):
        return None
    processes: list[dict[str, Any]] = []
    for child in children:
        child.receive()
        problems = child.problems(path)
        if is_stopping:
            problems = ["the worker is stopping"] if path == READY else []
        status = "failing" if problems else "ok"
        group = {"group": child.options.group} if child.options.group else {}
        processes.append({"pid": child.process.pid, **group, "status": status, "reasons": problems})
    # Without a process, for example between two restarts, no run is executed.
    is_ok = all(process["status"] == "ok" for process in processes) and (bool(processes) or path == LIVE)
    return 200 if is_ok else 503, {"status": "ok" if is_ok else "failing", "processes": processes}
