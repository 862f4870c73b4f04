"""What the demo stands on: a temporary folder with a SQLite file in it, and a worker process. Neither outlives it."""

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
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dexpy.foundation.errors import ConfigurationError

if TYPE_CHECKING:
    from dexpy.runtime import Runtime

STOP_S = 15.0
"""How long the worker may take to end after TERM, in seconds, before it is killed."""


class Worker:
    """The worker process, as anybody would start it.

    Args:
        folder: To work in.
        database: The URL for its ``DEXPY_DATABASE``.
    """

    def __init__(self, folder: Path, database: str) -> None:
        here = str(Path(__file__).parents[2])
        paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DEXPY_")}
        environment |= {"DEXPY_DATABASE": database, "PYTHONPATH": os.pathsep.join(paths)}
        self._log = folder / "worker.log"
        command = [sys.executable, "-m", "dexpy", "worker", "dexpy.cli.demo_operations", "-p", "1", "-t", "4"]
        with self._log.open("wb") as log:
            # A process group of its own: Ctrl-C reaches it through `stop`, once, and nothing of it can be left behind.
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
        """Of the process."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, None while it lives."""
        # Popen takes a lock to look. An exception that a signal raises in the middle of that leaves it taken, and
        # whoever waits for the process later waits for ever.
        with _held_back():
            return self._process.poll()

    def output(self) -> str:
        """What it has said."""
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
        """A worker that did not end by itself may have left processes of its own."""
        until = time.monotonic() + 2.0
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
            while time.monotonic() < until:
                os.killpg(self.pid, 0)
                time.sleep(0.01)


@contextmanager
def ended_by_signals() -> Generator[None]:
    """TERM and HUP end the block as Ctrl-C does, so that what comes after it is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = [(number, signal.signal(number, end)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def _held_back() -> Generator[None]:
    """Signals that end the demo come after this block."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _undisturbed() -> Generator[None]:
    """No signal ends this block half-way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = [(number, signal.signal(number, signal.SIG_IGN)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def stage() -> Generator[tuple[Runtime, Worker]]:
    """A runtime in force on a file of its own, and a worker beside it; gone at the end, with their folder."""
    from dexpy.cli.demo_operations import Customer, Model
    from dexpy.foundation.settings import Settings
    from dexpy.runtime import Runtime, install

    try:
        folder = Path(tempfile.mkdtemp(prefix="dexpy-demo-"))
    except OSError as error:
        raise ConfigurationError(
            f"The demo needs a temporary folder and cannot make one: {error}. Name a folder in TMPDIR."
        ) from None
    worker: Worker | None = None
    runtime: Runtime | None = None
    before = install(None)
    try:
        # The settings of whatever project the folder lies in are not the demo's.
        (folder / "pyproject.toml").touch()
        url = f"sqlite:///{folder / 'demo.db'}"
        runtime = Runtime(Settings(database=url, home=folder))
        install(runtime)
        Model.metadata.create_all(runtime.store.database.engine)
        with runtime.store.new_session() as session, session.begin():
            session.add(Customer(id=1, name="Ada", balance=120))
        worker = Worker(folder, url)
        yield runtime, worker
    finally:
        with _undisturbed():
            if worker is not None:
                worker.stop()
            install(before)
            if runtime is not None:
                runtime.close()
            shutil.rmtree(folder, ignore_errors=True)
