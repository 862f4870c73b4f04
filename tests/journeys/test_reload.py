"""`--reload`: the processes restart when a file of the application or its configuration changes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from apps.accounts import AccountsOperation
from click.testing import CliRunner
from harness.workers import Deployment, Worker, eventually, is_alive

from dexpy.cli.main import main
from dexpy.worker.reloading import FileWatcher

WAIT_S = 40.0
APPLICATION = """
import os, time
import prices
from apps.accounts import AccountsOperation


class Quote(AccountsOperation, name="reloaded.Quote"):
    gate: str = ""

    def perform(self) -> int:
        while self.gate and not os.path.exists(self.gate):
            time.sleep(0.02)
        self.note(f"quote {prices.PRICE}")
        return prices.PRICE
"""

PROCESS = """
import os
from dexpy.worker.process import WorkerOptions, run_process

options = WorkerOptions(modules=("waits",), reports_files=True)
run_process(options, os.getppid(), lambda *report: print(*report, flush=True))
"""


class Quote(AccountsOperation, name="reloaded.Quote"):
    """The same operation in this process, which only enqueues it."""

    gate: str = ""

    def perform(self) -> int:
        raise NotImplementedError


def starts(worker: Worker) -> list[str]:
    return worker.lines("worker.started")


def test_the_processes_restart_when_a_module_or_the_configuration_changes(deployment: Deployment) -> None:
    folder, gate = deployment.folder, deployment.folder / "gate"
    (folder / "reloaded.py").write_text(APPLICATION)
    (folder / "prices.py").write_text("PRICE = 1\n")
    (folder / "dexpy.toml").write_text("[[workers]]\nthreads = 1\nprocesses = 1\n[production]\n")
    command = [sys.executable, "-m", "dexpy", "worker", "reloaded", "--reload", "--env", "production"]
    worker = deployment.serve(command)
    eventually(lambda: starts(worker), "the worker starts", WAIT_S, worker.output)
    assert "WARNING" in worker.lines("reload.enabled")[0]
    assert Quote().async_().call().result(WAIT_S) == 1
    slow = Quote(gate=str(gate)).async_().call()
    deployment.wait_for_status(slow.id, "running")

    # A run in progress ends with the code that it began with.
    (folder / "prices.py").write_text("PRICE = 2\n")
    eventually(lambda: worker.lines("files.changed"), "the change is noticed", WAIT_S, worker.output)
    eventually(lambda: worker.lines("worker.draining"), "the process drains", WAIT_S, worker.output)
    gate.touch()
    assert deployment.wait_for_status(slow.id, "done", within_s=WAIT_S)["num_attempts"] == 1
    assert Quote().async_().call().result(WAIT_S) == 2
    assert "prices.py count=1" in worker.lines("files.changed")[0]

    # With a syntax error nothing runs until the next change.
    (folder / "prices.py").write_text("PRICE = (\n")
    (failed,) = eventually(lambda: worker.lines("reload.failed"), "the error is logged", WAIT_S, worker.output)
    assert "SyntaxError" in failed
    assert "prices.py" in failed
    waiting = Quote().async_().call()
    (folder / "prices.py").write_text("PRICE = 3\n")
    assert waiting.result(WAIT_S) == 3

    (folder / "dexpy.toml").write_text("[[workers]]\nthreads = 2\nprocesses = 1\n[production]\n")
    eventually(lambda: "threads=2" in starts(worker)[-1], "the new settings apply", WAIT_S, worker.output)
    assert Quote().async_().call().result(WAIT_S) == 3
    assert deployment.effects() == ["quote 1", "quote 1", "quote 2", "quote 3", "quote 3"]
    assert worker.lines("worker.died") + worker.lines("worker.killed") == []
    family = worker.processes()
    worker.signal(2)
    assert worker.ended() == 0
    eventually(lambda: not any(map(is_alive, family)), "all processes end", WAIT_S, worker.output)


def test_the_files_are_watched_while_the_process_waits_for_its_database(deployment: Deployment) -> None:
    (deployment.folder / "waits.py").write_text("")
    deployment.url = "postgresql+psycopg://127.0.0.1:1/none"
    worker = deployment.serve([sys.executable, "-c", PROCESS])
    eventually(lambda: "database.unreachable" in worker.output(), "the process waits", WAIT_S, worker.output)
    assert "waits.py" in worker.output().partition("database.unreachable")[0], worker.output()


def test_reload_and_burst_exclude_each_other() -> None:
    result = CliRunner().invoke(main, ["worker", "apps.accounts", "--reload", "--burst"])

    assert result.exit_code == 2
    assert "--reload: cannot be combined with --burst." in result.output


@pytest.mark.parametrize("change", ["content", "same size and time", "deleted", "created", "replaced"])
def test_a_change_of_a_file_is_noticed_once(tmp_path: Path, change: str) -> None:
    file, other = tmp_path / "a.py", tmp_path / "b.py"
    if change != "created":
        file.write_text("x = 1")
    other.write_text("y = 1")
    watcher = FileWatcher()
    watcher.watch([str(file), str(other)])
    assert watcher.changed() == []

    if change == "deleted":
        file.unlink()
    elif change == "replaced":
        (tmp_path / "new").write_text("x = 1")
        os.replace(tmp_path / "new", file)
    else:
        status = file.stat() if file.exists() else None
        file.write_text("x = 22" if change == "content" else "x = 2")
        if change == "same size and time" and status is not None:
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))

    assert watcher.changed() == [str(file)]
    assert watcher.changed() == []
