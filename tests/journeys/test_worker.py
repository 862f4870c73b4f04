"""`dexpy worker` as real processes: what it serves, how it ends, what it says when it cannot start."""

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
from shop import (
    AskAsync,
    CountVisit,
    Flaky,
    Increment,
    Nap,
    SendNewsletter,
    SendReport,
    SendWelcomeEmail,
    Sum,
)
from sqlalchemy.orm import Session
from workers import Shop, Worker, eventually, is_alive

import dexpy

WAIT_S = 15.0
LONG_S = 60.0
"""An operation that nobody waits for."""


def asleep(shop: Shop, *, number: int = 1, seconds: float = LONG_S) -> list[str]:
    """Runs that have begun and will take long; their ids."""
    naps = [Nap(number=1, seconds=seconds).async_().call().id for _ in range(number)]
    for nap in naps:
        shop.becomes(nap, "running")
    return naps


def processes_of(shop: Shop, runs: list[str]) -> set[int]:
    """The processes that have claimed these runs."""
    return {int(shop.row(run)["claimed_by"].split(":")[1]) for run in runs}


def all_end(worker: Worker, pids: set[int], within_s: float = 10.0) -> None:
    eventually(lambda: not any(map(is_alive, pids)), f"{sorted(pids)} end", within_s, worker.output)


# ------------------------------------------------------------------------------------------------ what it serves


def test_it_starts_as_many_processes_as_it_is_told(shop: Shop) -> None:
    worker = shop.start(processes=2, threads=1)

    assert len(set(worker.children())) == 2
    assert all("threads=1 queues=all" in line for line in worker.lines("worker.started"))
    assert processes_of(shop, asleep(shop, number=2)) == set(worker.children()), "one thread each, so one run each"


def test_as_many_run_at_once_as_there_are_threads(shop: Shop) -> None:
    shop.start(threads=3)

    asleep(shop, number=3)
    one_more = Increment(number=4).async_().call()
    time.sleep(0.5)  # longer than an idle thread takes to begin

    assert shop.status(one_more.id) == "pending"


def test_a_queue_that_it_is_not_told_to_serve_stays_pending(shop: Shop) -> None:
    shop.start("-Q", "mailers,urgent")
    unserved = SendWelcomeEmail(user_id=1).async_().call()
    later = SendNewsletter(user_id=2).async_(in_=1.5).call()

    assert SendNewsletter(user_id=3).async_().call().result(WAIT_S)
    assert SendWelcomeEmail(user_id=4).async_(queue="urgent").call().result(WAIT_S)
    # Longer than a worker takes to find a new queue.
    assert later.result(WAIT_S)
    assert shop.status(unserved.id) == "pending"


@pytest.mark.parametrize("options", [(), ("-Q", "urgent")], ids=["all queues", "named with -Q"])
def test_a_queue_that_no_class_names_is_served_within_two_seconds(shop: Shop, options: tuple[str, ...]) -> None:
    shop.start(*options)

    ticket = SendWelcomeEmail(user_id=1).async_(queue="urgent").call()

    row = shop.becomes(ticket.id, "done")
    waited = datetime.fromisoformat(row["started_at"]) - datetime.fromisoformat(row["created_at"])
    assert waited < timedelta(seconds=2)


def test_plain_dramatiq_serves_the_same_operations(shop: Shop, tmp_path: Path) -> None:
    worker = shop.serve([sys.executable, "-m", "dramatiq", "shop_with_broker", "-p", "1", "-t", "2"])
    eventually(lambda: "ready for action" in worker.output(), "dramatiq starts", 30, worker.output)

    ledger = tmp_path / "ledger"
    healed = Flaky(ledger=str(ledger)).async_(queue="urgent").call()
    failed = SendReport(user_id=1, ending="error").async_().call()
    CountVisit(page="/plain").async_().call()
    later = SendNewsletter(user_id=3).async_(in_=0.5).call()

    assert healed.result(WAIT_S) == 3
    assert later.result(WAIT_S) == "welcomed 3"
    assert shop.becomes(failed.id, "failed")["error"] == "no_report"
    eventually(lambda: "visit /plain" in shop.effects(), "the direct job runs", tell=shop.tell)
    worker.signal(signal.SIGTERM)
    assert worker.ended() == 0


