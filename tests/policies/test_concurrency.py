"""`Concurrency` limits how many background runs of a key run at once; docs/reference/concurrency.md.

There is one worker, in this thread: a run calls `run_pending` in its `perform`, so that other runs are delivered
while it holds a slot.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from harness.workers import eventually

from dexpy import Async, Concurrency, Operation, Recording, Retry, Ticket, configure, records
from dexpy.database.column_types import after
from dexpy.database.tables import gates
from dexpy.database.tables import records as table
from dexpy.enqueue.concurrency_limiter import ConcurrencyLimiter
from dexpy.errors import DeclarationError
from dexpy.recording import concurrency_slots
from dexpy.recording.store import Store
from dexpy.runtime import install
from dexpy.testing import Isolated

started_runs: list[Any] = []
during_run: list[Callable[[], Any]] = []


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    started_runs.clear()
    during_run.clear()


class Limited(Operation):
    """Records that it started, and calls the test's function once while it runs."""

    account: int = 0
    number: int = 0

    concurrency = Concurrency(1, "account")

    def perform(self) -> int:
        started_runs.append(self.number)
        if during_run:
            during_run.pop()()
        return self.number


class Pair(Limited):
    concurrency = Concurrency(2)


class Fails(Limited):
    def perform(self) -> int:
        super().perform()
        raise RuntimeError("broken")


class Retried(Limited):
    retry_on = (Retry(RuntimeError, wait=0.3, jitter=0),)

    def perform(self) -> int:
        super().perform()
        if started_runs.count(1) == 1 and self.number == 1:
            raise RuntimeError("broken")
        return self.number


class Dropped(Limited):
    concurrency = Concurrency(1, on_conflict="discard")


class Reads(Limited):
    concurrency = Concurrency(1, "account", group="api")


class Writes(Limited):
    concurrency = Concurrency(1, "account", group="api")


class Odd(Limited):
    concurrency = Concurrency(1, lambda op: op.number % 2)


class Free(Limited):
    concurrency = None
    async_ = Async(priority=1)


def enqueue(*numbers: int, account: int = 0, **options: Any) -> list[Ticket[int]]:
    """Enqueue a `Limited` for each number, and return the tickets."""
    return [Limited(account=account, number=number).async_(**options).call() for number in numbers]


def blocked() -> list[str]:
    """Return the ids of records that wait for a slot."""
    return [record.id for record in records.all() if record.blocked_key is not None]


def test_a_run_without_a_slot_waits_and_starts_when_another_run_has_ended(isolated_runtime: Isolated) -> None:
    one, two = enqueue(1, 2)
    observed: list[Any] = []

    def observe() -> None:
        isolated_runtime.run_pending()
        observed.append((list(started_runs), two.reload().status, blocked()))

    during_run.append(observe)

    isolated_runtime.run_pending()

    assert observed == [([1], "pending", [two.id])]
    assert started_runs == [1, 2]
    assert [one.reload().status, two.reload().status] == ["done", "done"]
    assert blocked() == []
    assert two.reload()._columns["num_attempts"] == 1, "waiting for a slot does not count as an attempt"


def test_each_key_has_separate_slots(isolated_runtime: Isolated) -> None:
    enqueue(1)
    enqueue(2, account=9)
    during_run.append(isolated_runtime.run_pending)
    isolated_runtime.run_pending()
    assert started_runs == [1, 2]
    assert blocked() == []


def test_as_many_runs_run_at_once_as_the_limit_allows(isolated_runtime: Isolated) -> None:
    observed: list[int] = []

    def second() -> None:
        during_run.append(third)
        isolated_runtime.run_pending()

    def third() -> None:
        isolated_runtime.run_pending()
        observed.append(len(started_runs))

    for number in (1, 2, 3):
        Pair(number=number).async_().call()
    during_run.append(second)
    isolated_runtime.run_pending()
    assert observed == [2]
    assert started_runs == [1, 2, 3]


def test_blocked_runs_are_started_by_priority_and_then_by_age(isolated_runtime: Isolated) -> None:
    enqueue(1, priority=9)
    waiting = [*enqueue(2, priority=1), *enqueue(3, priority=5), *enqueue(4, priority=1), *enqueue(5, priority=5)]
    during_run.append(isolated_runtime.run_pending)
    isolated_runtime.run_pending()
    assert len(waiting) == 4
    assert started_runs == [1, 3, 5, 2, 4]


