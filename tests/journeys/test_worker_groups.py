"""The worker groups of a configuration file: several kinds of processes under one `dexpy worker`."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import sys
from pathlib import Path

import pytest
from apps.accounts import SendNewsletter, SendWelcomeEmail, TimedVisit
from harness.workers import START_S, Deployment, Worker, eventually, is_alive

from dexpy.cli.main import run
from dexpy.worker.importing import StartupError

WAIT_S = 15.0
FILE = """
recover_within = "5s"
[[workers]]
name = "fast"
queues = ["default", "critical"]
threads = 2
processes = 1
[production]
[[production.workers]]
name = "fast"
queues = ["default", "critical"]
threads = 5
processes = 1
polling_interval = "20ms"
[[production.workers]]
name = "slow"
queues = ["low", "mailers"]
threads = 3
processes = 1
shutdown_timeout = "0.2s"
[production.recurring.weekly_letter]
class = "apps.accounts.SendNewsletter"
schedule = "every second"
args = { user_id = 99 }
"""
STARTED = re.compile(r"worker\.started pid=(\d+) threads=(\d+) queues=(\S+) group=(\w+)")


def serve(deployment: Deployment, *options: str) -> Worker:
    """Start a worker with the file in the folder of the deployment."""
    (deployment.folder / "dexpy.toml").write_text(FILE)
    return deployment.serve([sys.executable, "-m", "dexpy", "worker", "apps.accounts", *options])


def started(worker: Worker, number: int) -> dict[str, tuple[int, str, str]]:
    """Wait for so many starts; return the pid, the threads and the queues of the last process of each group."""
    eventually(lambda: len(worker.children()) >= number, f"{number} processes start", START_S, worker.output)
    lines = STARTED.findall(worker.output().replace("'", ""))
    return {group: (int(pid), threads, queues) for pid, threads, queues, group in lines}


def letters(deployment: Deployment) -> list[sqlite3.Row]:
    """The ended runs of the recurring task."""
    return deployment.sql("SELECT * FROM operation_records WHERE recurring_key = 'weekly_letter' AND status = 'done'")


def worker_pid(worker: Worker, id: str) -> int:
    """Wait for the end of a run; return the pid of the process that has logged it."""

    def line() -> str | None:
        return next((line for line in worker.lines("run.succeeded") if f"run_id={id} " in line), None)

    (pid,) = re.findall(r"\[(\d+)\] run\.succeeded", eventually(line, "the run ends", WAIT_S, worker.output))
    return int(pid)


def test_each_group_serves_its_queues_is_replaced_and_ends_with_the_others(deployment: Deployment) -> None:
    worker = serve(deployment, "--env", "production")
    groups = started(worker, 2)
    assert {name: facts[1:] for name, facts in groups.items()} == {
        "fast": ("5", "default,critical"),
        "slow": ("3", "low,mailers"),
    }

    # Each group runs what is in its queues, and nothing else.
    fast = [TimedVisit(number=1, seconds=0.2).async_(queue=queue).call().id for queue in ("default", "critical")]
    slow = [TimedVisit(number=2, seconds=0.2).async_(queue=queue).call().id for queue in ("low", "mailers")]
    unserved = SendWelcomeEmail(user_id=1).async_(queue="reports").call().id
    assert {worker_pid(worker, id) for id in fast} == {groups["fast"][0]}
    assert {worker_pid(worker, id) for id in slow} == {groups["slow"][0]}

    # A process that dies is replaced by one of its group.
    os.kill(groups["slow"][0], signal.SIGKILL)
    replaced = started(worker, 3)
    assert replaced["fast"] == groups["fast"]
    assert replaced["slow"][0] != groups["slow"][0]
    assert replaced["slow"][1:] == groups["slow"][1:]
    assert len(worker.lines("worker.died")) == 1
    assert "group=slow" in worker.lines("worker.died")[0].replace("'", "")
    again = SendNewsletter(user_id=2).async_().call().id
    assert worker_pid(worker, again) == replaced["slow"][0]
    assert deployment.status(unserved) == "pending"

    # A recurring task of the file runs in the group that serves the queue of its class.
    (run,) = eventually(lambda: letters(deployment)[:1], "a tick has run", WAIT_S, worker.output)
    assert run["status"] == "done"
    assert "welcome 99" in deployment.effects()

    # TERM ends all: a run may continue for the shutdown timeout of its group.
    short = TimedVisit(number=3, seconds=0.6).async_(queue="critical").call().id
    long = TimedVisit(number=4, seconds=60.0).async_(queue="low").call().id
    for id in (short, long):
        deployment.wait_for_status(id, "running")
    worker.signal(signal.SIGTERM)
    assert worker.ended() == 0
    assert not [pid for pid, _, _ in replaced.values() if is_alive(pid)]
    assert (deployment.status(short), deployment.status(long)) == ("done", "pending")


def test_the_processes_of_a_worker_have_the_settings_of_its_flags(deployment: Deployment) -> None:
    visit = TimedVisit(number=1, seconds=0.0).async_().call().id

    worker = serve(deployment, "--database", f"sqlite:///{deployment.folder}/elsewhere.db", "--burst")

    assert worker.ended() == 0, worker.output()
    assert (deployment.folder / "elsewhere.db").exists()
    assert deployment.status(visit) == "pending"


def test_a_flag_chooses_a_group_and_sets_its_values(deployment: Deployment) -> None:
    late = TimedVisit(number=1, seconds=0.0).async_(queue="low").call().id
    visit = TimedVisit(number=1, seconds=0.0).async_(queue="critical").call().id

    worker = serve(deployment, "--env", "production", "--group", "fast", "-t", "1", "--burst")

    assert worker.ended() == 0, worker.output()
    assert [(threads, group) for _, threads, _, group in STARTED.findall(worker.output().replace("'", ""))] == [
        ("1", "fast")
    ]
    assert (deployment.status(visit), deployment.status(late)) == ("done", "pending")


def test_an_invalid_file_ends_the_command_with_status_two_before_a_process_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*options: str) -> str:
        with pytest.raises(SystemExit) as ended:
            run(["worker", "apps.accounts", *options])
        assert ended.value.code == StartupError.exit_status == 2
        return capsys.readouterr().err

    (tmp_path / "dexpy.toml").write_text(FILE.replace("threads = 3", "thread = 3"))
    assert f"Error: {tmp_path}/dexpy.toml:18: [[production.workers]] thread: unknown key" in refusal()
    (tmp_path / "dexpy.toml").write_text(FILE)
    assert "--threads: sets one worker group" in refusal("-t", "3", "--env", "production")
