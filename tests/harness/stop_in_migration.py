"""``dexpy`` as it is, but it is killed, or waits, before one statement of a migration.

Usage: python stop_in_migration.py FOLDER ACTION NUMBER db upgrade ...

ACTION is ``kill`` or ``wait``; NUMBER counts the statements from 0, and the storing of the version after them.
It leaves a file ``reached`` in FOLDER, and waits until there is a file ``go``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from dexpy.cli.main import run
from dexpy.foundation import failpoints

LONGEST_WAIT_S = 60.0
POINTS = ("before_migration_statement", "before_migration_stamp")


class Stop:
    """What happens before each statement.

    Args:
        folder: Where the files are.
        action: kill or wait.
        number: The statement.
    """

    def __init__(self, folder: Path, action: str, number: int) -> None:
        self._folder = folder
        self._action = action
        self._num_left = number

    def reach(self, name: str) -> None:
        """Come to a failpoint."""
        if name not in POINTS:
            return
        self._num_left -= 1
        if self._num_left != -1:
            return
        (self._folder / "reached").touch()
        if self._action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        deadline = time.monotonic() + LONGEST_WAIT_S
        while not (self._folder / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.02)


if __name__ == "__main__":
    failpoints.reached = Stop(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])).reach
    run(sys.argv[4:])
