"""`enqueue_all` with real workers: large batches, keys in two batches, and a killed enqueuing process."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter

import pytest
from apps import shop_batches
from harness.policy_workers import PolicyPair
from harness.workers import eventually

from dexpy import Ticket, enqueue_all, records
from dexpy.errors import KeyBusy

APPLICATION = shop_batches
WAIT_S = 60.0
MANY = 300


def ended(pair: PolicyPair, many: int) -> None:
    eventually(lambda: records.where(status="done").count() >= many, f"{many} runs are done", WAIT_S, pair.output)


def test_two_workers_run_each_operation_of_a_batch_once(pair: PolicyPair) -> None:
    # Messages that wait longer than half of this may be republished, and a busy machine needs some seconds for all.
    pair.recover_within_s = 2 * int(WAIT_S)
    pair.configure()
    pair.start(processes=2)
    tickets = enqueue_all([shop_batches.Mark(number=number) for number in range(MANY)])

    ended(pair, MANY)
    assert Counter(pair.effects("mark %")) == Counter(f"mark {number}" for number in range(MANY))
    assert {records.get(ticket.id).num_attempts for ticket in tickets} == {1}
    assert {row.send_count for row in pair.sql("SELECT send_count FROM operation_records")} == {1}


def test_two_batches_with_the_same_keys_in_opposite_order_do_not_deadlock(pair: PolicyPair) -> None:
    orders = list(range(40))
    tickets_by_process: dict[str, list[Ticket[str]]] = {}
    errors: list[BaseException] = []
    barrier = threading.Barrier(2)

    def send(name: str, numbers: list[int]) -> None:
        try:
            barrier.wait(10)
            tickets_by_process[name] = enqueue_all([shop_batches.Charge(order=number) for number in numbers])
        except KeyBusy:
            # SQLite has one write lock, which is free when the enqueue is repeated.
            tickets_by_process[name] = enqueue_all([shop_batches.Charge(order=number) for number in numbers])
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=send, args=(name, numbers)) for name, numbers in
               (("up", orders), ("down", orders[::-1]))]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)

    assert errors == []
    up, down = tickets_by_process["up"], tickets_by_process["down"][::-1]
    assert [ticket.id for ticket in up] == [ticket.id for ticket in down]
    assert all(first.duplicate != second.duplicate for first, second in zip(up, down, strict=True))
    pair.start(processes=2)
    ended(pair, len(orders))
    assert Counter(pair.effects("charge %")) == Counter(f"charge {number}" for number in orders)


@pytest.mark.parametrize("point", ["after_insert", "after_commit", "before_publish", "after_publish"])
def test_a_process_that_is_killed_during_a_batch_enqueues_all_or_nothing(pair: PolicyPair, point: str) -> None:
    script = [sys.executable, shop_batches.__file__, str(pair.folder), point, "20"]
    dead = subprocess.run(script, env=pair.environment, capture_output=True, text=True, timeout=WAIT_S, check=False)
    if pair.is_transactional and point in ("before_publish", "after_publish"):
        assert dead.returncode == 0, "the failpoint is not reached, because messages are rows of the same transaction"
    else:
        assert dead.returncode == -9, dead.stderr

    expected = 0 if point == "after_insert" else 20
    assert records.all().count() == expected
    pair.start()
    if expected:
        ended(pair, expected)
    assert Counter(pair.effects("mark %")) == Counter(f"mark {number}" for number in range(expected))


@pytest.mark.parametrize("pair", [pytest.param("postgresql+redis", marks=pytest.mark.servers)], indirect=True)
def test_a_batch_that_its_broker_refused_is_published_later(pair: PolicyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = pair.runtime.broker if pair.runtime else None
    with monkeypatch.context() as context:

        def refuse(*_: object, **__: object) -> None:
            raise ConnectionError("away")

        context.setattr(broker, "enqueue_together", refuse)
        tickets = enqueue_all([shop_batches.Mark(number=number) for number in range(30)])
    assert {row.enqueued_at for row in pair.sql("SELECT enqueued_at FROM operation_records")} == {None}

    pair.start()
    ended(pair, 30)
    assert all(ticket.reload().done for ticket in tickets)
    assert Counter(pair.effects("mark %")) == Counter(f"mark {number}" for number in range(30))
