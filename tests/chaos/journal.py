"""Files to which many processes append lines, each with one write, so that a kill leaves no partial line."""

from __future__ import annotations

import os
import time
from pathlib import Path

FOLDER = "CHAOS_FOLDER"
"""Names the folder of a run in the environment of its processes."""


class Journal:
    """One such file.

    Args:
        name: Of the file, in the run's folder.
        folder: Of the run; from the environment when left out.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        self.path = (folder or Path(os.environ[FOLDER])) / name
        self._file: int | None = None

    def write(self, *words: object, safely: bool = False) -> None:
        """Append a line of words and the time.

        Args:
            words: Words without spaces.
            safely: Whether to sync it to the disk.
        """
        if self._file is None:
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(self._file, f"{' '.join(map(str, words))} {time.time():.6f}\n".encode())
        if safely:
            os.fsync(self._file)

    def lines(self) -> list[list[str]]:
        """All lines, as words."""
        if not self.path.exists():
            return []
        return [line.split() for line in self.path.read_text().splitlines()]


DEATHS = "deaths"
"""Place, pid and time of a process that kills itself, written just before."""
CALLS = "calls"
"""Key, run, pid and time of each external call."""
FETCHED = "fetched"
"""The record of each message that a worker took from the broker, and its pid: it may die with it in hand."""
MARKED = "marked"
"""The record of each message that a relay is about to publish, and its pid; the row is already marked as published."""
HANDED = "handed"
"""The same, after the broker has taken it."""
DELIVERIES = "deliveries"
"""Id of each message that reached a thread of a worker, as often as it did."""
COMMITTED = "committed"
"""The keys of what a producer has committed, written after the commit."""
ROLLED_BACK = "rolled_back"
"""The keys of what a producer has rolled back."""
REPEATED = "repeated"
"""The keys of what a producer has sent a second time, on purpose."""
