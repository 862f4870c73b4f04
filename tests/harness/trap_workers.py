"""The deployment of the trap tests: a database with real worker processes."""

from __future__ import annotations

import abc
import sqlite3
import sys
from pathlib import Path
from typing import Any

from apps import mailer

import dexpy
from harness.workers import HARNESS, Deployment, Worker, eventually

RECOVER_WITHIN_S = 5
"""The lowest possible recovery interval, in seconds."""
BEGIN_S = 30.0
"""How long a run may take to start, e.g. after a recovery, in seconds; generous for busy machines."""


class BatchRuns(abc.ABC):
    """Methods to start and observe runs of `mailer.SendBatch`, on any deployment."""

    folder: Path

    @abc.abstractmethod
    def output(self) -> str:
        """Return the output of the workers, for the message of a failure."""

    def send_batch(self, batch: int) -> dexpy.Ticket[int]:
        """Enqueue a run that waits for its gate file."""
        return mailer.SendBatch(folder=str(self.folder), batch=batch).async_().call()

    def events_of(self, batch: int) -> list[tuple[str, int]]:
        """Return the events that the runs of a batch have logged, with their pids."""
        file = self.folder / f"events-{batch}"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(event, int(pid)) for event, pid in (line.split() for line in lines)]

    def wait_until_begun(self, batch: int, times: int = 1) -> int:
        """Wait until a batch has started this number of times, and return the pid of the last start."""

        def observe() -> int | None:
            pids = [pid for event, pid in self.events_of(batch) if event == "begun"]
            return pids[times - 1] if len(pids) >= times else None

        return eventually(observe, f"batch {batch} has started {times} times", BEGIN_S, self.output)

    def open_gate(self, batch: int) -> None:
        """Create the gate file of a batch, so that its run continues."""
        (self.folder / f"gate-{batch}").touch()


class TrapDeployment(Deployment, BatchRuns):
    """A deployment with a short recovery interval.

    Args:
        folder: A temporary folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.recover_within_s = RECOVER_WITHIN_S
        mailer.create_tables(self.url)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process of this deployment."""
        return super().environment | {"DEXPY_RECOVER_WITHIN": f"{self.recover_within_s}s"}

    def start(self, *arguments: str, module: str = "apps.mailer", processes: int = 1, threads: int = 4) -> Worker:
        """Start ``dexpy worker``; see `Deployment.start`."""
        return super().start(*arguments, module=module, processes=processes, threads=threads)

    def start_ahead(self, seconds: float) -> Worker:
        """Start a worker with a shifted clock; see `start_ahead`."""
        return start_ahead(self, seconds)

    def change(self, statement: str, *parameters: Any) -> None:
        """Change the database with SQL, without dexpy."""
        connection = sqlite3.connect(self.file, timeout=30)
        with connection:
            connection.execute(statement, parameters)
        connection.close()


def start_ahead(deployment: Deployment, seconds: float, threads: int = 4) -> Worker:
    """Start a worker whose clock is ahead by a number of seconds; behind for a negative number."""
    script = [sys.executable, str(HARNESS / "shifted_clock.py"), str(seconds)]
    worker = deployment.serve([*script, "worker", "apps.mailer", "-p", "1", "-t", str(threads)])
    worker.await_started(1)
    return worker