def test_it_runs_what_operations_send_from_inside_and_async_performs(shop: Shop) -> None:
    shop.start()
    total = Sum(numbers=[1, 2, 3]).async_().call()
    refused = Sum(numbers=[9], fails=True).async_().call()
    asked = AskAsync(question="why").async_().call()

    children = total.result(WAIT_S)
    for child in children:
        row = shop.becomes(child, "done")
        assert row["parent_id"] == total.id
        assert row["trace_id"] == shop.row(total.id)["trace_id"]
    assert asked.result(WAIT_S) == "yhw"
    assert shop.becomes(refused.id, "failed")["error"] == "not_today"
    assert sorted(shop.effects("increment %")) == ["increment 1", "increment 2", "increment 3"]
    assert shop.effects("asked %") == ["asked why"]
    assert shop.sql("SELECT * FROM operation_records WHERE parent_id = ?", refused.id) == []


def test_three_hundred_operations_run_once_each_on_two_workers(shop: Shop) -> None:
    shop.start(processes=2)
    shop.start(processes=1)

    engine = sa.create_engine(shop.url)
    with Session(engine) as session:
        ids = [Increment(number=number).async_(session=session).call().id for number in range(300)]
        session.commit()
    engine.dispose()

    def look() -> bool:
        return shop.sql("SELECT count(*) FROM operation_records WHERE status = 'done'")[0][0] == 300

    eventually(look, "all are done", 40, shop.tell)
    assert Counter(shop.effects()) == Counter(f"increment {number}" for number in range(300))
    assert {row["run"] for row in shop.sql("SELECT run FROM effects")} == set(ids)
    assert {row["num_attempts"] for row in shop.sql("SELECT num_attempts FROM operation_records")} == {1}
    eventually(lambda: not shop.sql("SELECT * FROM dexpy_messages"), "no message is left", tell=shop.tell)


def test_a_message_that_is_delivered_fifty_times_is_one_run(shop: Shop) -> None:
    ticket = Increment(number=1).async_().call()

    with sqlite3.connect(shop.file) as connection:
        columns = "queue, priority, due_at, message_id, payload, dead, created_at"
        for _ in range(49):
            connection.execute(f"INSERT INTO dexpy_messages ({columns}) SELECT {columns} FROM dexpy_messages LIMIT 1")
    connection.close()
    shop.start(processes=2)

    eventually(lambda: not shop.sql("SELECT * FROM dexpy_messages"), "all are acknowledged", tell=shop.tell)
    assert shop.effects() == ["increment 1"]
    assert (shop.row(ticket.id)["status"], shop.row(ticket.id)["num_attempts"]) == ("done", 1)


def test_a_script_and_a_worker_meet_in_the_default_file_with_nothing_configured(shop: Shop) -> None:
    (shop.folder / "script.py").write_text(
        "from dexpy import Operation\n"
        "class Add(Operation):\n"
        "    a: int\n"
        "    def perform(self) -> int:\n"
        "        return self.a + 1\n"
        "if __name__ == '__main__':\n"
        "    print(Add(a=1).async_().call().id)\n"
    )

    sent = shop.run([sys.executable, "script.py"], DEXPY_DATABASE="")
    worked = shop.dexpy("worker", "script", "--burst", "-p", "1", DEXPY_DATABASE="")

    assert sent.returncode == 0, sent.stderr
    assert worked.returncode == 0, worked.stderr
    assert f"database.default path={shop.folder / 'dexpy.db'}" in worked.stderr, "the absolute path is said"
    shop.file = shop.folder / "dexpy.db"
    (row,) = shop.sql("SELECT id, name, status, result FROM operation_records")
    assert tuple(row) == (sent.stdout.strip(), "script.Add", "done", '{"value": 2}')


