"""Real processes of ``dexpy worker``: the queues that they serve, how they stop, and errors at their start."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import time
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from apps.accounts import (
    CountVisit,
    Flaky,
    Increment,
    SendNewsletter,
    SendReport,
    SendWelcomeEmail,
    SleepAsync,
    Sum,
    TimedVisit,
)
from harness.workers import Deployment, Worker, eventually, is_alive
from sqlalchemy.orm import Session

import dexpy

WAIT_S = 15.0
LONG_S = 60.0
"""The duration in seconds of an operation whose end no test awaits."""


def start_long_runs(deployment: Deployment, *, number: int = 1, seconds: float = LONG_S) -> list[str]:
    """Enqueue runs that sleep, wait until they have started, and return their ids."""
    naps = [TimedVisit(number=1, seconds=seconds).async_().call().id for _ in range(number)]
    for nap in naps:
        deployment.wait_for_status(nap, "running")
    return naps


def processes_of(deployment: Deployment, runs: list[str]) -> set[int]:
    """Return the pids of the processes that have claimed runs."""
    return {int(deployment.row(run)["claimed_by"].split(":")[1]) for run in runs}


def wait_until_all_end(worker: Worker, pids: set[int], within_s: float = 10.0) -> None:
    eventually(lambda: not any(map(is_alive, pids)), f"{sorted(pids)} end", within_s, worker.output)


# ------------------------------------------------------------------------------------------ processes and queues


def test_the_worker_starts_the_given_number_of_processes(deployment: Deployment) -> None:
    worker = deployment.start(processes=2, threads=1)

    assert len(set(worker.children())) == 2
    assert all("threads=1 queues=all" in line for line in worker.lines("worker.started"))
    assert processes_of(deployment, start_long_runs(deployment, number=2)) == set(worker.children()), (
        "each process has one thread and so one run"
    )


def test_the_worker_runs_as_many_operations_as_it_has_threads(deployment: Deployment) -> None:
    deployment.start(threads=3)

    start_long_runs(deployment, number=3)
    one_more = Increment(number=4).async_().call()
    time.sleep(0.5)  # longer than an idle thread takes to start a run

    assert deployment.status(one_more.id) == "pending"


def test_runs_of_a_queue_that_is_not_served_stay_pending(deployment: Deployment) -> None:
    deployment.start("-Q", "mailers,urgent")
    unserved = SendWelcomeEmail(user_id=1).async_().call()
    later = SendNewsletter(user_id=2).async_(in_=1.5).call()

    assert SendNewsletter(user_id=3).async_().call().result(WAIT_S)
    assert SendWelcomeEmail(user_id=4).async_(queue="urgent").call().result(WAIT_S)
    # Due after more time than a worker takes to find a new queue.
    assert later.result(WAIT_S)
    assert deployment.status(unserved.id) == "pending"


@pytest.mark.parametrize("options", [(), ("-Q", "urgent")], ids=["all queues", "named with -Q"])
def test_a_queue_that_no_class_names_is_served_within_two_seconds(
    deployment: Deployment, options: tuple[str, ...]
) -> None:
    deployment.start(*options)

    ticket = SendWelcomeEmail(user_id=1).async_(queue="urgent").call()

    row = deployment.wait_for_status(ticket.id, "done")
    waited = datetime.fromisoformat(row["started_at"]) - datetime.fromisoformat(row["created_at"])
    assert waited < timedelta(seconds=2)


def test_plain_dramatiq_serves_the_same_operations(deployment: Deployment, tmp_path: Path) -> None:
    worker = deployment.serve([sys.executable, "-m", "dramatiq", "apps.accounts_own_broker", "-p", "1", "-t", "2"])
    eventually(lambda: "ready for action" in worker.output(), "dramatiq starts", 30, worker.output)

    ledger = tmp_path / "ledger"
    healed = Flaky(ledger=str(ledger)).async_(queue="urgent").call()
    failed = SendReport(user_id=1, ending="error").async_().call()
    CountVisit(page="/plain").async_().call()
    later = SendNewsletter(user_id=3).async_(in_=0.5).call()

    assert healed.result(WAIT_S) == 3
    assert later.result(WAIT_S) == "welcomed 3"
    assert deployment.wait_for_status(failed.id, "failed")["error"] == "no_report"
    eventually(lambda: "visit /plain" in deployment.effects(), "the direct job runs", details=deployment.output)
    worker.signal(signal.SIGTERM)
    assert worker.ended() == 0


def test_the_worker_runs_nested_enqueues_and_async_performs(deployment: Deployment) -> None:
    deployment.start()
    total = Sum(numbers=[1, 2, 3]).async_().call()
    refused = Sum(numbers=[9], fails=True).async_().call()
    ticket = SleepAsync(question="why").async_().call()

    children = total.result(WAIT_S)
    for child in children:
        row = deployment.wait_for_status(child, "done")
        assert row["parent_id"] == total.id
        assert row["trace_id"] == deployment.row(total.id)["trace_id"]
    assert ticket.result(WAIT_S) == "yhw"
    assert deployment.wait_for_status(refused.id, "failed")["error"] == "not_today"
    assert sorted(deployment.effects("increment %")) == ["increment 1", "increment 2", "increment 3"]
    assert deployment.effects("asked %") == ["asked why"]
    assert deployment.sql("SELECT * FROM operation_records WHERE parent_id = ?", refused.id) == []


def test_three_hundred_operations_run_once_each_on_two_workers(deployment: Deployment) -> None:
    deployment.start(processes=2)
    deployment.start(processes=1)

    engine = sa.create_engine(deployment.url)
    with Session(engine) as session:
        ids = [Increment(number=number).async_(session=session).call().id for number in range(300)]
        session.commit()
    engine.dispose()

    def observe() -> bool:
        return deployment.sql("SELECT count(*) FROM operation_records WHERE status = 'done'")[0][0] == 300

    eventually(observe, "all runs are done", 40, deployment.output)
    assert Counter(deployment.effects()) == Counter(f"increment {number}" for number in range(300))
    assert {row["run"] for row in deployment.sql("SELECT run FROM effects")} == set(ids)
    assert {row["num_attempts"] for row in deployment.sql("SELECT num_attempts FROM operation_records")} == {1}
    eventually(
        lambda: not deployment.sql("SELECT * FROM dexpy_messages"), "no message is left", details=deployment.output
    )


def test_a_message_that_is_delivered_fifty_times_runs_once(deployment: Deployment) -> None:
    ticket = Increment(number=1).async_().call()

    with sqlite3.connect(deployment.file) as connection:
        columns = "queue, priority, due_at, message_id, payload, dead, created_at"
        for _ in range(49):
            connection.execute(f"INSERT INTO dexpy_messages ({columns}) SELECT {columns} FROM dexpy_messages LIMIT 1")
    connection.close()
    deployment.start(processes=2)

    eventually(
        lambda: not deployment.sql("SELECT * FROM dexpy_messages"),
        "all messages are acknowledged",
        details=deployment.output,
    )
    assert deployment.effects() == ["increment 1"]
    assert (deployment.row(ticket.id)["status"], deployment.row(ticket.id)["num_attempts"]) == ("done", 1)


def test_a_script_and_a_worker_share_the_default_file_without_configuration(deployment: Deployment) -> None:
    (deployment.folder / "script.py").write_text(
        "from dexpy import Operation\n"
        "class Add(Operation):\n"
        "    a: int\n"
        "    def perform(self) -> int:\n"
        "        return self.a + 1\n"
        "if __name__ == '__main__':\n"
        "    print(Add(a=1).async_().call().id)\n"
    )

    process = deployment.run([sys.executable, "script.py"], DEXPY_DATABASE="")
    worked = deployment.dexpy("worker", "script", "--burst", "-p", "1", DEXPY_DATABASE="")

    assert process.returncode == 0, process.stderr
    assert worked.returncode == 0, worked.stderr
    assert f"database.defaulted path={deployment.folder / 'dexpy.db'}" in worked.stderr, (
        "the log line has the absolute path"
    )
    deployment.file = deployment.folder / "dexpy.db"
    (row,) = deployment.sql("SELECT id, operation, status, result FROM operation_records")
    assert tuple(row) == (process.stdout.strip(), "script.Add", "done", '{"value": 2}')


def test_a_record_is_retried_from_a_process_that_never_enqueued_anything(deployment: Deployment) -> None:
    ticket = SendReport(user_id=1).async_().call()
    ticket.fail("by mistake")

    retried = deployment.run([sys.executable, "-c", f"from dexpy import records; records.get({ticket.id!r}).retry()"])

    assert retried.returncode == 0, retried.stderr
    assert deployment.dexpy("worker", "apps.accounts", "--burst", "-p", "1").returncode == 0
    assert deployment.status(ticket.id) == "done"


# --------------------------------------------------------------------------------------------- stops and kills


def test_a_burst_worker_runs_due_runs_and_ends(deployment: Deployment, tmp_path: Path) -> None:
    due = [Increment(number=number).async_().call() for number in range(5)]
    elsewhere = SendWelcomeEmail(user_id=1).async_(queue="urgent").call()
    inside = Sum(numbers=[7]).async_().call()
    later = Increment(number=99).async_(in_=3600).call()

    worked = deployment.dexpy("worker", "apps.accounts", "--burst", "-p", "2", "-t", "2")

    assert worked.returncode == 0, worked.stderr
    assert {deployment.status(ticket.id) for ticket in (*due, elsewhere, inside)} == {"done"}
    assert "increment 7" in deployment.effects()
    assert deployment.status(later.id) == "pending"
    assert "Traceback" not in worked.stderr


def test_a_burst_worker_without_due_runs_ends(deployment: Deployment) -> None:
    assert deployment.dexpy("worker", "apps.accounts", "--burst", "-p", "1").returncode == 0


def test_after_sigterm_a_worker_finishes_its_run_and_starts_no_other(deployment: Deployment) -> None:
    worker = deployment.start(threads=1)
    family, gate = worker.processes(), deployment.folder / "gate"
    running = TimedVisit(number=1, seconds=0, gate=str(gate)).async_().call().id
    deployment.wait_for_status(running, "running")
    waiting = Increment(number=2).async_().call()

    worker.signal(signal.SIGTERM)
    eventually(lambda: worker.lines("worker.draining"), "it has begun to stop", details=worker.output)
    gate.touch()

    assert worker.ended() == 0
    wait_until_all_end(worker, family)
    assert deployment.status(running) == "done"
    assert deployment.effects() == ["nap 1"]
    assert (deployment.status(waiting.id), deployment.row(waiting.id)["num_attempts"]) == ("pending", 0)
    (message,) = deployment.sql("SELECT * FROM dexpy_messages")
    assert message["owner"] is None, "the message is released at once"
    assert deployment.dexpy("worker", "apps.accounts", "--burst", "-p", "1").returncode == 0
    assert deployment.status(waiting.id) == "done"


def test_the_start_and_the_stop_of_a_process_are_logged(deployment: Deployment) -> None:
    worker = deployment.start(processes=1, threads=1)
    (pid,) = worker.children()

    worker.signal(signal.SIGTERM)

    assert worker.ended() == 0
    events = [line.split("] ", 1)[1] for line in worker.output().splitlines() if f"pid={pid} " in f"{line} "]
    assert [event.split()[0] for event in events] == ["worker.started", "worker.draining", "worker.stopped"]
    assert "reason='a signal'" in events[1]


@pytest.mark.parametrize("to_all", [False, True], ids=["to the supervisor", "to all processes"])
def test_a_signal_to_starting_processes_is_not_lost(deployment: Deployment, to_all: bool) -> None:
    worker = deployment.serve([sys.executable, "-m", "dexpy", "worker", "apps.accounts", "-p", "2", "-t", "1"])
    eventually(lambda: len(worker.processes()) >= 2, "a worker process exists", details=worker.output)

    worker.signal(signal.SIGTERM, to_all=to_all)

    assert worker.ended(15) == 0
    assert worker.processes() == set()
    assert not worker.lines("worker.killed")
    assert "Traceback" not in worker.output()


@pytest.mark.parametrize("to_all", [False, True], ids=["to the supervisor", "from the terminal"])
def test_the_first_interrupt_waits_for_runs_and_the_second_one_stops_the_worker_at_once(
    deployment: Deployment, to_all: bool
) -> None:
    worker = deployment.start()
    family = worker.processes()
    start_long_runs(deployment)

    worker.signal(signal.SIGINT, to_all=to_all)
    processes = len(worker.children())
    eventually(lambda: len(worker.lines("worker.draining")) == processes, "all begin to stop", details=worker.output)
    time.sleep(0.7)  # longer than a worker without runs takes to stop
    assert all(map(is_alive, family)), worker.output()
    began = time.monotonic()
    worker.signal(signal.SIGINT, to_all=to_all)

    worker.ended(5)
    assert time.monotonic() - began < 3
    wait_until_all_end(worker, family, 3)
    assert "Traceback" not in worker.output()


def test_interrupts_in_quick_succession_stop_the_worker_at_once(deployment: Deployment) -> None:
    worker = deployment.start()
    family = worker.processes()
    start_long_runs(deployment)

    def interrupt() -> bool:
        # The kernel merges signals that are still pending, so send one at each poll.
        if worker.process.poll() is None:
            worker.signal(signal.SIGINT)
        return worker.process.poll() is not None

    eventually(interrupt, "the worker ends", 5, worker.output)
    wait_until_all_end(worker, family, 3)
    assert "Traceback" not in worker.output()


def test_a_run_that_exceeds_the_shutdown_timeout_is_released(deployment: Deployment) -> None:
    worker = deployment.start("--shutdown-timeout", "0.5s")
    family = worker.processes()
    (running,) = start_long_runs(deployment)

    worker.signal(signal.SIGTERM)

    worker.ended(8)
    wait_until_all_end(worker, family)
    row = deployment.row(running)
    assert (row["status"], row["num_attempts"], row["claimed_by"]) == ("pending", 0, None)
    assert deployment.effects() == []
    free = deployment.sql("SELECT * FROM dexpy_messages WHERE owner IS NULL AND due_at <= ?", str(datetime.max))
    assert [json.loads(message["payload"])["kwargs"]["record_id"] for message in free] == [running]


def test_a_killed_process_is_replaced_and_others_continue(deployment: Deployment) -> None:
    worker = deployment.start(processes=2, threads=1)
    killed, other = worker.children()
    began = time.monotonic()

    os.kill(killed, signal.SIGKILL)

    eventually(lambda: len(worker.children()) == 3, "a new process replaces the killed one", 15, worker.output)
    replacement = worker.children()[2]
    assert f"pid={killed}" in worker.lines("worker.died")[0]
    assert worker.processes() == {worker.pid, other, replacement}, time.monotonic() - began
    assert processes_of(deployment, start_long_runs(deployment, number=2)) == {other, replacement}


def test_a_killed_process_does_not_affect_the_runs_of_others(deployment: Deployment) -> None:
    worker = deployment.start(processes=2, threads=1)
    (running,) = start_long_runs(deployment, seconds=1.5)
    (idle,) = set(worker.children()) - processes_of(deployment, [running])

    os.kill(idle, signal.SIGKILL)

    assert deployment.wait_for_status(running, "done")["num_attempts"] == 1


def test_the_processes_stop_when_their_supervisor_is_killed(deployment: Deployment) -> None:
    worker = deployment.start(processes=2)
    family = worker.processes()
    (running,) = start_long_runs(deployment, seconds=1.0)

    worker.signal(signal.SIGKILL)

    wait_until_all_end(worker, family)
    assert len(worker.lines("worker.orphaned")) == 2
    assert deployment.status(running) == "done", "the running operation may finish"


# ---------------------------------------------------------------------------------------- errors at the start

REFUSALS = {
    "a missing module": (
        ["worker", "shoop"],
        {},
        ["Cannot import the module 'shoop'", "Pass the dotted name"],
    ),
    "a path instead of a module": (
        ["worker", "shop.py"],
        {},
        ["Cannot import the module 'shop.py'", "Pass the dotted name"],
    ),
    "a module that raises": (
        ["worker", "apps.broken"],
        {},
        ["'apps.broken'", "RuntimeError: the shelf is empty", "-v"],
    ),
    "a database in a missing folder": (
        ["worker", "apps.accounts"],
        {"DEXPY_DATABASE": "sqlite:////nowhere/at/all/shop.db"},
        ["Cannot open sqlite:////nowhere/at/all/shop.db: ", "The folder /nowhere/at/all does not exist."],
    ),
    "a file that is no database": (
        ["worker", "apps.accounts"],
        {"DEXPY_DATABASE": f"sqlite:///{__file__}"},
        ["test_worker.py", "file is not a database"],
    ),
    "an invalid URL": (
        ["worker", "apps.accounts"],
        {"DEXPY_DATABASE": "shop.db"},
        ["'shop.db'", "URL"],
    ),
    "an unknown kind of database": (
        ["worker", "apps.accounts"],
        {"DEXPY_DATABASE": "oracel://u:hunter2@h/x"},
        ["oracel://h/x"],
    ),
    "a missing extra": (
        ["worker", "apps.accounts"],
        {"DEXPY_DATABASE": "postgresql+psycopg://u:hunter2@localhost:1/x", "WITHOUT": "psycopg"},
        ["'psycopg'", 'pip install "dexpy-operations[postgres]"'],
    ),
    "another missing extra": (
        ["worker", "apps.accounts"],
        {"DEXPY_DATABASE": "mysql+pymysql://u:hunter2@localhost:1/x", "WITHOUT": "pymysql"},
        ["'pymysql'", 'pip install "dexpy-operations[mysql]"'],
    ),
    "an unavailable server with --burst": (
        ["worker", "apps.accounts", "--burst"],
        {"DEXPY_DATABASE": "postgresql+psycopg://u:hunter2@127.0.0.1:1/x"},
        ["Cannot open postgresql+psycopg://127.0.0.1:1/x: ", "Check that the server is running"],
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_an_error_at_the_start_is_printed_once_without_a_traceback(deployment: Deployment, case: str) -> None:
    arguments, environment, words = REFUSALS[case]
    environment = environment | hide_packages(deployment)

    completed = deployment.dexpy(*arguments, "-p", "2", **environment)

    assert completed.returncode not in (0, None)
    assert "Traceback" not in completed.stderr
    assert completed.stderr.count("Error: ") == (2 if "RuntimeError" in completed.stderr else 1), completed.stderr
    assert completed.stdout == ""
    for word in words:
        assert word in completed.stderr
    assert "hunter2" not in completed.stderr
    assert deployment.sql("SELECT name FROM sqlite_master WHERE name LIKE 'operation%'") == [], "no table was created"


@pytest.mark.parametrize("case", ["a module that raises", "a database in a missing folder", "a missing extra"])
@pytest.mark.parametrize("flag", ["-v", "--verbose"])
def test_with_verbose_the_traceback_is_printed_too(deployment: Deployment, case: str, flag: str) -> None:
    arguments, environment, words = REFUSALS[case]
    environment = environment | hide_packages(deployment)

    completed = deployment.dexpy(*arguments, "-p", "1", flag, **environment)

    assert completed.returncode not in (0, None)
    assert "Traceback" in completed.stderr
    assert all(word in completed.stderr for word in words)
    assert "hunter2" not in completed.stderr


def hide_packages(deployment: Deployment) -> dict[str, str]:
    """Return an environment in which the packages named in WITHOUT cannot be imported."""
    (deployment.folder / "sitecustomize.py").write_text(
        "import os, sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in os.environ.get('WITHOUT', '').split(','):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    return {"PYTHONPATH": os.pathsep.join([str(deployment.folder), deployment.environment["PYTHONPATH"]])}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["MODULE"]),
        (["apps.accounts", "-Q", "no good"], ["'no good'", "queue name of 1 to 64 letters"]),
        (["apps.accounts", "-Q", "mailers,,"], ["''", "queue name of 1 to 64 letters"]),
        (["apps.accounts", "-p", "0"], ["0", "-p"]),
        (["apps.accounts", "-t", "many"], ["many", "-t"]),
        (["apps.accounts", "--shutdown-timeout", "-1s"], ["-1", "--shutdown-timeout"]),
        (["apps.accounts", "--brust"], ["--brust", "--burst"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_invalid_arguments_are_refused_with_status_two(
    deployment: Deployment, arguments: list[str], words: list[str]
) -> None:
    refused = deployment.dexpy("worker", *arguments)

    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    for word in words:
        assert word in refused.stderr


def test_an_enqueue_whose_database_cannot_be_opened_stores_nothing(deployment: Deployment) -> None:
    dexpy.configure(database="sqlite:////nowhere/at/all/shop.db")

    with pytest.raises(dexpy.errors.DatabaseUnavailable, match=r"^Cannot open sqlite:////nowhere/at/all/shop\.db: "):
        Increment(number=1).async_().call()