def test_a_newer_run_does_not_overtake_a_blocked_run(isolated_runtime: Isolated) -> None:
    enqueue(1)
    enqueue(2)

    def later() -> None:
        isolated_runtime.run_pending()
        # Enqueued while the slot is in use; its message is delivered before that of the blocked run.
        enqueue(3)

    during_run.append(later)
    isolated_runtime.run_pending()
    assert started_runs == [1, 2, 3]


def test_the_slot_of_a_failed_run_becomes_free(isolated_runtime: Isolated) -> None:
    Fails(number=1).async_().call()
    Fails(number=2).async_().call()
    during_run.append(isolated_runtime.run_pending)
    isolated_runtime.run_pending()
    assert started_runs == [1, 2]


def test_a_run_that_waits_for_its_next_attempt_holds_no_slot(isolated_runtime: Isolated) -> None:
    one = Retried(number=1).async_().call()
    two = Retried(number=2).async_().call()
    while_two_runs: list[str] = []
    during_run[:] = [lambda: while_two_runs.append(one.reload().status), isolated_runtime.run_pending]

    def both_are_done() -> bool:
        isolated_runtime.run_pending()
        return one.reload().done and two.reload().done

    eventually(both_are_done, "both runs are done after the wait of the retry")
    assert while_two_runs == ["pending"]
    assert started_runs == [1, 2, 1]


def test_a_run_that_is_discarded_by_its_limit_fails_with_the_reason(isolated_runtime: Isolated) -> None:
    one = Dropped(number=1).async_().call()
    two = Dropped(number=2).async_().call()
    during_run.append(isolated_runtime.run_pending)
    isolated_runtime.run_pending()
    assert started_runs == [1]
    assert one.reload().status == "done"
    assert (two.reload().status, two.failure) == ("failed", "discarded")
    message = records.get(two.id).error_message
    assert message == "Discarded: all 1 slots of its concurrency key were in use."
    assert two.retry().status == "pending"
    isolated_runtime.run_pending()
    assert started_runs == [1, 2]


def test_classes_that_name_a_group_share_its_slots(isolated_runtime: Isolated) -> None:
    Reads(number=1).async_().call()
    other = Writes(number=2).async_().call()
    observed: list[list[str]] = []

    def observe() -> None:
        isolated_runtime.run_pending()
        observed.append(blocked())

    during_run.append(observe)
    isolated_runtime.run_pending()
    assert observed == [[other.id]]
    assert started_runs == [1, 2]


def test_a_function_can_return_the_key(isolated_runtime: Isolated) -> None:
    for number in (1, 2, 3):
        Odd(number=number).async_().call()
    during_run.append(isolated_runtime.run_pending)
    isolated_runtime.run_pending()
    assert started_runs == [1, 2, 3]
    assert records.where(status="done").count() == 3


def test_a_call_in_place_is_not_limited(isolated_runtime: Isolated) -> None:
    enqueue(1)
    during_run.append(lambda: Limited(number=2).call())
    isolated_runtime.run_pending()
    assert started_runs == [1, 2]


def test_a_blocked_run_can_be_cancelled_and_can_expire(isolated_runtime: Isolated) -> None:
    (one,) = enqueue(1)
    (two,) = enqueue(2)
    (three,) = enqueue(3, expires_in=5)
    (four,) = enqueue(4)

    def end_them() -> None:
        isolated_runtime.run_pending()
        assert len(blocked()) == 3
        assert two.cancel().failure == "cancelled"
        assert three.expire().status == "expired"
        assert four.reschedule(at=datetime.now(timezone.utc) + timedelta(days=1)).status == "pending"
        assert blocked() == []

    during_run.append(end_them)
    isolated_runtime.run_pending()
    assert started_runs == [1]
    assert one.reload().status == "done"
    assert four.reload().status == "pending"


def test_an_expired_blocked_run_is_skipped(isolated_runtime: Isolated) -> None:
    enqueue(1)
    enqueue(2, expires_in=3600)
    enqueue(3)

    def late() -> None:
        isolated_runtime.run_pending()
        past = sa.update(table).where(table.c.expires_at.is_not(None)).values(expires_at=table.c.created_at)
        with isolated_runtime.runtime.store.begin() as connection:
            connection.execute(past)

    during_run.append(late)
    isolated_runtime.run_pending()
    refill_slots(isolated_runtime)
    assert started_runs == [1, 3]