def test_a_record_is_retried_from_a_process_that_never_enqueued_anything(shop: Shop) -> None:
    ticket = SendReport(user_id=1).async_().call()
    ticket.fail("by mistake")

    retried = shop.run([sys.executable, "-c", f"from dexpy import records; records.get({ticket.id!r}).retry()"])

    assert retried.returncode == 0, retried.stderr
    assert shop.dexpy("worker", "shop", "--burst", "-p", "1").returncode == 0
    assert shop.status(ticket.id) == "done"


# -------------------------------------------------------------------------------------------------- how it ends


def test_a_burst_runs_what_is_due_and_ends(shop: Shop, tmp_path: Path) -> None:
    due = [Increment(number=number).async_().call() for number in range(5)]
    elsewhere = SendWelcomeEmail(user_id=1).async_(queue="urgent").call()
    inside = Sum(numbers=[7]).async_().call()
    later = Increment(number=99).async_(in_=3600).call()

    worked = shop.dexpy("worker", "shop", "--burst", "-p", "2", "-t", "2")

    assert worked.returncode == 0, worked.stderr
    assert {shop.status(ticket.id) for ticket in (*due, elsewhere, inside)} == {"done"}
    assert "increment 7" in shop.effects()
    assert shop.status(later.id) == "pending"
    assert "Traceback" not in worked.stderr


def test_a_burst_with_nothing_to_do_ends_too(shop: Shop) -> None:
    assert shop.dexpy("worker", "shop", "--burst", "-p", "1").returncode == 0


def test_term_lets_a_running_operation_finish_and_starts_no_other(shop: Shop) -> None:
    worker = shop.start(threads=1)
    family = worker.family()
    (running,) = asleep(shop, seconds=1.0)
    waiting = Increment(number=2).async_().call()

    worker.signal(signal.SIGTERM)

    assert worker.ended() == 0
    all_end(worker, family)
    assert shop.status(running) == "done"
    assert shop.effects() == ["nap 1"]
    assert (shop.status(waiting.id), shop.row(waiting.id)["num_attempts"]) == ("pending", 0)
    (message,) = shop.sql("SELECT * FROM dexpy_messages")
    assert message["owner"] is None, "free for the next worker at once"
    assert shop.dexpy("worker", "shop", "--burst", "-p", "1").returncode == 0
    assert shop.status(waiting.id) == "done"


@pytest.mark.parametrize("to_all", [False, True], ids=["to the supervisor", "to all of them"])
def test_a_signal_to_processes_that_have_only_just_begun_is_not_lost(shop: Shop, to_all: bool) -> None:
    worker = shop.serve([sys.executable, "-m", "dexpy", "worker", "shop", "-p", "2", "-t", "1"])
    eventually(lambda: len(worker.family()) >= 2, "a process was made", tell=worker.output)

    worker.signal(signal.SIGTERM, to_all=to_all)

    assert worker.ended(15) == 0
    assert worker.family() == set()
    assert not worker.lines("worker.killed")
    assert "Traceback" not in worker.output()


@pytest.mark.parametrize("to_all", [False, True], ids=["to the supervisor", "from the terminal"])
def test_the_first_interrupt_waits_and_the_second_one_ends_at_once(shop: Shop, to_all: bool) -> None:
    worker = shop.start()
    family = worker.family()
    asleep(shop)

    worker.signal(signal.SIGINT, to_all=to_all)
    time.sleep(0.7)  # long enough to see that it waits
    assert all(map(is_alive, family)), worker.output()
    began = time.monotonic()
    worker.signal(signal.SIGINT, to_all=to_all)

    worker.ended(5)
    assert time.monotonic() - began < 3
    all_end(worker, family, 3)
    assert "Traceback" not in worker.output()


