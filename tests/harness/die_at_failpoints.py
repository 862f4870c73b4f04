"""The ``dexpy`` command; the first process that reaches a failpoint is killed or frozen, or waits.

Usage: python die_at_failpoints.py FOLDER POINTS worker MODULE ...
       python die_at_failpoints.py FOLDER POINTS enqueue

POINTS are names of failpoints separated by commas, each with an optional action:
    before_commit: Kill the process, as by ``kill -9``.
    before_commit=wait: Wait until FOLDER has a file ``go`` or ``go.before_commit``.
    before_commit=freeze: Stop the process, as by ``kill -STOP``.

The first process writes its pid, the time and its worker id to a file in FOLDER with the name of the failpoint; later
processes continue without an action. ``enqueue`` enqueues in a separate process for each failpoint.
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
    """A callback of failpoints that performs the actions.

    Args:
        folder: The folder of the files.
        points: The failpoints and actions, as on the command line.
    """

    def __init__(self, folder: Path, points: str) -> None:
        self._folder = folder
        self._actions = {
            name: action for name, _, action in (point.partition("=") for point in points.split(",") if point)
        }
        check_failpoints(self._actions)

    def reach(self, name: str) -> None:
        """Perform the action of a failpoint, if it has one."""
        if name not in self._actions or not self._is_first(name):
            return
        if self._actions[name] == "freeze":
            # The thread may run on for a moment before the kernel stops it.
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
        # Write to another file first, so that no reader gets a part of it; the link succeeds in one process only.
        draft = self._folder / f"{name}.{os.getpid()}.{threading.get_ident()}"
        heartbeat = dexpy.current_runtime().services.heartbeat
        worker_ids = heartbeat.worker_ids if heartbeat is not None else ()
        draft.write_text(" ".join([str(os.getpid()), str(time.time()), *worker_ids[-1:]]))
        try:
            os.link(draft, self._folder / name)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True


def enqueue(folder: Path, points: list[str]) -> None:
    """Enqueue once for each failpoint, in a separate process, and print the exit statuses."""
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
