"""`Rate` limits how many background runs of a key start in a window of time; docs/reference/rate.md.

There is one worker, in this thread, and the clock is moved by `advance`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa

from dexpy import Concurrency, Operation, Rate, Recording, Retry, Ticket, configure, records
from dexpy.database.tables import rate_starts, rates
from dexpy.enqueue.rate_limiter import RESERVED_PAUSE_S, SHORTEST_PAUSE_S, RateLimiter
from dexpy.errors import ConfigurationError, DeclarationError
from dexpy.runtime import install
from dexpy.testing import Isolated

PER_S = 60
started_runs: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_started() -> None:
    started_runs.clear()


class Rated(Operation):
    """Records that it started."""

    account: int = 0
    number: int = 0

    rate = Rate(2, "account", per=PER_S)

    def perform(self) -> int:
        started_runs.append(self.number)
        return self.number


class Fails(Rated):
    rate = Rate(2, per=timedelta(seconds=PER_S))
    retry_on = (Retry(RuntimeError, attempts=3, wait=0, jitter=0),)

    def perform(self) -> int:
        super().perform()
        raise RuntimeError("broken")


class Dropped(Rated):
    rate = Rate(2, per=PER_S, on_conflict="discard")


class Reads(Rated):
    rate = Rate(2, "account", per=PER_S, group="api")


class Writes(Rated):
    rate = Rate(2, "account", per=2 * PER_S, group="api")


class Both(Rated):
    rate = Rate(3, per=PER_S)
    concurrency = Concurrency(1)


class Several(Rated):
    rate = Rate(2, per=PER_S)
    concurrency = Concurrency(1, "number")


class Free(Rated):
    rate = None


class Inherits(Rated):
    pass


def enqueue(*numbers: int, cls: type[Rated] = Rated, account: int = 0, **options: Any) -> list[Ticket[int]]:
    return [cls(account=account, number=number).async_(**options).call() for number in numbers]


def waiting() -> list[str]:
    return [record.id for record in records.all() if record.blocked_key is not None]


def next_window(isolated_runtime: Isolated, seconds: float = PER_S) -> None:
    isolated_runtime.advance(seconds)
    isolated_runtime.run_pending()


def test_no_more_runs_than_the_limit_start_in_a_window(isolated_runtime: Isolated) -> None:
    tickets = enqueue(0, 1, 2, 3, 4)
    isolated_runtime.run_pending()
    assert started_runs == [0, 1]
    assert waiting() == [ticket.id for ticket in tickets[2:]]
    next_window(isolated_runtime, PER_S - 5)
    assert started_runs == [0, 1], "the window is not over"
    next_window(isolated_runtime, 6)
    assert started_runs == [0, 1, 2, 3]
    next_window(isolated_runtime)
    assert started_runs == [0, 1, 2, 3, 4]
    assert {ticket.reload()._columns["num_attempts"] for ticket in tickets} == {1}, "waiting costs no attempt"


def test_run_for_starts_each_waiting_run_at_its_time(isolated_runtime: Isolated) -> None:
    tickets = enqueue(0, 1, 2, 3, 4)
    isolated_runtime.run_for(2.5 * PER_S)
    first, *_, last = (records.get(ticket.id).started_at for ticket in tickets)
    assert first is not None
    assert last is not None
    assert timedelta(seconds=2 * PER_S) <= last - first < timedelta(seconds=2.5 * PER_S)


def test_each_start_leaves_the_window_on_its_own(isolated_runtime: Isolated) -> None:
    enqueue(0)
    isolated_runtime.run_pending()
    isolated_runtime.advance(40)
    enqueue(1, 2, 3)
    isolated_runtime.run_pending()
    assert started_runs == [0, 1]
    next_window(isolated_runtime, 25)
    assert started_runs == [0, 1, 2], "the first start is out of the window, the second is not"
    next_window(isolated_runtime, 20)
    assert started_runs == [0, 1, 2]
    next_window(isolated_runtime, 20)
    assert started_runs == [0, 1, 2, 3]


def test_waiting_runs_start_by_priority_and_age(isolated_runtime: Isolated) -> None:
    enqueue(0, 1, 2, 3)
    isolated_runtime.run_pending()
    enqueue(4)
    enqueue(5, priority=3)
    isolated_runtime.run_pending()
    for _ in range(2):
        next_window(isolated_runtime)
    assert started_runs == [0, 1, 5, 2, 3, 4]


def test_a_new_run_does_not_overtake_a_waiting_one(isolated_runtime: Isolated) -> None:
    enqueue(0, 1, 2)
    isolated_runtime.run_pending()
    isolated_runtime.advance(PER_S + 1)
    enqueue(3, 4)
    isolated_runtime.run_pending()
    assert started_runs == [0, 1, 2, 3]


def test_each_key_has_a_limit_of_its_own_and_a_group_shares_one(isolated_runtime: Isolated) -> None:
    enqueue(0, 1, 2)
    enqueue(3, account=9)
    enqueue(4, cls=Reads)
    enqueue(5, 6, cls=Writes)
    isolated_runtime.run_pending()
    assert started_runs == [0, 1, 3, 4, 5]
    next_window(isolated_runtime)
    assert started_runs[5:] == [2], "each class of the group counts all starts in its own window"
    next_window(isolated_runtime)
    assert started_runs[6:] == [6]


def test_each_attempt_counts(isolated_runtime: Isolated) -> None:
    (failing,) = enqueue(0, cls=Fails)
    isolated_runtime.run_pending()
    assert started_runs == [0, 0]
    assert failing.reload().pending
    next_window(isolated_runtime)
    assert started_runs == [0, 0, 0]
    assert failing.reload().failed


def test_a_run_above_the_limit_is_discarded_where_its_class_declares_so(isolated_runtime: Isolated) -> None:
    *_, last = enqueue(0, 1, 2, cls=Dropped)
    isolated_runtime.run_pending()
    assert started_runs == [0, 1]
    record = records.get(last.id)
    assert (record.status, record.failure) == ("failed", "discarded")
    assert record.error_message == "Discarded: 2 runs of its rate key started within 60 s."


def test_perform_counts_and_returns_false_while_the_limit_is_reached(isolated_runtime: Isolated) -> None:
    first, second, third = enqueue(0, 1, 2)
    assert [first.perform(), second.perform(), third.perform()] == [True, True, False]
    isolated_runtime.run_pending()
    assert started_runs == [0, 1]
    isolated_runtime.advance(PER_S + 1)
    assert third.perform()


def test_a_call_in_place_is_neither_limited_nor_counted(isolated_runtime: Isolated) -> None:
    for number in range(3):
        assert Rated(number=number).call() == number
    enqueue(3, 4, 5)
    isolated_runtime.run_pending()
    assert started_runs == [0, 1, 2, 3, 4]


def test_a_rate_and_a_concurrency_limit_hold_together(isolated_runtime: Isolated) -> None:
    enqueue(*range(5), cls=Both)
    isolated_runtime.run_pending()
    assert started_runs == [0, 1, 2]
    next_window(isolated_runtime)
    assert started_runs == [0, 1, 2, 3, 4]
    assert waiting() == []


def rate_limiter(isolated_runtime: Isolated) -> RateLimiter:
    recorded = isolated_runtime.runtime.services.recorded
    assert recorded is not None
    return recorded.rates


def test_a_key_whose_starts_are_reserved_by_messages_is_checked_once_a_second(isolated_runtime: Isolated) -> None:
    *_, last = enqueue(*range(6))
    isolated_runtime.run_pending()
    isolated_runtime.advance(PER_S + 1)
    rate_key = records.get(last.id).blocked_key
    assert rate_key is not None
    limiter = rate_limiter(isolated_runtime)
    num_published, pause_s = limiter.offer_starts(rate_key, last.operation)
    assert (num_published, pause_s) == (2, SHORTEST_PAUSE_S)

    assert limiter.offer_starts(rate_key, last.operation) == (0, RESERVED_PAUSE_S)


def test_the_claim_of_a_run_that_has_waited_schedules_the_next_check(
    isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, last = enqueue(*range(6), cls=Several)
    isolated_runtime.run_pending()
    isolated_runtime.advance(PER_S + 1)
    rate_key = records.get(last.id).blocked_key
    assert rate_key is not None
    limiter = rate_limiter(isolated_runtime)
    limiter.offer_starts(rate_key, last.operation)
    scheduled_keys: list[str] = []
    monkeypatch.setattr(limiter, "schedule", lambda key, *_: scheduled_keys.append(key))
    # The check of all keys, which is that of a relay, would schedule it too.
    monkeypatch.setattr(limiter, "refill", lambda: 0)
    isolated_runtime.run_pending()
    assert started_runs == [0, 1, 2, 3]
    assert rate_key in scheduled_keys, "the keys of the slots differ, and the runs wait for the same starts"


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda ticket: ticket.cancel(), id="cancelled"),
        pytest.param(lambda ticket: ticket.expire(), id="expired"),
        pytest.param(lambda ticket: ticket.fail("no"), id="failed"),
    ],
)
def test_a_waiting_run_can_be_ended(isolated_runtime: Isolated, end: Callable[[Ticket[int]], Any]) -> None:
    *_, third, last = enqueue(0, 1, 2, 3)
    isolated_runtime.run_pending()
    end(third)
    next_window(isolated_runtime)
    assert started_runs == [0, 1, 3]
    assert last.reload().done


def test_a_rescheduled_run_waits_again(isolated_runtime: Isolated) -> None:
    *_, third = enqueue(0, 1, 2)
    isolated_runtime.run_pending()
    third.reschedule(at=datetime.now(timezone.utc) - timedelta(seconds=1))
    isolated_runtime.run_pending()
    assert started_runs == [0, 1]
    assert waiting() == [third.id]
    next_window(isolated_runtime)
    assert third.reload().done


def test_a_lower_limit_counts_the_starts_before_it(isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch) -> None:
    enqueue(0, 1)
    isolated_runtime.run_pending()
    isolated_runtime.advance(30)
    monkeypatch.setattr(Rated, "rate", Rate(1, "account", per=PER_S))
    enqueue(2)
    isolated_runtime.run_pending()
    assert started_runs == [0, 1]
    monkeypatch.setattr(Rated, "rate", None)
    enqueue(3)
    isolated_runtime.run_pending()
    assert started_runs == [0, 1, 3, 2], "without a limit the waiting runs start"


def test_starts_out_of_every_window_are_deleted(isolated_runtime: Isolated) -> None:
    enqueue(0, 1)
    isolated_runtime.run_pending()
    recorded = isolated_runtime.runtime.services.recorded
    assert recorded is not None
    store = isolated_runtime.runtime.store

    def rows() -> tuple[int, int]:
        return len(store.rows(sa.select(rate_starts))), len(store.rows(sa.select(rates)))

    recorded.relay._delete_starts()
    assert rows() == (2, 1)
    isolated_runtime.advance(PER_S + 1)
    recorded.relay._delete_starts()
    assert rows() == (0, 0)
    enqueue(2, 3, 4)
    isolated_runtime.run_pending()
    assert started_runs == [0, 1, 2, 3]


def test_a_steady_key_stores_no_more_starts_than_its_limit(isolated_runtime: Isolated) -> None:
    for number in range(6):
        enqueue(number)
        isolated_runtime.run_pending()
        isolated_runtime.advance(PER_S)
    assert started_runs == list(range(6))
    assert len(isolated_runtime.runtime.store.rows(sa.select(rate_starts))) == 2


class Exchange(Operation):
    rate: float
    fee: int = 1

    def perform(self) -> float:
        return self.rate


class Named(Operation):
    @property
    def rate(self) -> int:
        return 3

    def perform(self) -> int:
        return self.rate


def test_a_prop_may_have_the_name_of_the_policy(isolated_runtime: Isolated) -> None:
    operations: list[tuple[Any, float]] = [(Exchange(rate=1.08), 1.08), (Named(), 3)]
    for operation, result in operations:
        assert operation.contract.rate is None
        assert operation.call() == result
        ticket = operation.async_().call()
        isolated_runtime.run_pending()
        assert ticket.result(1) == result


def test_explain_shows_the_limit(isolated_runtime: Isolated) -> None:
    enqueue(0, 1, 2)
    isolated_runtime.run_pending()
    report = Rated.explain(account=0).rate
    assert report is not None
    assert {name: report[name] for name in report if name != "key"} == {
        "limit": 2, "per": 60.0, "on_conflict": "wait", "started": 2, "blocked": 1,
    }  # fmt: skip
    assert Free.explain().rate is None
    assert Rated.contract.rate == Rate(2, "account", per=60)


def test_a_subclass_inherits_the_limit_with_a_key_of_its_own_or_disables_it(isolated_runtime: Isolated) -> None:
    enqueue(0, 1, 2)
    enqueue(3, cls=Inherits)
    enqueue(*range(10, 14), cls=Free)
    isolated_runtime.run_pending()
    assert started_runs == [0, 1, 3, 10, 11, 12, 13]


def test_a_run_without_a_rate_executes_no_statement_about_rates(isolated_runtime: Isolated) -> None:
    statements: list[str] = []
    engine = isolated_runtime.runtime.store.database.engine
    sa.event.listen(engine, "before_cursor_execute", lambda *event: statements.append(str(event[2])))
    (ticket,) = enqueue(0, cls=Free)
    isolated_runtime.runtime.services.recorded.record_job.run(  # type: ignore[union-attr]
        ticket.operation, ticket.id, {}
    )
    assert ticket.reload().done
    assert statements
    assert not [statement for statement in statements if "operation_rate" in statement]


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: Rate(0, per=1), "Rate(0): expected an int from 1 to 1,000,000"),
        (lambda: Rate(True, per=1), "Rate(True): expected an int"),
        (lambda: Rate("2", per=1), "Rate('2'): expected an int"),
        (lambda: Rate(1, per=0), "Rate(per=0): expected from 0.001 s to 366 days"),
        (lambda: Rate(1, per=float("nan")), "Rate"),
        (lambda: Rate(1, per="1m"), "Rate"),
        (lambda: Rate(1, per=timedelta(days=400)), "expected from 0.001 s to 366 days"),
        (lambda: Rate(1, "a", "a", per=1), "the prop 'a' is repeated"),
        (lambda: Rate(1, per=1, on_conflict="skip"), "expected one of 'discard', 'wait'"),
        (lambda: Rate(1, per=1, group=""), "Rate(group=''): expected a name"),
    ],
)
def test_an_invalid_limit_is_refused(declare: Callable[[], Any], message: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        declare()
    assert message in str(refused.value)


def test_a_class_with_an_invalid_limit_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"Slow.rate: unknown prop 'acount'; .*account"):

        class Slow(Operation):
            account: int
            rate = Rate(1, "acount", per=1)

    with pytest.raises(DeclarationError, match=r"Bare.rate: expected a Rate\(\.\.\.\) or None, got 2.*if it is a prop"):

        class Bare(Operation):
            rate = 2  # type: ignore[assignment]

    with pytest.raises(DeclarationError, match=r"rate: a rate limit requires a record .* record = False excludes"):

        class Unrecorded(Operation):
            record = False
            rate = Rate(1, per=1)

    with pytest.raises(DeclarationError, match=r"which record = Recording\(params=False\) excludes"):

        class Direct(Rated):
            record = Recording(params=False)


def test_a_limited_run_is_refused_where_nothing_is_recorded() -> None:
    configure(broker="redis://localhost:1")
    try:
        with pytest.raises(ConfigurationError, match="Rate and Fair require a record, but nothing is recorded"):
            Rated().async_().call()
    finally:
        install(None)
