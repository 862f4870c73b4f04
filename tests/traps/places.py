"""A place to work in: a database of one's own, with real worker processes on it."""

from __future__ import annotations

import abc
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import harbour
from workers import Shop, Worker, eventually

import dexpy

HERE = Path(__file__).parent
RESCUE_WITHIN_S = 5
"""The shortest promise that there is."""
BEGIN_S = 30.0
"""How long a run may take to begin, after a rescue for one, in seconds: a busy machine is no failure."""


class Crates(abc.ABC):
    """What tests do with `harbour.Unload`, wherever it runs."""

    folder: Path

    @abc.abstractmethod
    def tell(self) -> str:
        """More about a failure."""

    def unload(self, crate: int) -> dexpy.Ticket[int]:
        """Send one that waits at its gate."""
        return harbour.Unload(folder=str(self.folder), crate=crate).async_().call()

    def said(self, crate: int) -> list[tuple[str, int]]:
        """What the runs of one crate have said so far, and in which process."""
        file = self.folder / f"said-{crate}"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(what, int(pid)) for what, pid in (line.split() for line in lines)]

    def begun(self, crate: int, times: int = 1) -> int:
        """Wait until one has begun so often; the process of the last time."""

        def look() -> int | None:
            pids = [pid for what, pid in self.said(crate) if what == "begun"]
            return pids[times - 1] if len(pids) >= times else None

        return eventually(look, f"crate {crate} is begun {times} times", BEGIN_S, self.tell)

    def open_gate(self, crate: int) -> None:
        """Let one go on."""
        (self.folder / f"gate-{crate}").touch()


class Place(Shop, Crates):
    """A folder with a database of one's own, whose workers take up soon what was lost.

    Args:
        folder: A temporary one.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.rescue_within_s = RESCUE_WITHIN_S
        harbour.furnish(self.url)

    @property
    def environment(self) -> dict[str, str]:
        """For a process of this place."""
        path = os.pathsep.join([str(HERE), super().environment["PYTHONPATH"]])
        return super().environment | {"PYTHONPATH": path, "DEXPY_RESCUE_WITHIN": str(self.rescue_within_s)}

    def start(self, *arguments: str, module: str = "harbour", processes: int = 1, threads: int = 4) -> Worker:
        """Start ``dexpy worker``; see `Shop.start`."""
        return super().start(*arguments, module=module, processes=processes, threads=threads)

    def start_ahead(self, seconds: float) -> Worker:
        """Start a worker on a machine whose clock is ahead."""
        return start_ahead(self, seconds)

    def change(self, statement: str, *parameters: Any) -> None:
        """Change the file by plain SQL, without dexpy."""
        connection = sqlite3.connect(self.file, timeout=30)
        with connection:
            connection.execute(statement, parameters)
        connection.close()


def start_ahead(shop: Shop, seconds: float, threads: int = 4) -> Worker:
    """Start a worker on a machine whose clock is so many seconds ahead, or behind."""
    script = [sys.executable, str(HERE / "ahead.py"), str(seconds)]
    worker = shop.serve([*script, "worker", "harbour", "-p", "1", "-t", str(threads)])
    worker.await_started(1)
    return worker
