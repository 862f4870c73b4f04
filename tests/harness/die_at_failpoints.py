"""``dexpy`` as it is, but the first process that comes to a named point dies there, as by ``kill -9``, or waits.

Usage: python die_at_failpoints.py FOLDER POINTS worker MODULE ...
       python die_at_failpoints.py FOLDER POINTS enqueue

POINTS are joined by commas: ``before_commit`` dies there, ``before_commit=wait`` waits until FOLDER has a file ``go``
or ``go.before_commit``, ``before_commit=freeze`` stops the whole process, as by ``kill -STOP``.
Who came first leaves a file of the point's name in FOLDER, with its pid, the moment and its name among the workers;
all others pass.
With ``enqueue`` there is one process for each point, which enqueues the point's number.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import dexpy
from dexpy.cli.main import run
from dexpy.foundation import failpoints
from harness.failpoint_names import check_failpoints

GO = "go"
LONGEST_WAIT_S = 60.0


class FailpointActions:
    """What happens at the points.

    Args:
        folder: Where the files are.
        points: As on the command line.
    """

    def __init__(self, folder: Path, points: str) -> None:
        self._folder = folder
        self._actions = {
            name: action for name, _, action in (point.partition("=") for point in points.split(",") if point)
        }
        check_failpoints(self._actions)

    def reach(self, name: str) -> None:
        """Come to a point."""
        if name not in self._actions or not self._is_first(name):
            return
        if self._actions[name] == "freeze":
            # It may take a moment until this very thread stops.
            os.kill(os.getpid(), signal.SIGSTOP)
        if self._actions[name] in ("wait", "freeze"):
            deadline = time.monotonic() + LONGEST_WAIT_S
            released = (self._folder / GO, self._folder / f"{GO}.{name}")
            while not any(file.exists() for file in released) and time.monotonic() < deadline:
                time.sleep(0.02)
        else:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(LONGEST_WAIT_S)

    def _is_first(self, name: str) -> bool:
        if (self._folder / name).exists():
            return False
        # Written before it has its name, so that nobody reads half of it; a name is given once.
        draft = self._folder / f"{name}.{os.getpid()}.{threading.get_ident()}"
        heartbeat = dexpy.current_runtime().services.heartbeat
        worker_ids = heartbeat.own_ids if heartbeat is not None else ()
        draft.write_text(" ".join([str(os.getpid()), str(time.time()), *worker_ids[-1:]]))
        try:
            os.link(draft, self._folder / name)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True


def enqueue(folder: Path, points: list[str]) -> None:
    """Enqueue once for each point, each time in a process of its own, and say how these have ended."""
    from apps import shop_failpoints

    pids = []
    for number, point in enumerate(points):
        if (pid := os.fork()) == 0:
            failpoints.reached = FailpointActions(folder, point).reach
            shop_failpoints.enqueue(number)
            os._exit(0)
        pids.append(pid)
    print(*(f"{pid}:{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}" for pid in pids))


if __name__ == "__main__":
    if sys.argv[3] == "enqueue":
        enqueue(Path(sys.argv[1]), sys.argv[2].split(","))
    else:
        failpoints.reached = FailpointActions(Path(sys.argv[1]), sys.argv[2]).reach
        run(sys.argv[3:])
