"""Real worker processes for a policy test, on a pair of a database and a broker."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import servers

import dexpy
from harness.pairs import Pair
from harness.workers import HARNESS, Worker

ON_SERVERS = pytest.mark.parametrize(
    "pair",
    [
        pytest.param("postgresql+redis", marks=pytest.mark.servers),
        pytest.param("mariadb+sql", marks=[pytest.mark.servers, pytest.mark.wide]),
        pytest.param("postgresql+rabbitmq", marks=[pytest.mark.servers, pytest.mark.wide]),
    ],
    indirect=True,
)
"""For a test that says nothing of SQLite, where a frozen process is alive as long as it has its lock file."""
RECOVER_WITHIN_S = 5
"""The shortest promise that there is: what a dead process held is free again by then."""


class PolicyPair(Pair):
    """A pair whose workers, and this process, take up soon what was lost: `recover_within_s`, before they start."""

    recover_within_s = RECOVER_WITHIN_S

    @property
    def environment(self) -> dict[str, str]:
        """For a process of the pair."""
        return super().environment | {"DEXPY_RECOVER_WITHIN": str(self.recover_within_s)}

    def configure(self) -> dexpy.Runtime:
        """Put this pair in force for the process of the tests."""
        self.runtime = dexpy.configure(database=self.url, broker=self.broker, recover_within=self.recover_within_s)
        return self.runtime

    def start_killed_at(self, *points: str, threads: int = 4) -> Worker:
        """Start a worker that dies, as by ``kill -9``, where it first comes to one of these checkpoints.

        A point may be ``name=wait``: the first process there waits until `release_waiting`; see
        ``harness/die_at_failpoints.py``.
        """
        script = [sys.executable, str(HARNESS / "die_at_failpoints.py"), str(self.folder), ",".join(points)]
        worker = self.serve([*script, "worker", self.application.__name__, "-p", "1", "-t", str(threads)])
        worker.await_started(1)
        return worker

    def reached(self, point: str) -> int | None:
        """The process that came to a checkpoint first, if one did."""
        file = self.folder / point
        return int(file.read_text().split()[0]) if file.exists() else None

    def release_waiting(self, point: str | None = None) -> None:
        """Let the processes continue that wait at a checkpoint, or at any."""
        (self.folder / ("go" if point is None else f"go.{point}")).touch()


@contextmanager
def open_pair(name: str, folder: Path, application: ModuleType) -> Generator[PolicyPair]:
    """A pair, e.g. ``postgresql+redis``, with the application's tables.

    Args:
        name: Of the pair.
        folder: A temporary one.
        application: The module of its operations; its ``create_tables(engine)`` makes its tables.
    """
    kind, _, transport = name.partition("+")
    with servers.database(kind, folder) as url, servers.broker(transport) as broker:
        pair = PolicyPair(folder, url, broker, application)
        try:
            pair.create_tables()
            yield pair
        finally:
            pair.close()
