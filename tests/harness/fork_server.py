"""A server that forks the worker processes of tests, after it has imported their common modules.

A forked worker has its own environment, folder, output and signals, and runs the command line as ``python -m dexpy``
would. This saves about a second of imports of SQLAlchemy, Dramatiq and the drivers for each process.
Nothing but imports happens before the fork: no thread, no connection, no setting.

`ForkServer` is the client in the test process; this file is also the program of the server process.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

CAN_FORK = sys.platform == "linux"
"""Whether a process may fork after its imports; elsewhere each process starts as a new interpreter."""
MAX_REQUEST_BYTES = 1 << 20
"""The maximum size of a request in bytes; most of it is the environment."""
PR_SET_PDEATHSIG = 1


class ForkedProcess:
    """A process that the fork server has started, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self._fork_server = server
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while the process runs."""
        if self.returncode is None:
            self.returncode = self._fork_server.ask({"pid": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process ends, and return its exit status.

        Raises:
            subprocess.TimeoutExpired: The process still runs after the timeout.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(0.005)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class ForkServer:
    """The client of the server process, which starts with the first fork and ends with the tests.

    Args:
        mark: An environment variable of the forked processes, with the pid of the test process.
    """

    def __init__(self, mark: str) -> None:
        self.pid: int | None = None
        self._mark = mark
        self._line: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def fork(
        self, arguments: list[str], folder: Path, environment: dict[str, str], log: Path, errors: Path | None = None
    ) -> ForkedProcess:
        """Start a process.

        Args:
            arguments: The arguments of ``python``: ``-m module ...``, or a script and its arguments.
            folder: The working folder.
            environment: The complete environment.
            log: The file of its output.
            errors: The file of its standard error; that of the output by default.
        """
        with self._lock:
            self._begin()
        outputs = [log, errors or log]
        for output in outputs:
            output.touch()
        request = {"argv": arguments, "cwd": str(folder), "env": environment, "outputs": [*map(str, outputs)]}
        pid = self.ask(request)
        return ForkedProcess(self, pid)

    def ask(self, request: dict[str, Any]) -> Any:
        """Send a request, and return the reply."""
        assert self._line is not None
        with self._lock:
            self._line.send(json.dumps(request).encode())
            reply = self._line.recv(MAX_REQUEST_BYTES)
        assert reply, "The process that starts the workers of the tests has ended."
        return json.loads(reply)

    def _begin(self) -> None:
        if self._line is not None:
            return
        self._line, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._line, child_end):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_REQUEST_BYTES)
        with child_end:
            # The module path comes from the environment of the worker, not from this process.
            environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(child_end.fileno())], env=environment | {self._mark: str(os.getpid())},
                pass_fds=[child_end.fileno()], stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.pid = self._process.pid
        atexit.register(self._end)

    def _end(self) -> None:
        assert self._line is not None
        assert self._process is not None
        self._line.close()
        self._process.wait()


def die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, so that killing the tests ends their workers."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def fork_child(request: dict[str, Any]) -> int:
    """Fork; return the pid once the child has its own session and outputs, and 0 in the child."""
    parent = os.getpid()
    reader, writer = os.pipe()
    if (pid := os.fork()) != 0:
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
        return pid
    die_with(parent)
    os.setsid()
    for number, output in enumerate(request["outputs"], start=1):
        # Both may be one file: appending keeps them from overwriting each other.
        file = os.open(output, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["cwd"])
    os.close(reader)
    os.close(writer)
    return 0


def run_command(forked: dict[str, Any], base: list[str]) -> None:
    """Run a command, as a fresh interpreter would."""
    os.environ.clear()
    os.environ.update(forked["env"])
    if os.environ.get("PYTHONUNBUFFERED"):
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    python_path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    program, *args = forked["argv"]
    if program == "-m":
        sys.path[:] = [forked["cwd"], *python_path, *base]
        sys.argv[:] = args
        runpy.run_module(args[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[:] = [str(Path(program).parent), *python_path, *base]
        sys.argv[:] = [program, *args]
        runpy.run_path(program, run_name="__main__")


def serve(line: socket.socket) -> None:
    """Fork on request, and send the exit statuses of forked processes."""
    # The first entry is the folder of the program, which differs for each process.
    base = sys.path[1:]
    while request := line.recv(MAX_REQUEST_BYTES):
        message = json.loads(request)
        reply: int | None
        if "argv" in message:
            reply = fork_child(message)
            if reply == 0:
                line.close()
                run_command(message, base)
                return
        else:
            ended_pid, status = os.waitpid(message["pid"], os.WNOHANG)
            reply = os.waitstatus_to_exitcode(status) if ended_pid else None
        line.send(json.dumps(reply).encode())


def import_what_workers_import() -> None:
    """Import the libraries that workers import.

    No module of dexpy that its command does not import: a missing import in dexpy must fail in a forked process too.
    """
    for driver in ("psycopg", "pymysql", "redis", "pika", "dramatiq.brokers.redis", "dramatiq.brokers.rabbitmq"):
        with contextlib.suppress(ImportError):
            __import__(driver)


if __name__ == "__main__":
    # Import the dexpy of this repository, even if another one is installed.
    sys.path[0] = str(Path(__file__).parents[2])
    import_what_workers_import()
    # Exclude the imported objects from garbage collection, so that the forked processes share their memory.
    gc.collect()
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))