def test_a_raised_limit_applies_to_blocked_runs(isolated_runtime: Isolated, monkeypatch: Any) -> None:
    def raised() -> None:
        isolated_runtime.run_pending()
        assert len(blocked()) == 2
        object.__setattr__(Limited.contract, "concurrency", Concurrency(3, "account"))
        refill_slots(isolated_runtime)
        isolated_runtime.run_pending()
        assert started_runs == [1, 2, 3]

    declared = Limited.contract.concurrency
    try:
        enqueue(1, 2, 3)
        during_run.append(raised)
        isolated_runtime.run_pending()
    finally:
        object.__setattr__(Limited.contract, "concurrency", declared)
    assert started_runs == [1, 2, 3]


def test_a_removed_limit_releases_all_blocked_runs(isolated_runtime: Isolated) -> None:
    def taken_back() -> None:
        isolated_runtime.run_pending()
        object.__setattr__(Limited.contract, "concurrency", None)
        refill_slots(isolated_runtime)
        isolated_runtime.run_pending()
        assert started_runs == [1, 2, 3]

    declared = Limited.contract.concurrency
    try:
        enqueue(1, 2, 3)
        during_run.append(taken_back)
        isolated_runtime.run_pending()
    finally:
        object.__setattr__(Limited.contract, "concurrency", declared)


def refill_slots(isolated_runtime: Isolated) -> int:
    """Fill the free slots, as the relay of a worker does in each poll."""
    return ConcurrencyLimiter(isolated_runtime.runtime.store, isolated_runtime.runtime.dispatcher).refill_slots()


def test_the_relay_fills_free_slots_with_blocked_runs(isolated_runtime: Isolated) -> None:
    one, two, three = enqueue(1, 2, 3)
    # As if a worker died after the end of its run, before it published the blocked records.
    wait = {"blocked_key": table.c.concurrency_key, "enqueued_at": None, "scheduled_at": None}
    with isolated_runtime.runtime.store.begin() as connection:
        connection.execute(sa.update(table).values(wait))
        connection.execute(sa.text("DELETE FROM dexpy_messages"))
    assert isolated_runtime.run_pending() == []
    assert refill_slots(isolated_runtime) == 1
    assert refill_slots(isolated_runtime) == 0, "the published record uses the only slot"
    isolated_runtime.run_pending()
    assert started_runs == [1, 2, 3]
    assert {one.reload().status, two.reload().status, three.reload().status} == {"done"}


def test_the_relay_fills_the_free_slots_of_every_key(isolated_runtime: Isolated) -> None:
    for account in (1, 2, 3):
        enqueue(10 * account, 10 * account + 1, account=account)
    wait = {"blocked_key": table.c.concurrency_key, "enqueued_at": None, "scheduled_at": None}
    with isolated_runtime.runtime.store.begin() as connection:
        connection.execute(sa.update(table).values(wait))
        connection.execute(sa.text("DELETE FROM dexpy_messages"))

    assert refill_slots(isolated_runtime) == 3
    isolated_runtime.run_pending()

    assert sorted(started_runs) == [10, 11, 20, 21, 30, 31]


def test_a_message_that_no_worker_claims_reserves_a_slot_for_a_limited_time(
    isolated_runtime: Isolated,
) -> None:
    one, two = enqueue(1, 2)
    wait = {"blocked_key": table.c.concurrency_key, "enqueued_at": None, "scheduled_at": None}
    with isolated_runtime.runtime.store.begin() as connection:
        connection.execute(sa.update(table).values(wait))
        connection.execute(sa.text("DELETE FROM dexpy_messages"))
    assert (refill_slots(isolated_runtime), refill_slots(isolated_runtime)) == (1, 0)
    with isolated_runtime.runtime.store.begin() as connection:
        # As if the first message was lost, or is in a queue that no worker serves.
        connection.execute(sa.text("DELETE FROM dexpy_messages"))
        long_ago = after(-concurrency_slots.MESSAGE_S - 1)
        sent_at = sa.update(table).where(table.c.id == one.id).values(enqueued_at=long_ago)
        connection.execute(sent_at)

    assert refill_slots(isolated_runtime) == 1
    isolated_runtime.run_pending()

    assert two.reload().status == "done"


def test_polls_do_not_read_blocked_rows(isolated_runtime: Isolated) -> None:
    enqueue(1, 2)

    def observe() -> None:
        isolated_runtime.run_pending()
        store: Store = isolated_runtime.runtime.store
        assert not store.has_unpublished(None)
        assert isolated_runtime.runtime.dispatcher.transport.sql_queue.pending().due == 0
        assert refill_slots(isolated_runtime) == 0

    during_run.append(observe)
    isolated_runtime.run_pending()
    assert started_runs == [1, 2]


