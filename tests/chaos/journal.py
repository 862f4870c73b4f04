"""Files that many processes append lines to, each line written at once: they are whole whoever is killed meanwhile."""

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
        """Append a line of words, with the moment as the last one.

        Args:
            words: Without spaces in them.
            safely: Return when it is on the disk.
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
"""Place, pid and moment of whoever ended itself, written just before."""
CALLS = "calls"
"""Key, run, pid and moment of each call to the outside world."""
FETCHED = "fetched"
"""The record of each message that a worker took from the broker, and its pid: it may die with it in hand."""
MARKED = "marked"
"""The record of each message that a relay is about to send, and its pid: the row says by then that it was sent."""
HANDED = "handed"
"""The same, after the broker has taken it."""
DELIVERIES = "deliveries"
"""Id of each message that reached a thread of a worker, as often as it did."""
COMMITTED = "committed"
"""The keys of what a producer has committed, written after the commit."""
UNDONE = "undone"
"""The keys of what a producer has rolled back."""
REPEATED = "repeated"
"""The keys of what a producer has sent a second time, on purpose."""
