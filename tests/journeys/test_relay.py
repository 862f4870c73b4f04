"""``dexpy relay`` (a relay without a worker), and the report of ``dexpy check`` on queues without a worker."""

from __future__ import annotations

import signal
import sqlite3
import sys

import pytest
from apps.accounts import SendWelcomeEmail
from harness.workers import Deployment, eventually


def orphaned(deployment: Deployment, count: int) -> list[str]:
    """Enqueue operations, change their rows as if a dead worker had claimed them, and delete their messages."""
    ids = [SendWelcomeEmail(user_id=number).async_().call().id for number in range(count)]
    with sqlite3.connect(deployment.file, timeout=30) as connection:
        connection.executemany(
            "UPDATE operation_records SET status = 'running', claimed_by = 'gone:1:x', claim_token = 1, "
            "num_attempts = 1, started_at = created_at WHERE id = ?",
            [(id,) for id in ids],
        )
        connection.execute("DELETE FROM dexpy_messages")
    connection.close()
    return ids


def test_one_relay_pass_recovers_the_runs_of_a_dead_worker(deployment: Deployment) -> None:
    ids = orphaned(deployment, 3)

    ended = deployment.dexpy("relay", "--once", "apps.accounts")

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "0 published, 0 republished, 3 recovered, 0 expired.\n"
    assert [deployment.status(id) for id in ids] == ["pending"] * 3
    assert len(deployment.sql("SELECT 1 FROM dexpy_messages")) == 3
    assert len(deployment.sql("SELECT 1 FROM operation_attempts WHERE failure = 'lost'")) == 3
    deployment.start("--burst")
    for id in ids:
        deployment.wait_for_status(id, "done")


def test_a_relay_pass_recovers_runs_although_the_deletion_of_old_records_fails(deployment: Deployment) -> None:
    (lost,) = orphaned(deployment, 1)
    with sqlite3.connect(deployment.file, timeout=30) as connection:
        connection.execute(
            "CREATE TRIGGER broken BEFORE INSERT ON operation_retention BEGIN DELETE FROM missing_table; END"
        )
    connection.close()

    ended = deployment.dexpy("relay", "--once", "apps.accounts")

    assert ended.returncode == 1
    assert ended.stdout == "0 published, 0 republished, 1 recovered, 0 expired.\n"
    assert "task.failed" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert deployment.status(lost) == "pending"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_relay_runs_until_it_is_stopped(deployment: Deployment, number: int) -> None:
    relay = deployment.serve([sys.executable, "-m", "dexpy", "relay", "apps.accounts"])
    eventually(lambda: "The relay is running" in relay.output(), "the relay reports its start", 20, relay.output)

    (lost,) = orphaned(deployment, 1)

    deployment.wait_for_status(lost, "pending")
    relay.signal(number)
    assert relay.ended() == 0, relay.output()


def test_only_messages_missing_from_the_queue_are_republished(deployment: Deployment) -> None:
    queued = SendWelcomeEmail(user_id=1).async_().call()
    due_later = SendWelcomeEmail(user_id=2).async_(in_=1).call()
    (last,) = deployment.sql("SELECT max(id) FROM dexpy_messages")[0]
    lost = [SendWelcomeEmail(user_id=number).async_().call() for number in (3, 4)]
    with sqlite3.connect(deployment.file, timeout=30) as connection:
        connection.execute("DELETE FROM dexpy_messages WHERE id > ?", (last,))
    connection.close()

    def observe() -> str:
        return deployment.dexpy("relay", "--once", "apps.accounts", DEXPY_RECOVER_WITHIN="5s").stdout

    eventually(lambda: observe().startswith("0 published, 2 republished,"), "both are republished", 10)
    assert observe().startswith("0 published, 0 republished,")
    assert len(deployment.sql("SELECT 1 FROM dexpy_messages")) == 4

    deployment.start("--burst")
    for ticket in (queued, due_later, *lost):
        deployment.wait_for_status(ticket.id, "done")
    counted = deployment.sql("SELECT send_count, num_attempts FROM operation_records ORDER BY created_at")
    assert list(map(tuple, counted)) == [(1, 1), (1, 1), (2, 1), (2, 1)]


def test_a_relay_without_records_reports_the_missing_database(deployment: Deployment) -> None:
    ended = deployment.dexpy("relay", "--once", DEXPY_DATABASE="", DEXPY_BROKER="redis://127.0.0.1:1/0")

    assert ended.returncode == 1
    assert "there are no records to process" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_queue_that_no_live_worker_serves_is_reported_by_check_and_logged_once(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    deployment.start("-Q", "default")
    waiting = [SendWelcomeEmail(user_id=number).async_(queue="lonely").call() for number in (1, 2)]

    (warning,) = [line for line in deployment.dexpy("check").stdout.splitlines() if line.startswith("warn")]

    assert "queue lonely: runs wait in it, but no live worker serves it. Start a worker with -Q lonely" in warning
    assert sum("queue.unserved" in record.getMessage() for record in caplog.records) == 1
    deployment.start("-Q", "lonely")
    for ticket in waiting:
        deployment.wait_for_status(ticket.id, "done")
    assert "warn" not in deployment.dexpy("check").stdout
