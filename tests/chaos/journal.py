"""Files to which many processes append lines, each with one write, so that a kill leaves no partial line."""

from __future__ import annotations

import os
import time
from pathlib import Path

FOLDER = "CHAOS_FOLDER"
"""The variable with the folder of a run, in the environment of its processes."""


class Journal:
    """One file of lines.

    Args:
        name: The name of the file in the folder of the run.
        folder: The folder of the run; by default that of the environment.
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
        """Return all lines, as lists of words."""
        if not self.path.exists():
            return []
        return [line.split() for line in self.path.read_text().splitlines()]


DEATHS = "deaths"
"""Place, pid and time of a process that kills itself, written before the kill."""
CALLS = "calls"
"""Key, run, pid and time of each external call."""
FETCHED = "fetched"
"""Record, pid and time of each message that a worker got from the broker, and loses if it is killed."""
MARKED = "marked"
"""Record, pid and time of each row that a relay has marked as published, written before the publish."""
HANDED = "handed"
"""Record, pid and time of each of these rows after the publish."""
DELIVERIES = "deliveries"
"""Id and time of each delivery of a message to a thread of a worker."""
COMMITTED = "committed"
"""The keys that a producer has committed, written after the commit."""
ROLLED_BACK = "rolled_back"
"""The keys that a producer has rolled back."""
REPEATED = "repeated"
"""The keys whose message a producer has published a second time."""