def test_interrupts_in_quick_succession_end_at_once(shop: Shop) -> None:
    worker = shop.start()
    family = worker.family()
    asleep(shop)

    def again() -> bool:
        # Two that come before the process is looked at again are one: so there are many.
        if worker.process.poll() is None:
            worker.signal(signal.SIGINT)
        return worker.process.poll() is not None

    eventually(again, "it ends", 5, worker.output)
    all_end(worker, family, 3)
    assert "Traceback" not in worker.output()


def test_an_operation_that_outlasts_the_shutdown_timeout_is_given_back(shop: Shop) -> None:
    worker = shop.start("--shutdown-timeout", "0.5")
    family = worker.family()
    (running,) = asleep(shop)

    worker.signal(signal.SIGTERM)

    worker.ended(8)
    all_end(worker, family)
    row = shop.row(running)
    assert (row["status"], row["num_attempts"], row["claimed_by"]) == ("pending", 0, None)
    assert shop.effects() == []
    free = shop.sql("SELECT * FROM dexpy_messages WHERE owner IS NULL AND due_at <= ?", str(datetime.max))
    assert [json.loads(message["payload"])["kwargs"]["record_id"] for message in free] == [running]


def test_a_killed_process_is_replaced_and_the_others_go_on(shop: Shop) -> None:
    worker = shop.start(processes=2, threads=1)
    killed, other = worker.children()
    began = time.monotonic()

    os.kill(killed, signal.SIGKILL)

    eventually(lambda: len(worker.children()) == 3, "a process in its place", 15, worker.output)
    replacement = worker.children()[2]
    assert f"pid={killed}" in worker.lines("worker.died")[0]
    assert worker.family() == {worker.pid, other, replacement}, time.monotonic() - began
    assert processes_of(shop, asleep(shop, number=2)) == {other, replacement}


def test_what_the_others_ran_is_not_disturbed_by_a_killed_process(shop: Shop) -> None:
    worker = shop.start(processes=2, threads=1)
    (running,) = asleep(shop, seconds=1.5)
    (idle,) = set(worker.children()) - processes_of(shop, [running])

    os.kill(idle, signal.SIGKILL)

    assert shop.becomes(running, "done")["num_attempts"] == 1


def test_the_processes_stop_when_their_supervisor_is_killed(shop: Shop) -> None:
    worker = shop.start(processes=2)
    family = worker.family()
    (running,) = asleep(shop, seconds=1.0)

    worker.signal(signal.SIGKILL)

    all_end(worker, family)
    assert len(worker.lines("worker.orphaned")) == 2
    assert shop.status(running) == "done", "what ran may finish"


# ------------------------------------------------------------------------------------ when it cannot start

