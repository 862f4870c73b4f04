"""Measures a drain inside the worker processes: when the first and the last job ran, and the CPU spent between them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import attrs
import dramatiq

FOLDER = "BENCH_FOLDER"
"""The environment variable with the folder to which each process writes its figures."""


@attrs.define
class Meter:
    """What one process has seen."""

    jobs: int = 0
    first: float = 0.0
    last: float = 0.0
    cpu_first: float = 0.0
    cpu_last: float = 0.0

    def tick(self) -> None:
        """One job has run."""
        now, cpu = time.monotonic(), time.process_time()
        if self.jobs == 0:
            self.first, self.cpu_first = now, cpu
        self.jobs += 1
        self.last, self.cpu_last = now, cpu


meter = Meter()


class Report(dramatiq.Middleware):
    """Leaves the figures of the process when its worker stops."""

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
        """Write the file."""
        folder = os.environ.get(FOLDER)
        if folder is not None:
            Path(folder, f"{os.getpid()}.json").write_text(json.dumps(attrs.asdict(meter)))


@attrs.frozen
class Drain:
    """A drain over all processes.

    Attributes:
        jobs: How many ran.
        seconds: From the first to the last.
        cpu_s: Of all worker processes, meanwhile.
    """

    jobs: int
    seconds: float
    cpu_s: float

    @property
    def rate(self) -> float:
        """Jobs a second."""
        return self.jobs / self.seconds

    @property
    def cpu_per_10k(self) -> float:
        """CPU seconds of the workers for 10,000 jobs."""
        return self.cpu_s / self.jobs * 10_000

    @classmethod
    def read(cls, folder: Path) -> Drain:
        """What the processes left."""
        reports = [json.loads(file.read_text()) for file in folder.glob("*.json")]
        busy = [one for one in reports if one["jobs"]]
        return cls(
            sum(one["jobs"] for one in busy),
            max(one["last"] for one in busy) - min(one["first"] for one in busy),
            sum(one["cpu_last"] - one["cpu_first"] for one in busy),
        )
