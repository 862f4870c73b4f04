"""The environment of the demo: a temporary folder with a SQLite file, and a worker process; both end with it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from dexpy.foundation.errors import ConfigurationError

if TYPE_CHECKING:
    from dexpy.runtime import Runtime

STOP_S = 15.0
"""How long the worker may take to end after TERM, in seconds, before it is killed."""


class Worker:
    """The worker process, started by the command line.

    Args:
        folder: Its working folder.
        database: The URL for its ``DEXPY_DATABASE``.
    """

    def __init__(self, folder: Path, database: str) -> None:
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DEXPY_")}
        environment |= {"DEXPY_DATABASE": database, "PYTHONPATH": os.pathsep.join(paths)}
        self._log = folder / "worker.log"
        command = [sys.executable, "-m", "dexpy", "worker", "dexpy.cli.demo_operations", "-p", "1", "-t", "4"]
        with self._log.open("wb") as log:
            # A process group of its own: Ctrl-C reaches it once, through `stop`, and all of it can be killed.
            self._process = subprocess.Popen(  # noqa: S603 - this very program
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0 if os.name == "posix" else None,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        # Popen polls under a lock. An exception raised by a signal leaves it locked, and a later wait never ends.
        with _signals_blocked():
            return self._process.poll()

    def output(self) -> str:
        """Return what it has written so far."""
        return self._log.read_text("utf-8", errors="replace")

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        if self.status is None:
            self._process.terminate()
        try:
            status = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        if status != 0 and os.name == "posix":
            self._end_group()

    def _end_group(self) -> None:
        """Kill what a worker that did not end by itself may have left running."""
        deadline = time.monotonic() + 2.0
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
            while time.monotonic() < deadline:
                os.killpg(self.pid, 0)
                time.sleep(0.01)


@contextmanager
def ended_by_signals() -> Generator[None]:
    """Let TERM and HUP end the block as Ctrl-C does, so that the cleanup after it runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    with _handled_by(end, "SIGTERM", "SIGHUP"):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], Any] | signal.Handlers, *names: str) -> Generator[None]:
    """Handle signals in another way inside this block."""
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    previous_handlers = [(number, signal.signal(number, handler)) for number in numbers]
    try:
        yield
    finally:
        for number, previous in previous_handlers:
            signal.signal(number, previous)


@contextmanager
def _signals_blocked() -> Generator[None]:
    """Deliver signals that end the demo after this block."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)


@contextmanager
def _signals_ignored() -> Generator[None]:
    """Ignore signals inside this block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handled_by(signal.SIG_IGN, "SIGINT", "SIGTERM", "SIGHUP"):
        yield


@contextmanager
def demo_environment() -> Generator[tuple[Runtime, Worker]]:
    """Install a runtime with a temporary database, start a worker, and remove both after the block."""
    from dexpy.cli.demo_operations import Customer, Model
    from dexpy.configuration.settings import Settings
    from dexpy.runtime import Runtime, install

    try:
        folder = Path(tempfile.mkdtemp(prefix="dexpy-demo-"))
    except OSError as error:
        raise ConfigurationError(
            f"Cannot create a temporary folder for the demo: {error}. Set TMPDIR to a writable folder."
        ) from None
    worker: Worker | None = None
    runtime: Runtime | None = None
    previous_runtime = install(None)
    try:
        # Keeps the settings of a project around the temporary folder out of the demo.
        (folder / "pyproject.toml").touch()
        url = f"sqlite:///{folder / 'demo.db'}"
        runtime = Runtime(Settings(database=url, home=folder))
        install(runtime)
        runtime.start()
        Model.metadata.create_all(runtime.store.database.engine)
        with runtime.store.new_session() as session, session.begin():
            session.add(Customer(id=1, name="Ada", balance=120))
        worker = Worker(folder, url)
        yield runtime, worker
    finally:
        with _signals_ignored():
            if worker is not None:
                worker.stop()
            install(previous_runtime)
            if runtime is not None:
                runtime.close()
            shutil.rmtree(folder, ignore_errors=True)
