"""Durable steps with real workers that are killed, frozen and stopped: every effect exists once."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from typing import Any

import sqlalchemy as sa
from apps import shop_steps
from apps.shop_steps import ROWS, Item, Line, ProcessItems, ProcessOrder
from harness.policy_workers import ON_SERVERS, PolicyPair
from harness.workers import eventually

from dexpy import Ticket, records

APPLICATION = shop_steps
WAIT_S = 60.0


def reached(pair: PolicyPair, point: str) -> int:
    """Wait until a process has reached a failpoint, and return its pid."""
    return eventually(lambda: pair.reached(point), f"a worker reaches {point}", WAIT_S, pair.output)


def effects(pair: PolicyPair) -> Counter[str]:
    """Return the committed effects and their numbers."""
    return Counter(row.what for row in pair.sql(sa.select(Line.what)))


def writers(pair: PolicyPair) -> dict[str, int]:
    """Return the pid of the process that wrote each effect."""
    return {row.what: int(row.attempt) for row in pair.sql(sa.select(Line.what, Line.attempt))}


def expected_lines(number: int) -> Counter[str]:
    """Return the effects of one `ProcessOrder`."""
    items = [f"{number} item {7 * item}" for item in range(1, ROWS + 1)]
    return Counter([f"{number} first", f"{number} second {number + 1}", *items, f"{number} last"])


def visits(pair: PolicyPair) -> set[int]:
    return {row.visits for row in pair.sql(sa.select(Item.visits))}


def is_done(pair: PolicyPair, ticket: Ticket[Any], *, lost: int) -> None:
    """Assert that a run succeeded, and that each lost attempt is recorded."""
    assert ticket.wait(WAIT_S), pair.output()
    assert (ticket.reload().num_attempts, ticket.done) == (1 + lost, True)
    assert [each.failure for each in records.attempts(ticket.id)] == ["lost"] * lost + [None]


def test_two_workers_run_every_step_of_every_run_once(pair: PolicyPair) -> None:
    pair.start(processes=2, threads=2)
    tickets = [ProcessOrder(number=number).async_().call() for number in range(6)]

    assert [ticket.result(WAIT_S) for ticket in tickets] == [(number + 1) * 10 for number in range(6)]
    assert effects(pair) == sum((expected_lines(number) for number in range(6)), Counter())
    assert visits(pair) == {6}
    assert all([step.name for step in records.steps(ticket.id)] == ["first", "second", "items", "last"]
               for ticket in tickets)  # fmt: skip


def test_a_run_whose_workers_are_killed_repeatedly_continues_at_its_checkpoint(pair: PolicyPair) -> None:
    points = ["in_first_step", "before_step_commit", "after_step_commit", "on_item_21"]
    pair.start_killed_at(*points, threads=1)
    ticket = ProcessOrder(number=1).async_().call()

    is_done(pair, ticket, lost=len(points))

    assert effects(pair) == expected_lines(1)
    assert visits(pair) == {1}
    died = [reached(pair, point) for point in points]
    did = writers(pair)
    # The first two processes committed nothing, the third one the first step, the fourth one the second step
    # and two items.
    assert did["1 first"] == died[2]
    assert {did["1 second 2"], did["1 item 7"], did["1 item 14"]} == {died[3]}
    last = {did[f"1 item {item}"] for item in range(21, 7 * ROWS + 1, 7)} | {did["1 last"]}
    assert len(last) == 1
    assert not last & set(died)
    assert [step.claim_token for step in records.steps(ticket.id)] == [3, 4, 5, 5]


def test_a_worker_that_was_frozen_in_a_loop_commits_nothing_after_it_is_resumed(pair: PolicyPair) -> None:
    frozen = pair.start_killed_at("on_item_21=wait", threads=1)
    ticket = ProcessOrder(number=1).async_().call()
    pid = reached(pair, "on_item_21")
    os.kill(pid, signal.SIGSTOP)

    if pair.engine.dialect.name == "sqlite":
        # A frozen process keeps its liveness lock, so its run is not recovered.
        thaw(pair, pid)
        is_done(pair, ticket, lost=0)
        assert effects(pair) == expected_lines(1)
        return
    pair.start()
    is_done(pair, ticket, lost=1)
    before = effects(pair)
    thaw(pair, pid)

    eventually(
        lambda: frozen.lines("claim.lost"), "the resumed worker finds that it has lost its claim", WAIT_S, pair.output
    )
    assert before == effects(pair) == expected_lines(1)
    assert visits(pair) == {1}
    assert writers(pair)["1 item 14"] == pid
    assert writers(pair)["1 item 21"] != pid
    assert [step.claim_token for step in records.steps(ticket.id)] == [1, 1, 2, 2]


@ON_SERVERS
def test_a_worker_that_was_frozen_without_a_transaction_has_lost_its_claim(pair: PolicyPair) -> None:
    # It has no session that the recovery can end, so only the check of its claim stops it.
    frozen = pair.start_killed_at("before_item_3=wait", threads=1)
    ticket = ProcessItems(number=1, steps_to_go=6, pause_s=0).async_().call()
    pid = reached(pair, "before_item_3")
    os.kill(pid, signal.SIGSTOP)
    pair.start()

    is_done(pair, ticket, lost=1)
    thaw(pair, pid)

    eventually(
        lambda: frozen.lines("claim.lost"), "the resumed worker finds that it has lost its claim", WAIT_S, pair.output
    )
    assert effects(pair) == Counter(f"1 item {item}" for item in range(6))
    assert {effect for effect, writer in writers(pair).items() if writer == pid} == {
        f"1 item {item}" for item in range(3)
    }


@ON_SERVERS
def test_a_worker_that_is_frozen_before_the_commit_of_a_step_delays_no_other(pair: PolicyPair) -> None:
    frozen = pair.start_killed_at("before_step_commit=wait", threads=1)
    ticket = ProcessOrder(number=1).async_().call()
    pid = reached(pair, "before_step_commit")
    os.kill(pid, signal.SIGSTOP)
    pair.start()

    is_done(pair, ticket, lost=1)
    thaw(pair, pid)

    eventually(
        lambda: frozen.lines("claim.lost"), "the resumed worker finds that it has lost its claim", WAIT_S, pair.output
    )
    assert effects(pair) == expected_lines(1)
    assert pid not in writers(pair).values()


def thaw(pair: PolicyPair, pid: int) -> None:
    pair.release_waiting()
    os.kill(pid, signal.SIGCONT)


def test_a_stopping_worker_releases_a_long_loop_at_its_next_item(pair: PolicyPair) -> None:
    first = pair.start()
    ticket = ProcessItems(number=1, steps_to_go=160).async_().call()
    eventually(lambda: len(effects(pair)) >= 3, "some items are committed", WAIT_S, pair.output)

    first.signal(signal.SIGTERM)
    requested_at = time.monotonic()
    assert first.ended() == 0
    # All items take eight seconds, and the shutdown timeout is thirty seconds.
    assert time.monotonic() - requested_at < 6
    num_done = len(effects(pair))
    assert 3 <= num_done < 160
    assert first.lines("run.released")
    second = pair.start(threads=1)
    again = ProcessItems(number=2, steps_to_go=1, pause_s=0).async_().call()

    assert ticket.result(WAIT_S) == 160
    assert again.result(WAIT_S) == 1
    is_done(pair, ticket, lost=0)
    assert effects(pair) == Counter([*(f"1 item {item}" for item in range(160)), "2 item 0"])
    (successor,) = second.children()
    by_successor = {
        int(effect.split()[2]) for effect, pid in writers(pair).items() if pid == successor and effect[0] == "1"
    }
    assert by_successor == set(range(num_done, 160))


def test_a_worker_killed_in_a_loop_loses_only_the_current_item(pair: PolicyPair) -> None:
    pair.start_killed_at("on_item_5", threads=1)
    ticket = ProcessItems(number=1, steps_to_go=8, pause_s=0).async_().call()

    is_done(pair, ticket, lost=1)

    pid = reached(pair, "on_item_5")
    assert effects(pair) == Counter(f"1 item {item}" for item in range(8))
    assert {effect for effect, writer in writers(pair).items() if writer == pid} == {
        f"1 item {item}" for item in range(5)
    }


READ = """
import sys, dexpy
dexpy.configure()
found = dexpy.Ticket.get(sys.argv[1]).progress
print(found.done if found else 0, found.total if found else 0, found.note if found else "")
"""


def test_another_process_reads_the_progress_of_a_run_during_and_after_it(pair: PolicyPair) -> None:
    pair.start_killed_at("on_item_1=wait", threads=1)
    ticket = ProcessItems(number=1, steps_to_go=4, pause_s=0).async_().call()
    reached(pair, "on_item_1")

    def read_progress() -> str:
        return pair.run([sys.executable, "-c", READ, ticket.id]).stdout.strip()

    assert read_progress() == "1 4 item 0"
    pair.release_waiting()
    assert ticket.result(WAIT_S) == 4
    assert read_progress() == "4 4 item 3"
    assert ticket.reload().progress is not None
