"""A pair of database and broker, with a worker process whose threads, CPU and log are measured."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import attrs
import servers

import dexpy
from dexpy.runtime import install
from hostile.application import WITHOUT_VALIDATOR

PAIRS = ("sqlite+sql", "postgresql+redis", "mariadb+rabbitmq")
ROOT = Path(__file__).parents[2]
RECOVER_WITHIN_S = 5
START_S = 60
DEATHS = ("worker.thread_died", "worker.died", "worker.killed", "worker.stuck")


@attrs.define
class Stage:
    """The system under attack.

    Attributes:
        database: The URL of the database.
        broker: The URL of the broker; None for the SQL broker.
        worker: The supervisor of one worker process.
        log: The log of supervisor and worker process.
    """

    database: str
    broker: str | None
    worker: subprocess.Popen[bytes]
    log: Path

    def text(self) -> str:
        """Return the log so far."""
        return self.log.read_text(errors="replace")

    def deaths(self) -> int:
        """Return the number of dead threads and processes."""
        text = self.text()
        return sum(text.count(event) for event in DEATHS) + (self.worker.poll() is not None)

    def pid(self) -> int:
        """Return the pid of the worker process."""
        children = Path(f"/proc/{self.worker.pid}/task/{self.worker.pid}/children").read_text().split()
        return int(children[0])

    def threads(self) -> int:
        """Return the number of threads of the worker process."""
        return len(os.listdir(f"/proc/{self.pid()}/task"))

    def cpu_s(self) -> float:
        """Return the CPU time of the worker process, in seconds."""
        fields = Path(f"/proc/{self.pid()}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for(holds: Callable[[], bool], within_s: float) -> bool:
    """Wait for a condition; False if it does not become true in time."""
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextlib.contextmanager
def open_stage(pair: str, folder: Path, *, validates: bool = True) -> Generator[Stage]:
    """Start a worker on a pair, and configure dexpy for the pair in this process."""
    kind, _, transport = pair.partition("+")
    with servers.database(kind, folder) as database, servers.broker(transport) as broker:
        runtime = dexpy.configure(database=database, broker=broker, create_tables=True, recover_within=RECOVER_WITHIN_S)
        runtime.dispatcher.require_tables()
        environment: dict[str, Any] = {
            **os.environ,
            "DEXPY_DATABASE": database,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        }
        environment |= {"DEXPY_RECOVER_WITHIN": f"{RECOVER_WITHIN_S}s"}
        environment |= {} if broker is None else {"DEXPY_BROKER": broker}
        environment |= {} if validates else {WITHOUT_VALIDATOR: "1"}
        command = [sys.executable, "-m", "dexpy", "worker", "hostile.application", "-p", "1", "-t", "2"]
        log = folder / "worker.log"
        with log.open("wb") as sink:
            worker = subprocess.Popen(command, cwd=folder, env=environment, stdout=sink, stderr=sink)
        try:
            stage = Stage(database, broker, worker, log)
            if not wait_for(lambda: "worker.started" in stage.text(), START_S):
                raise RuntimeError(f"the worker did not start: {stage.text()}")
            yield stage
        finally:
            worker.terminate()
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
            runtime.close()
            install(None)
