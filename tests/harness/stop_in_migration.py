"""Run ``dexpy``, but stop at one failpoint of a migration.

Usage: python stop_in_migration.py FOLDER ACTION NUMBER db upgrade ...

ACTION is one of:
    kill: Create the file ``reached`` in FOLDER before statement NUMBER, and kill the process.
    wait: Create ``reached`` before statement NUMBER, and wait until the file ``go`` exists.
    report: Create ``lock_requested`` before the process acquires the lock of the schema, and go on.

NUMBER counts the statements of the migration from 0; the last number is the storing of the version.
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
    """A callback of failpoints that performs the action.

    Args:
        folder: The folder of the files.
        action: kill, wait or report.
        number: The number of the statement.
    """

    def __init__(self, folder: Path, action: str, number: int) -> None:
        self._folder = folder
        self._action = action
        self._num_left = number

    def reach(self, name: str) -> None:
        """Handle a failpoint."""
        if self._action == "report":
            if name == "before_migration_lock":
                (self._folder / "lock_requested").touch()
            return
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
