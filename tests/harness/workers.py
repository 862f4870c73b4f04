"""Deployments with real worker processes for tests.

Every process that is started here, and its children, have `MARK` in their environment. The mark identifies stray
workers of earlier tests. Its value is the pid of the test process, because other test processes may run workers too.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from harness.fork_server import CAN_FORK, ForkedProcess, ForkServer

HARNESS = Path(__file__).parent
TESTS = HARNESS.parent
ROOT = TESTS.parent
MARK = "JOURNEY_OF"
START_S = 30.0
"""How long workers may take to start, in seconds; generous for busy machines."""
# Where setpriv exists, killing the tests also kills their workers.
KILLED_WITH_PARENT = [setpriv, "--pdeathsig", "KILL"] if (setpriv := shutil.which("setpriv")) else []
STARTED = re.compile(r"worker\.started pid=(\d+)")
SECRET_FREE = {name: value for name, value in os.environ.items() if not name.startswith("DEXPY_")}

_fork_server = ForkServer(MARK)

T = TypeVar("T")


def eventually(
    observe: Callable[[], T], description: str, within_s: float = 15.0, details: Callable[[], str] = str
) -> T:
    """Poll a function until its result is true, and return the result.

    Args:
        observe: The function.
        description: The awaited state, for the message of a failure.
        within_s: The timeout in seconds.
        details: Returns more text for the message of a failure.
    """
    deadline = time.monotonic() + within_s
    while True:
        if result := observe():
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"{description}: not within {within_s:g} s\n{details()}")
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def marked_processes() -> set[int]:
    """Return the pids of the live processes with the mark of this test process."""
    pids: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in (os.getpid(), _fork_server.pid):
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if f"{MARK}={os.getpid()}".encode() in environment.split(b"\0") and is_alive(int(entry.name)):
            pids.add(int(entry.name))
    return pids


def can_be_forked(command: list[str]) -> bool:
    """Whether the fork server can start a command: ``python -m dexpy`` or a script of the tests."""
    python, *arguments = command
    is_ours = arguments[:2] == ["-m", "dexpy"] or arguments[0].endswith(".py")
    return CAN_FORK and python == sys.executable and is_ours


_numbers = itertools.count()
_open: list[Deployment] = []
"""The deployments that may have live workers."""


class Deployment:
    """A folder with a database, and the worker processes on it.

    Args:
        folder: A temporary folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "shop.db"
        self.url = f"sqlite:///{self.file}"
        self.workers: list[Worker] = []
        _open.append(self)
        # An empty file stops the search for settings in the parent folders.
        (folder / "pyproject.toml").touch()

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process of the deployment."""
        return SECRET_FREE | {
            "DEXPY_DATABASE": self.url,
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(ROOT)]),
            "PYTHONUNBUFFERED": "1",
            MARK: str(os.getpid()),
        }

    def start(self, *arguments: str, module: str = "apps.accounts", processes: int = 1, threads: int = 4) -> Worker:
        """Start ``dexpy worker`` and wait until each of its processes has started.

        Raises:
            RuntimeError: A worker of an earlier test is still alive.
        """
        worker = self.serve([sys.executable, "-m", "dexpy", "worker", module,
                             *arguments, "-p", str(processes), "-t", str(threads)])  # fmt: skip
        worker.await_started(processes)
        return worker

    def serve(self, command: list[str]) -> Worker:
        """Start a worker command without waiting until it is ready."""
        self._refuse_strays()
        worker = Worker(self, command)
        self.workers.append(worker)
        return worker

    def _refuse_strays(self) -> None:
        known = {pid for deployment in _open for worker in deployment.workers for pid in worker.processes()}
        if stray := marked_processes() - known:
            raise RuntimeError(f"workers of an earlier test are still alive: {sorted(stray)}. End them first.")

    def dexpy(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ``dexpy`` with arguments until it ends."""
        return self.run([sys.executable, "-m", "dexpy", *arguments], **environment)

    def run(self, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command until it ends."""
        variables = self.environment | environment
        # Variables of a test may affect the start of the interpreter, e.g. hide a module; then do not fork.
        if can_be_forked(command) and not environment:
            number = next(_numbers)
            output, errors = (self.folder / f"command-{number}.{kind}" for kind in ("out", "err"))
            forked = _fork_server.fork(command[1:], self.folder, variables, output, errors)
            try:
                status = forked.wait(60)
            finally:
                forked.send_signal(signal.SIGKILL)
            return subprocess.CompletedProcess(command, status, output.read_text(), errors.read_text())
        return subprocess.run(
            command, cwd=self.folder, env=variables, capture_output=True, text=True, timeout=60, check=False
        )  # fmt: skip

    def sql(self, statement: str, *parameters: Any) -> list[sqlite3.Row]:
        """Query the database with SQL, without dexpy."""
        connection = sqlite3.connect(f"file:{self.file}?mode=ro", uri=True, timeout=30)
        connection.row_factory = sqlite3.Row
        try:
            return connection.execute(statement, parameters).fetchall()
        finally:
            connection.close()

    def row(self, id: str) -> dict[str, Any]:
        """Return one record, read without dexpy."""
        (record,) = self.sql("SELECT * FROM operation_records WHERE id = ?", id)
        return dict(record)

    def status(self, id: str) -> str:
        """Return the status of one record, read without dexpy."""
        return str(self.row(id)["status"])

    def wait_for_status(self, id: str, *statuses: str, within_s: float = 15.0) -> dict[str, Any]:
        """Wait until a record has one of these statuses, and return it."""

        def observe() -> dict[str, Any] | None:
            row = self.row(id)
            return row if row["status"] in statuses else None

        return eventually(observe, f"{id} becomes {' or '.join(statuses)}", within_s, self.output)

    def effects(self, pattern: str = "%") -> list[str]:
        """Return the effects of operations, in order of their rows."""
        return [row["what"] for row in self.sql("SELECT what FROM effects WHERE what LIKE ? ORDER BY id", pattern)]

    def output(self) -> str:
        """Return the output of the workers, for the message of a failure."""
        return "\n".join(f"--- {worker.command}\n{worker.output()[-4000:]}" for worker in self.workers)

    def close(self) -> None:
        """Kill the remaining workers and their processes."""
        for worker in self.workers:
            worker.stop()
        leftover = [pid for worker in self.workers for pid in worker.processes()]
        for pid in leftover:
            os.kill(pid, signal.SIGKILL)
        _open.remove(self)
        eventually(lambda: not any(is_alive(pid) for pid in leftover), "the remaining processes end")


class Worker:
    """A running ``dexpy worker`` with its processes, or another server command.

    Args:
        deployment: The deployment of the worker.
        command: The command to start.
    """

    def __init__(self, deployment: Deployment, command: list[str]) -> None:
        self.deployment = deployment
        self.command = command
        self._log = deployment.folder / f"worker-{len(deployment.workers)}.log"
        self.process = self._begin()

    def _begin(self) -> ForkedProcess | subprocess.Popen[bytes]:
        if can_be_forked(self.command):
            return _fork_server.fork(self.command[1:], self.deployment.folder, self.deployment.environment, self._log)
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [*KILLED_WITH_PARENT, *self.command], cwd=self.deployment.folder, env=self.deployment.environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """The pid of the supervisor."""
        return self.process.pid

    def output(self) -> str:
        """Return the output so far."""
        return self._log.read_text("utf-8", errors="replace")

    def lines(self, event: str) -> list[str]:
        """Return the log lines of an event."""
        return [line for line in self.output().splitlines() if f" {event} " in line]

    def children(self) -> list[int]:
        """Return the pids of the worker processes that have reported their start."""
        return [int(pid) for pid in STARTED.findall(self.output())]

    def processes(self) -> set[int]:
        """Return the pids of the live processes in the session of the supervisor."""
        return {pid for pid in marked_processes() if self._is_in_session(pid)}

    def _is_in_session(self, pid: int) -> bool:
        try:
            return os.getsid(pid) == self.pid
        except ProcessLookupError:
            return False

    def await_started(self, processes: int) -> None:
        """Wait until this number of processes has reported its start."""

        def observe() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"{self.command} ended with {self.process.returncode}\n{self.output()}")
            return len(self.children()) >= processes

        eventually(observe, f"{processes} worker processes start", START_S, self.output)
        assert all(is_alive(pid) for pid in self.children()), self.output()

    def signal(self, number: int, *, to_all: bool = False) -> None:
        """Send a signal to the supervisor, or to the whole process group as a terminal does."""
        if to_all:
            os.killpg(self.pid, number)
        else:
            self.process.send_signal(number)

    def ended(self, within_s: float = 20.0) -> int:
        """Wait until the supervisor ends, and return its exit status."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.command} has not ended within {within_s:g} s\n{self.output()}") from None

    def stop(self) -> None:
        """Kill the worker if it is running; tests of a graceful stop send the signals themselves."""
        if self.process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
