"""Kill orders: a file for each place where some process is to end itself, taken by the first one that comes by.

Which kind of process takes which orders, and with what probability it does so each time it passes, is said on its
command line: ``--die in_perform=0.5``. So the harness decides when, and chance whom, and at which of many passes.
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
"""The folder of the files, in the run's own."""
DOOM = "enqueue_doomed"
"""No place to die at: asks a producer for an operation that ends every worker it runs on."""


def chances(given: Sequence[str]) -> dict[str, float]:
    """Place to probability, from ``place=probability`` words."""
    pairs = (word.partition("=") for word in given)
    return {place: float(probability) for place, _, probability in pairs}


def die(place: str) -> NoReturn:
    """End this process as ``kill -9`` does, and leave the place behind."""
    Journal(DEATHS).write(place, os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("killed, and still here")


class FailpointActions:
    """What stands at the checkpoints of a process.

    Args:
        folder: Of the run.
        probabilities: Place to the probability that a pass of it looks for a kill order.
    """

    def __init__(self, folder: Path, probabilities: dict[str, float]) -> None:
        check_failpoints(probabilities)
        self._folder = str(folder / KILL_ORDERS)
        self._probabilities = probabilities

    def __call__(self, place: str) -> None:
        """Die here, if there is a kill order for it."""
        if random.random() < self._probabilities.get(place, 0.0) and take(self._folder, place):
            die(place)


def issue(folder: Path, place: str) -> None:
    """Have one process end at a place."""
    (folder / KILL_ORDERS / place).touch()


def take(folder: str, place: str) -> bool:
    """Take a kill order off the table: for one process only."""
    try:
        os.unlink(f"{folder}/{place}")
    except FileNotFoundError:
        return False
    return True


def withdraw(folder: Path, place: str) -> bool:
    """Take a kill order back; False if a process was quicker."""
    return take(str(folder / KILL_ORDERS), place)
