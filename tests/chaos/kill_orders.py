"""Kill orders: a file for each failpoint at which a process must kill itself; the first process there executes it.

The command line of a process defines the orders that it executes, and the probability at each pass:
``--die in_perform=0.5``. The director chooses the time; process and pass are random.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from harness.failpoint_names import check_failpoints

from chaos.journal import DEATHS, Journal

KILL_ORDERS = "kill_orders"
"""The folder of the files, in the folder of the run."""
DOOM = "enqueue_doomed"
"""The order, not a failpoint, to enqueue an operation that kills every worker that runs it."""


def chances(words: Sequence[str]) -> dict[str, float]:
    """Parse ``place=probability`` words."""
    pairs = (word.partition("=") for word in words)
    return {place: float(probability) for place, _, probability in pairs}


def die(place: str) -> NoReturn:
    """Kill this process, as ``kill -9`` does, after recording the place."""
    Journal(DEATHS).write(place, os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL did not end the process")


class FailpointActions:
    """The action at the failpoints of a process.

    Args:
        folder: The folder of the run.
        probabilities: Failpoint to the probability that a pass checks for a kill order.
    """

    def __init__(self, folder: Path, probabilities: dict[str, float]) -> None:
        check_failpoints(probabilities)
        self._folder = str(folder / KILL_ORDERS)
        self._probabilities = probabilities

    def __call__(self, place: str) -> None:
        """Kill this process if there is a kill order for a place."""
        if random.random() < self._probabilities.get(place, 0.0) and take(self._folder, place):
            die(place)


def issue(folder: Path, place: str) -> None:
    """Order one process to kill itself at a failpoint."""
    (folder / KILL_ORDERS / place).touch()


def take(folder: str, place: str) -> bool:
    """Remove a kill order; True for one process only."""
    try:
        os.unlink(f"{folder}/{place}")
    except FileNotFoundError:
        return False
    return True


def withdraw(folder: Path, place: str) -> bool:
    """Withdraw a kill order; False if a process has executed it."""
    return take(str(folder / KILL_ORDERS), place)
