"""Real worker processes for a policy test, on a pair of a database and a broker."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import servers
from pairs import HERE as CONFORMANCE
from pairs import Pair
from workers import Worker

import dexpy

HERE = Path(__file__).parent
ON_SERVERS = pytest.mark.parametrize(
    "crew",
    [
        pytest.param("postgresql+redis", marks=pytest.mark.servers),
        pytest.param("mariadb+sql", marks=[pytest.mark.servers, pytest.mark.wide]),
        pytest.param("postgresql+rabbitmq", marks=[pytest.mark.servers, pytest.mark.wide]),
    ],
    indirect=True,
)
"""For a test that says nothing of SQLite, where a frozen process is alive as long as it has its lock file."""
RESCUE_WITHIN_S = 5
"""The shortest promise that there is: what a dead process held is free again by then."""


class Crew(Pair):
    """A pair whose workers, and this process, take up soon what was lost."""

    @property
    def environment(self) -> dict[str, str]:
        """For a process of the crew."""
        outer = super().environment
        path = os.pathsep.join([str(HERE), outer["PYTHONPATH"]])
        return outer | {"PYTHONPATH": path, "DEXPY_RESCUE_WITHIN": str(RESCUE_WITHIN_S)}

    def configure(self) -> dexpy.Runtime:
        """Put this pair in force for the process of the tests."""
        self.runtime = dexpy.configure(database=self.url, broker=self.broker, rescue_within=RESCUE_WITHIN_S)
        return self.runtime

    def start_deadly(self, *points: str, threads: int = 4) -> Worker:
        """Start a worker that dies, as by ``kill -9``, where it first comes to one of these checkpoints.

        A point may be ``name=wait``: whoever comes there first waits until `let_go`. See ``conformance/deadly.py``.
        """
        script = [sys.executable, str(CONFORMANCE / "deadly.py"), str(self.folder), ",".join(points)]
        worker = self.serve([*script, "worker", self.application.__name__, "-p", "1", "-t", str(threads)])
        worker.await_started(1)
        return worker

    def reached(self, point: str) -> int | None:
        """The process that came to a checkpoint first, if one did."""
        file = self.folder / point
        return int(file.read_text().split()[0]) if file.exists() else None

    def let_go(self) -> None:
        """Let those go on that wait at a checkpoint."""
        (self.folder / "go").touch()


@contextmanager
def opened(name: str, folder: Path, application: ModuleType) -> Generator[Crew]:
    """A crew on a pair, ``postgresql+redis`` for one, with the application's tables.

    Args:
        name: Of the pair.
        folder: A temporary one.
        application: The module of its operations; its ``furnish(engine)`` makes its tables.
    """
    kind, _, carrier = name.partition("+")
    with servers.database(kind, folder) as url, servers.broker(carrier) as broker:
        found = Crew(folder, url, broker, application)
        try:
            found.furnish()
            yield found
        finally:
            found.close()
