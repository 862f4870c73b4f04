"""``dexpy relay``, a relay without a worker, and what `dexpy check` says of queues that nobody serves."""

from __future__ import annotations

import signal
import sqlite3
import sys

import pytest
from shop import SendWelcomeEmail
from workers import Shop, eventually


def orphaned(shop: Shop, count: int) -> list[str]:
    """Operations that a worker was killed with, by the look of their rows; their messages are gone too."""
    ids = [SendWelcomeEmail(user_id=number).async_().call().id for number in range(count)]
    with sqlite3.connect(shop.file, timeout=30) as connection:
        connection.executemany(
            "UPDATE operation_records SET status = 'running', claimed_by = 'gone:1:x', claim_token = 1, "
            "num_attempts = 1, started_at = created_at WHERE id = ?",
            [(id,) for id in ids],
        )
        connection.execute("DELETE FROM dexpy_messages")
    connection.close()
    return ids


def test_one_look_takes_up_what_a_dead_worker_held(shop: Shop) -> None:
    ids = orphaned(shop, 3)

    ended = shop.dexpy("relay", "--once", "shop")

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "0 sent, 0 sent again, 3 taken from dead workers, 0 expired.\n"
    assert [shop.status(id) for id in ids] == ["pending"] * 3
    assert len(shop.sql("SELECT 1 FROM dexpy_messages")) == 3
    assert len(shop.sql("SELECT 1 FROM operation_attempts WHERE failure = 'lost'")) == 3
    shop.start("--burst")
    for id in ids:
        shop.becomes(id, "done")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_relay_runs_until_it_is_told_to_stop(shop: Shop, number: int) -> None:
    relay = shop.serve([sys.executable, "-m", "dexpy", "relay", "shop"])
    eventually(lambda: "The relay runs" in relay.output(), "it says so", 20, relay.output)

    (lost,) = orphaned(shop, 1)

    shop.becomes(lost, "pending")
    relay.signal(number)
    assert relay.ended() == 0, relay.output()


def test_what_somebody_deleted_from_the_queue_is_sent_again_and_nothing_else(shop: Shop) -> None:
    kept = SendWelcomeEmail(user_id=1).async_().call()
    due_later = SendWelcomeEmail(user_id=2).async_(in_=1).call()
    (last,) = shop.sql("SELECT max(id) FROM dexpy_messages")[0]
    lost = [SendWelcomeEmail(user_id=number).async_().call() for number in (3, 4)]
    with sqlite3.connect(shop.file, timeout=30) as connection:
        connection.execute("DELETE FROM dexpy_messages WHERE id > ?", (last,))
    connection.close()

    def look() -> str:
        return shop.dexpy("relay", "--once", "shop", DEXPY_RESCUE_WITHIN="5").stdout

    eventually(lambda: look().startswith("0 sent, 2 sent again,"), "both are", 10)
    assert look().startswith("0 sent, 0 sent again,")
    assert len(shop.sql("SELECT 1 FROM dexpy_messages")) == 4

    shop.start("--burst")
    for ticket in (kept, due_later, *lost):
        shop.becomes(ticket.id, "done")
    counted = shop.sql("SELECT send_count, num_attempts FROM operation_records ORDER BY created_at")
    assert list(map(tuple, counted)) == [(1, 1), (1, 1), (2, 1), (2, 1)]


def test_a_relay_without_records_says_what_is_missing(shop: Shop) -> None:
    ended = shop.dexpy("relay", "--once", DEXPY_DATABASE="", DEXPY_BROKER="redis://127.0.0.1:1/0")

    assert ended.returncode == 1
    assert "none are kept" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_queue_that_no_live_worker_serves_is_told_by_the_check_and_once_by_the_log(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.start("-Q", "default")
    waiting = [SendWelcomeEmail(user_id=number).async_(queue="lonely").call() for number in (1, 2)]

    (told,) = [line for line in shop.dexpy("check").stdout.splitlines() if line.startswith("warn")]

    assert "queue lonely: operations wait in it, and no live worker serves it. Start one with -Q lonely" in told
    assert sum("queue.unserved" in record.getMessage() for record in caplog.records) == 1
    shop.start("-Q", "lonely")
    for ticket in waiting:
        shop.becomes(ticket.id, "done")
    assert "warn" not in shop.dexpy("check").stdout
