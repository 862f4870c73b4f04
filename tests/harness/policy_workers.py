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
"""The pairs of tests that do not apply to SQLite: there a frozen process stays alive while it holds its lock file."""
RECOVER_WITHIN_S = 5
"""The lowest possible recovery interval in seconds; after it the locks and slots of a dead process are free."""


class PolicyPair(Pair):
    """A pair whose processes recover lost runs within `recover_within_s`; set it before they start."""

    recover_within_s = RECOVER_WITHIN_S

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process of the pair."""
        return super().environment | {"DEXPY_RECOVER_WITHIN": f"{self.recover_within_s}s"}

    def configure(self) -> dexpy.Runtime:
        """Configure dexpy in the test process with this pair."""
        self.runtime = dexpy.configure(database=self.url, broker=self.broker, recover_within=self.recover_within_s)
        return self.runtime

    def start_killed_at(self, *points: str, threads: int = 4) -> Worker:
        """Start a worker that is killed, as by ``kill -9``, when it first reaches one of these failpoints.

        At ``name=wait`` the process waits until `release_waiting` instead; see ``harness/die_at_failpoints.py``.
        """
        script = [sys.executable, str(HARNESS / "die_at_failpoints.py"), str(self.folder), ",".join(points)]
        worker = self.serve([*script, "worker", self.application.__name__, "-p", "1", "-t", str(threads)])
        worker.await_started(1)
        return worker

    def reached(self, point: str) -> int | None:
        """Return the pid of the first process at a failpoint; None if none has reached it."""
        file = self.folder / point
        return int(file.read_text().split()[0]) if file.exists() else None

    def release_waiting(self, point: str | None = None) -> None:
        """Release the processes that wait at a failpoint; without a name, at every failpoint."""
        (self.folder / ("go" if point is None else f"go.{point}")).touch()


@contextmanager
def open_pair(name: str, folder: Path, application: ModuleType) -> Generator[PolicyPair]:
    """Open a pair, e.g. ``postgresql+redis``, with the application's tables.

    Args:
        name: The name of the pair.
        folder: A temporary folder.
        application: The module of its operations, with a function ``create_tables(engine)``.
    """
    kind, _, transport = name.partition("+")
    with servers.database(kind, folder) as url, servers.broker(transport) as broker:
        pair = PolicyPair(folder, url, broker, application)
        try:
            pair.create_tables()
            yield pair
        finally:
            pair.close()