def test_rows_of_limits_that_are_not_in_use_are_deleted(isolated_runtime: Isolated) -> None:
    enqueue(1)
    observed: list[int] = []

    def forget() -> None:
        with isolated_runtime.runtime.store.begin() as connection:
            concurrency_slots.delete_unused_keys(connection)
            observed.append(len(connection.execute(sa.select(gates)).all()))

    during_run.append(forget)
    isolated_runtime.run_pending()
    forget()
    has_gates = isolated_runtime.runtime.store.database.url.get_backend_name() != "sqlite"
    assert observed == [int(has_gates), 0]
    enqueue(2)
    isolated_runtime.run_pending()
    assert started_runs == [1, 2]


def test_a_row_that_was_stored_before_its_class_had_a_limit_runs_without_one(isolated_runtime: Isolated) -> None:
    enqueue(1)
    with isolated_runtime.runtime.store.begin() as connection:
        connection.execute(sa.update(table).values(concurrency_key=None))
    isolated_runtime.run_pending()
    assert started_runs == [1]


def test_the_key_is_stored_as_a_digest(isolated_runtime: Isolated) -> None:
    enqueue(1)
    (key,) = {record.concurrency_key for record in records.all()}
    assert len(key) == 64
    assert set(key) <= set("0123456789abcdef")


def test_explain_shows_which_runs_have_slots_and_which_wait(isolated_runtime: Isolated) -> None:
    enqueue(1, 2)
    observed: list[Any] = []

    def observe() -> None:
        isolated_runtime.run_pending()
        observed.append(Limited.explain(account=0).concurrency)

    during_run.append(observe)
    isolated_runtime.run_pending()
    (report,) = observed
    assert (report["limit"], report["running"], report["blocked"], report["on_conflict"]) == (1, 1, 1, "wait")
    idle = Limited.explain(account=5).concurrency
    assert (idle["running"], idle["blocked"]) == (0, 0)


def test_a_limit_of_an_unrecorded_class_is_refused(tmp_path: Any) -> None:
    from dexpy import ConfigurationError

    configure(broker="redis://127.0.0.1:1/0")
    try:
        with pytest.raises(
            ConfigurationError, match="Once, Unique, Concurrency, Rate and Fair require a record, but nothing"
        ):
            Limited().async_().call()
    finally:
        install(None)


REFUSED = {
    "no number": (
        lambda: Concurrency("2"),
        "Concurrency('2'): expected an int of at least 1, the number of runs at once.",
    ),
    "none at all": (lambda: Concurrency(0, "a"), "Concurrency(0): expected an int of at least 1"),
    "yes": (lambda: Concurrency(True), "Concurrency(True): expected an int of at least 1"),
    "conflict": (lambda: Concurrency(1, on_conflict="wiat"), "on_conflict='wiat'): expected one of"),
    "group": (lambda: Concurrency(1, group=""), "Concurrency(group=''): expected a name"),
    "no name": (
        lambda: Concurrency(1, 7),
        "Concurrency(...): expected names of props, one function of the operation or template=, got 7.",
    ),
}


@pytest.mark.parametrize(("declare", "message"), REFUSED.values(), ids=REFUSED)
def test_an_invalid_limit_is_refused(declare: Callable[[], Any], message: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        declare()
    assert message in str(refused.value)


def test_a_class_with_an_invalid_limit_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"Slow.concurrency: unknown prop 'acount'; .*account"):

        class Slow(Operation):
            account: int
            concurrency = Concurrency(1, "acount")

    with pytest.raises(DeclarationError, match=r"Bare.concurrency: expected a Concurrency\(\.\.\.\) or None, got 2"):

        class Bare(Operation):
            concurrency = 2  # type: ignore[assignment]

    with pytest.raises(
        DeclarationError, match="a concurrency limit requires a record from the start of a run, which record = False"
    ):

        class Unrecorded(Operation):
            record = False
            concurrency = Concurrency(1)

    with pytest.raises(DeclarationError, match=r"which record = Recording\(params=False\) excludes"):

        class Direct(Limited):
            record = Recording(params=False)


def test_a_subclass_disables_its_limit(isolated_runtime: Isolated) -> None:
    Free(number=1).async_().call()
    Free(number=2).async_().call()
    during_run.append(isolated_runtime.run_pending)
    isolated_runtime.run_pending()
    assert started_runs == [1, 2]
    assert {record.concurrency_key for record in records.all()} == {None}
