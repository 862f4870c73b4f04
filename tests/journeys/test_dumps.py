"""The signal that shows what runs where: every process logs the run and the stack of each of its threads."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

from harness.workers import Deployment, Worker, eventually

from dexpy.worker.dumps import MAX_FRAMES, stack_of

WAIT_S = 30.0
SECRET = "hunter2hunter2"
APPLICATION = """
import ctypes, os, time
from apps.accounts import AccountsOperation
from dexpy import prop


class WaitForFile(AccountsOperation):
    path: str
    password: str = prop(sensitive=True)

    def perform(self) -> None:
        local = self.password
        wait_for(self.path)
        self.note("waited")


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.02)


class HoldInterpreter(AccountsOperation):
    fifo: str

    def perform(self) -> None:
        hold(self.fifo)
        self.note("held")


def hold(fifo):
    # PyDLL keeps the interpreter's lock during the call, which waits for a writer.
    ctypes.PyDLL(None).open(fifo.encode(), os.O_RDONLY)
"""


def dumped(worker: Worker, event: str) -> list[dict[str, Any]]:
    """Return the JSON lines of an event."""
    lines = [json.loads(line) for line in worker.output().splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == event]


def enqueue(deployment: Deployment, code: str) -> str:
    """Enqueue an operation of the application, and return the id of its run."""
    enqueued = deployment.run([sys.executable, "-c", f"from dumping import *; print({code}.async_().call().id)"])
    return enqueued.stdout.strip()


def test_a_signal_shows_the_run_and_the_stack_of_each_thread_of_all_processes(deployment: Deployment) -> None:
    (deployment.folder / "dumping.py").write_text(APPLICATION)
    gate = deployment.folder / "gate"
    command = [sys.executable, "-m", "dexpy", "worker", "dumping", "-p", "2", "-t", "1", "--log-format", "json"]
    worker = deployment.serve(command)
    eventually(lambda: len(dumped(worker, "worker.started")) == 2, "both processes start", WAIT_S, worker.output)
    pids = {line["pid"] for line in dumped(worker, "worker.started")}
    waiting = enqueue(deployment, f"WaitForFile(path={str(gate)!r}, password={SECRET!r})")
    deployment.wait_for_status(waiting, "running", within_s=WAIT_S)

    worker.signal(signal.SIGUSR1)
    eventually(lambda: len(dumped(worker, "worker.dumped")) == 2, "both processes answer", WAIT_S, worker.output)
    eventually(
        lambda: (
            len(dumped(worker, "thread.dumped")) >= sum(line["threads"] for line in dumped(worker, "worker.dumped"))
        ),
        "each thread is logged",
        WAIT_S,
        worker.output,
    )

    threads = dumped(worker, "thread.dumped")
    (with_run,) = [line for line in threads if "run_id" in line]
    assert (with_run["operation"], with_run["run_id"], with_run["attempt"]) == ("dumping.WaitForFile", waiting, 1)
    assert with_run["duration_ms"] > 0
    assert with_run["started_at"] < with_run["timestamp"].replace("Z", "+00:00")
    assert [f"in {name}" in with_run["stack"] for name in ("perform", "wait_for")] == [True, True]
    assert f'File "{deployment.folder}/dumping.py", line ' in with_run["stack"]
    assert {line["pid"] for line in threads} == pids
    assert all(line["stack"].startswith("Stack (most recent call last):\n  File ") for line in threads)
    assert SECRET not in worker.output()

    # One thread holds the interpreter's lock of its process, so that no Python code runs there.
    fifo = deployment.folder / "fifo"
    os.mkfifo(fifo)
    held = enqueue(deployment, f"HoldInterpreter(fifo={str(fifo)!r})")
    deployment.wait_for_status(held, "running", within_s=WAIT_S)
    worker.signal(signal.SIGUSR1)
    eventually(lambda: "in hold" in worker.output().split("worker.unresponsive")[-1], "the stack of the native call",
               WAIT_S, worker.output)  # fmt: skip
    (unresponsive,) = dumped(worker, "worker.unresponsive")
    claimed_by = deployment.row(held)["claimed_by"]
    assert claimed_by is None or int(claimed_by.split(":")[1]) != with_run["pid"]
    assert unresponsive["level"] == "WARNING"
    os.close(os.open(fifo, os.O_WRONLY))

    gate.touch()
    for run in (waiting, held):
        assert deployment.wait_for_status(run, "done", within_s=WAIT_S)["num_attempts"] == 1
    assert sorted(deployment.effects()) == ["held", "waited"]
    assert set(pids) == {line["pid"] for line in dumped(worker, "worker.started")}, "no process was replaced"


def test_a_starting_process_shows_where_its_import_waits_and_its_error_is_not_lost(deployment: Deployment) -> None:
    gate = deployment.folder / "gate"
    (deployment.folder / "slow_import.py").write_text(
        "import os, time\n"
        "print('importing', flush=True)\n"
        f"while not os.path.exists({str(gate)!r}):\n"
        "    time.sleep(0.02)\n"
        "raise RuntimeError('the shelf is empty')\n"
    )
    worker = deployment.serve([sys.executable, "-m", "dexpy", "worker", "slow_import", "-p", "2"])
    eventually(lambda: worker.output().count("importing") == 2, "the import begins", WAIT_S, worker.output)

    worker.signal(signal.SIGUSR1)
    eventually(lambda: worker.output().count("slow_import.py") >= 2, "the stacks show it", WAIT_S, worker.output)
    gate.touch()

    assert worker.ended() == 2
    assert "the shelf is empty" in worker.output()


def test_without_a_dump_signal_no_handler_is_installed(deployment: Deployment) -> None:
    worker = deployment.start("--dump-signal", "off", threads=1)

    worker.signal(signal.SIGUSR1)

    assert worker.ended() == -signal.SIGUSR1


def test_a_deep_stack_is_cut_at_its_outer_end() -> None:
    def descend(depth: int) -> str:
        return descend(depth - 1) if depth else stack_of(sys._getframe())

    lines: list[str] = []
    thread = threading.Thread(target=lambda: lines.extend(descend(300).splitlines()))
    thread.start()
    thread.join()

    assert len(lines) == MAX_FRAMES + 2
    assert "outer frames" in lines[1]
    assert lines[-1].endswith("in descend")