REFUSALS = {
    "a module that is not there": (
        ["worker", "shoop"],
        {},
        ["'shoop'", "cannot be imported", "Give the dotted name"],
    ),
    "a file for a module": (["worker", "shop.py"], {}, ["'shop.py'", "cannot be imported", "Give the dotted name"]),
    "a module that raises": (
        ["worker", "shop_that_raises"],
        {},
        ["'shop_that_raises'", "RuntimeError: the shelf is empty", "-v"],
    ),
    "a database in no folder": (
        ["worker", "shop"],
        {"DEXPY_DATABASE": "sqlite:////nowhere/at/all/shop.db"},
        ["sqlite:////nowhere/at/all/shop.db", "cannot be opened", "/nowhere/at/all"],
    ),
    "a database that is none": (
        ["worker", "shop"],
        {"DEXPY_DATABASE": f"sqlite:///{__file__}"},
        ["test_worker.py", "file is not a database"],
    ),
    "a URL that is none": (
        ["worker", "shop"],
        {"DEXPY_DATABASE": "shop.db"},
        ["'shop.db'", "URL"],
    ),
    "a kind of database that nobody knows": (
        ["worker", "shop"],
        {"DEXPY_DATABASE": "oracel://u:hunter2@h/x"},
        ["oracel://u:***@h/x"],
    ),
    "a missing extra": (
        ["worker", "shop"],
        {"DEXPY_DATABASE": "postgresql+psycopg://u:hunter2@localhost:1/x", "WITHOUT": "psycopg"},
        ["'psycopg'", 'pip install "dexpy[postgres]"'],
    ),
    "another missing extra": (
        ["worker", "shop"],
        {"DEXPY_DATABASE": "mysql+pymysql://u:hunter2@localhost:1/x", "WITHOUT": "pymysql"},
        ["'pymysql'", 'pip install "dexpy[mysql]"'],
    ),
    "a server that does not answer a burst": (
        ["worker", "shop", "--burst"],
        {"DEXPY_DATABASE": "postgresql+psycopg://u:hunter2@127.0.0.1:1/x"},
        ["postgresql+psycopg://u:***@127.0.0.1:1/x", "cannot be opened", "Is the server running"],
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_keeps_it_from_starting_is_told_once_and_without_a_traceback(shop: Shop, case: str) -> None:
    arguments, environment, words = REFUSALS[case]
    environment = environment | blind(shop)

    told = shop.dexpy(*arguments, "-p", "2", **environment)

    assert told.returncode not in (0, None)
    assert "Traceback" not in told.stderr
    assert told.stderr.count("Error: ") == (2 if "RuntimeError" in told.stderr else 1), told.stderr
    assert told.stdout == ""
    for word in words:
        assert word in told.stderr
    assert "hunter2" not in told.stderr
    assert shop.sql("SELECT name FROM sqlite_master WHERE name LIKE 'operation%'") == [], "nothing was half-made"


@pytest.mark.parametrize("case", ["a module that raises", "a database in no folder", "a missing extra"])
@pytest.mark.parametrize("flag", ["-v", "--verbose"])
def test_whoever_asks_gets_the_traceback_too(shop: Shop, case: str, flag: str) -> None:
    arguments, environment, words = REFUSALS[case]
    environment = environment | blind(shop)

    told = shop.dexpy(*arguments, "-p", "1", flag, **environment)

    assert told.returncode not in (0, None)
    assert "Traceback" in told.stderr
    assert all(word in told.stderr for word in words)
    assert "hunter2" not in told.stderr


def blind(shop: Shop) -> dict[str, str]:
    """An environment in which packages named in WITHOUT cannot be imported."""
    (shop.folder / "sitecustomize.py").write_text(
        "import os, sys\n"
        "class Blind:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in os.environ.get('WITHOUT', '').split(','):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blind())\n"
    )
    return {"PYTHONPATH": os.pathsep.join([str(shop.folder), shop.environment["PYTHONPATH"]])}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["MODULE"]),
        (["shop", "-Q", "no good"], ["'no good'", "is no queue name", "1 to 64 letters"]),
        (["shop", "-Q", "mailers,,"], ["''", "is no queue name"]),
        (["shop", "-p", "0"], ["0", "-p"]),
        (["shop", "-t", "many"], ["many", "-t"]),
        (["shop", "--shutdown-timeout", "-1"], ["-1", "--shutdown-timeout"]),
        (["shop", "--brust"], ["--brust", "--burst"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_call_is_refused_with_status_two(shop: Shop, arguments: list[str], words: list[str]) -> None:
    refused = shop.dexpy("worker", *arguments)

    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    for word in words:
        assert word in refused.stderr


def test_nothing_is_stored_by_an_enqueue_whose_database_cannot_be_opened(shop: Shop) -> None:
    dexpy.configure(database="sqlite:////nowhere/at/all/shop.db")

    with pytest.raises(dexpy.DatabaseUnavailable, match=r"/nowhere/at/all/shop\.db cannot be opened"):
        Increment(number=1).async_().call()
