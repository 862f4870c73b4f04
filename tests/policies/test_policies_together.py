"""Several policies in one class: each policy keeps its guarantees; see "With other policies" on the reference pages."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Iterable
from datetime import timedelta
from typing import Any, TypeAlias

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import dexpy
from dexpy import (
    Async,
    Call,
    Concurrency,
    Err,
    Error,
    FernetEncryptor,
    Insert,
    Lock,
    Middleware,
    NotSerializable,
    Ok,
    Once,
    Operation,
    Propagate,
    Retry,
    Ticket,
    Unique,
    context,
    current_context,
    defer,
    deferrable,
    enqueue_all,
    guard,
    prop,
    records,
)
from dexpy.database.tables import messages
from dexpy.database.tables import records as table
from dexpy.database.tables import steps as steps_table
from dexpy.declaration.key_digests import digest
from dexpy.errors import KeyTaken, LockLost, NotUnique, OnceConflict, SensitiveInTransit
from dexpy.execution.middleware import lock as lock_step
from dexpy.maintenance.relay import Relay
from dexpy.testing import Isolated, isolated

fernet = pytest.importorskip("cryptography.fernet")

Outcome: TypeAlias = Ok[Any] | Err
SECRET = "4111-secret-1111"
KEY = fernet.Fernet.generate_key()
AT_ONCE = (Retry(ConnectionError, attempts=3, wait=0),)

events: list[Any] = []
"""The actions of the runs, in order."""
during_run: list[Callable[[], Any]] = []
"""The functions that the next runs call, the last one first."""


@pytest.fixture(autouse=True)
def _nothing_went() -> None:
    events.clear()
    during_run.clear()


@pytest.fixture
def isolated_runtime(database_url: str) -> Generator[Isolated]:
    """A runtime with an encryptor, on each database."""
    with isolated(database=database_url, encryptors={"default": FernetEncryptor(KEY)}) as runtime:
        yield runtime


def fail(*_: Any) -> None:
    raise ConnectionError("not this time")


def happen() -> None:
    """Call the next function of the test, if there is one."""
    if during_run:
        during_run.pop()()


def rows(engine: sa.Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(table).order_by(table.c.id)).all())


def rows_and_messages(engine: sa.Engine) -> tuple[int, int]:
    with engine.connect() as connection:
        count = sa.select(sa.func.count())
        return (
            connection.execute(count.select_from(table)).scalar_one(),
            connection.execute(count.select_from(messages)).scalar_one(),
        )


def elsewhere(call: Callable[[], Any]) -> Any:
    """Call a function in another thread, outside of the current run, and return its result."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    thread.join(30)
    return answers[0]


# -------------------------------------------------------------------- Lock and steps


class Rival(Operation, name="together.rival"):
    account: int
    lock = Lock(template="account:{account}", timeout=0)

    def perform(self) -> None: ...


class Chain(Operation, name="together.chain"):
    """Has a lock, two steps and a loop; records at each point whether another run can acquire the lock."""

    account: int
    lock = Lock(template="account:{account}", timeout=0)
    retry_on = (*AT_ONCE, Retry(LockLost, attempts=3, wait=0))

    def perform(self) -> str:
        first = self.step(self.first)
        self.observe("between steps")
        happen()
        for number in self.each("numbers", range(2)):
            self.observe(f"item {number}")
        self.step(self.last)
        return first

    def observe(self, where: str) -> None:
        match elsewhere(Rival(account=self.account).safe.call):
            case Err("lock_timeout"):
                events.append((where, "held"))
            case other:
                events.append((where, other))

    def first(self) -> str:
        self.observe("first")
        return f"first of {self.run_id}"

    def last(self) -> None:
        self.observe("last")


HELD = [(where, "held") for where in ("first", "between steps", "item 0", "item 1", "last")]


def test_a_lock_is_held_over_all_steps_and_released_after_them(isolated_runtime: Isolated) -> None:
    ticket = Chain(account=1).async_().call()
    isolated_runtime.run_pending()
    assert ticket.result(1) == f"first of {ticket.id}"
    assert events == HELD
    assert Rival(account=1).safe.call() == Ok(None)


class SlowChain(Chain, name="together.slow_chain"):
    retry_on = (Retry(ConnectionError, attempts=2, wait=60, jitter=0),)


def test_between_attempts_the_lock_is_free_and_the_next_attempt_acquires_it(isolated_runtime: Isolated) -> None:
    during_run.append(fail)
    ticket = SlowChain(account=1).async_().call()
    isolated_runtime.run_pending()
    assert ticket.reload().pending
    assert Rival(account=1).safe.call() == Ok(None)
    isolated_runtime.advance(60)
    isolated_runtime.run_pending()
    assert ticket.reload().done
    assert events == [*HELD[:2], *HELD[1:]]


def test_a_lock_lost_between_steps_stops_the_next_step_and_keeps_finished_ones(
    isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [False]

    def lose() -> None:
        hold = isolated_runtime.runtime.store.locks.handle(digest("lock", "account:1"))
        monkeypatch.setattr(type(hold), "is_held", lambda _: answers.pop() if answers else True)

    during_run.append(lose)
    ticket = Chain(account=1).async_().call()
    isolated_runtime.run_pending()
    attempts = [(attempt.number, attempt.error) for attempt in records.attempts(ticket.id)]
    assert attempts == [(1, "dexpy.errors.LockLost"), (2, None)]
    assert ticket.reload().done
    assert [where for where, _ in events].count("first") == 1
    assert [step.claim_token for step in records.steps(ticket.id)] == [1, 2, 2]


# -------------------------------------------------------------------- Once, Concurrency and retries


class Charge(Operation, name="together.charge"):
    order: int
    amount: int = 10
    once = Once("order")
    concurrency = Concurrency(1)
    retry_on = (Retry(ConnectionError, attempts=2, wait=0),)

    def perform(self) -> str:
        events.append(self.order)
        happen()
        return f"charged {self.amount}"


def test_a_run_with_a_key_a_limit_and_a_rule_keeps_its_key_while_it_is_blocked_and_between_attempts(
    isolated_runtime: Isolated,
) -> None:
    one, two = Charge(order=1).async_().call(), Charge(order=2).async_().call()
    observed: list[Any] = []

    def observe() -> None:
        isolated_runtime.run_pending()
        again = [Charge(order=order).async_().call() for order in (1, 2)]
        observed.append([(ticket.id, ticket.duplicate, ticket.status) for ticket in again])
        fail()

    during_run.append(observe)
    isolated_runtime.run_pending()
    assert observed == [[(one.id, True, "running"), (two.id, True, "pending")]]
    assert sorted(events) == [1, 1, 2]
    assert [ticket.result(1) for ticket in (one, two)] == ["charged 10", "charged 10"]
    assert Charge(order=1).call() == "charged 10"
    assert len(events) == 3
    with pytest.raises(OnceConflict):
        Charge(order=1, amount=11).async_().call()


def test_the_key_of_a_finally_failed_run_is_free_and_the_next_enqueue_runs(isolated_runtime: Isolated) -> None:
    during_run.extend([fail, fail])
    first = Charge(order=1).async_().call()
    isolated_runtime.run_pending()
    assert (first.reload().failure, first.num_attempts) == ("crash", 2)
    second = Charge(order=1).async_().call()
    assert not second.duplicate
    isolated_runtime.run_pending()
    assert second.result(1) == "charged 10"
    with pytest.raises(KeyTaken):
        first.retry()


class Dropped(Charge, name="together.dropped"):
    concurrency = Concurrency(1, on_conflict="discard")
    unique = Unique("order")


def test_a_run_that_is_discarded_without_a_slot_releases_both_its_keys(isolated_runtime: Isolated) -> None:
    Dropped(order=1).async_().call()
    two = Dropped(order=2).async_().call()
    during_run.append(isolated_runtime.run_pending)
    isolated_runtime.run_pending()
    assert two.reload().failure == "discarded"
    again = Dropped(order=2).async_().call()
    assert not again.duplicate
    isolated_runtime.run_pending()
    assert again.reload().done


class Opened(Operation, name="together.opened"):
    shop: int
    number: int = 0
    unique = Unique("shop", until="started")
    concurrency = Concurrency(1)

    def perform(self) -> None:
        events.append((self.shop, self.number))
        happen()


def test_a_blocked_run_with_until_started_holds_its_key(isolated_runtime: Isolated) -> None:
    Opened(shop=1).async_().call()
    two = Opened(shop=2).async_().call()
    observed: list[Any] = []

    def observe() -> None:
        isolated_runtime.run_pending()
        assert records.get(two.id).blocked_key is not None
        again = Opened(shop=2, number=1).async_().call()
        observed.append((again.duplicate, again.id))
        during_run.append(lambda: observed.append(Opened(shop=2, number=2).async_().call().duplicate))

    during_run.append(observe)
    isolated_runtime.run_pending()
    assert observed == [(True, two.id), False]
    assert events == [(1, 0), (2, 0), (2, 2)]


class Replacing(Opened, name="together.replacing"):
    unique = Unique("shop", on_conflict="replace")


def test_a_blocked_run_can_be_replaced(isolated_runtime: Isolated) -> None:
    Replacing(shop=1).async_().call()
    two = Replacing(shop=2).async_().call()

    def replace() -> None:
        isolated_runtime.run_pending()
        assert not Replacing(shop=2, number=9).async_().call().duplicate

    during_run.append(replace)
    isolated_runtime.run_pending()
    assert events == [(1, 0), (2, 9)]
    assert (two.reload().failure, records.get(two.id).blocked_key) == ("cancelled", None)


class BothKeys(Operation, name="together.both_keys"):
    order: int
    shop: int
    once = Once("order", params="ignore")
    unique = Unique("shop")

    def perform(self) -> None:
        events.append(self.order)


def test_of_two_keys_that_two_runs_hold_the_idempotency_key_is_checked_first(isolated_runtime: Isolated) -> None:
    one = BothKeys(order=1, shop=1).async_().call()
    two = BothKeys(order=2, shop=2).async_().call()
    assert BothKeys(order=1, shop=2).async_().call().id == one.id
    assert BothKeys(order=3, shop=2).async_().call().id == two.id
    isolated_runtime.run_pending()
    assert events == [1, 2]


class Ranked(Operation, name="together.ranked"):
    number: int
    concurrency = Concurrency(1, group="ranked")

    def perform(self) -> None:
        events.append(self.number)
        happen()


class Urgent(Ranked, name="together.urgent"):
    async_ = Async(priority=9)


def test_a_free_slot_goes_to_the_highest_priority_of_class_or_call(
    isolated_runtime: Isolated,
) -> None:
    Ranked(number=1).async_(priority=99).call()
    Ranked(number=2).async_().call()
    Urgent(number=3).async_().call()
    Ranked(number=4).async_(priority=5).call()
    during_run.append(isolated_runtime.run_pending)
    isolated_runtime.run_pending()
    assert events == [1, 3, 4, 2]


def test_a_blocked_run_expires(isolated_runtime: Isolated) -> None:
    Ranked(number=1).async_().call()
    two = Ranked(number=2).async_(expires_in=3600).call()

    def late() -> None:
        isolated_runtime.run_pending()
        assert records.get(two.id).blocked_key is not None
        with isolated_runtime.runtime.store.begin() as connection:
            connection.execute(sa.update(table).where(table.c.id == two.id).values(expires_at=table.c.created_at))

    during_run.append(late)
    isolated_runtime.run_pending()
    relay = Relay(
        isolated_runtime.runtime.dispatcher,
        isolated_runtime.runtime.services.heartbeat,
        isolated_runtime.runtime.intervals,
    )
    assert dict(relay.tasks)["expired"]() == 1
    assert (events, two.reload().status, two.failure) == ([1], "expired", "expired")
    assert records.get(two.id).blocked_key is None


# -------------------------------------------------------------------- cancel()


def test_a_blocked_run_that_is_cancelled_frees_its_keys_and_never_runs(isolated_runtime: Isolated) -> None:
    Charge(order=1).async_().call()
    two = Charge(order=2).async_().call()

    def cancel() -> None:
        isolated_runtime.run_pending()
        assert two.cancel().failure == "cancelled"
        assert not Charge(order=2, amount=3).async_().call().duplicate

    during_run.append(cancel)
    isolated_runtime.run_pending()
    assert events == [1, 2]
    assert two.reload().cancelled


class Endless(Operation, name="together.endless"):
    account: int
    lock = Lock(template="account:{account}", timeout=None)
    unique = Unique("account")

    def perform(self) -> None:
        events.append(self.account)


class Limited(Endless, name="together.limited"):
    timeout = 1.0


def cancel_now(isolated_runtime: Isolated, ticket: Ticket[Any]) -> None:
    """Cancel a run of this worker, which polls for cancel requests."""
    ticket.cancel()
    watch = isolated_runtime.runtime.services.watchdog
    assert watch is not None
    watch.check()


@pytest.fixture
def someone_has_the_lock(isolated_runtime: Isolated) -> Generator[None]:
    hold = isolated_runtime.runtime.store.locks.handle(digest("lock", "account:1"))
    assert hold.wait(5)
    try:
        yield
    finally:
        hold.release()


@pytest.mark.usefixtures("someone_has_the_lock")
def test_a_run_that_is_cancelled_while_it_waits_for_a_lock_ends_and_frees_its_key(
    isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = Endless(account=1).async_().call()

    def cancel(point: str) -> None:
        if point == "lock_busy":
            assert ticket.reload().running, "a run that waits for its lock is running"
            cancel_now(isolated_runtime, ticket)

    monkeypatch.setattr(lock_step, "WAIT_SLICE_S", 0.05)
    monkeypatch.setattr(lock_step, "failpoint", cancel)
    isolated_runtime.run_pending()
    assert (ticket.reload().status, ticket.failure, events) == ("cancelled", "cancelled", [])
    assert not Endless(account=1).async_().call().duplicate


@pytest.mark.usefixtures("someone_has_the_lock")
def test_the_time_limit_counts_while_a_run_waits_for_its_lock(isolated_runtime: Isolated) -> None:
    ticket = Limited(account=1).async_().call()
    isolated_runtime.run_pending()
    assert (ticket.reload().status, ticket.failure, events) == ("failed", "timeout", [])
    assert not Limited(account=1).async_().call().duplicate


class Cut(Operation, name="together.cut"):
    order: int
    once = Once("order")
    lock = Lock(template="cut:{order}", timeout=0)
    concurrency = Concurrency(1)

    def perform(self) -> None:
        self.step(self.first)
        happen()
        self.step(self.second)

    def first(self) -> None:
        events.append("first")

    def second(self) -> None:
        events.append("second")


def test_a_run_cancelled_between_steps_keeps_finished_steps_and_releases_lock_key_and_slot(
    isolated_runtime: Isolated,
) -> None:
    ticket = Cut(order=1).async_().call()

    during_run.append(lambda: cancel_now(isolated_runtime, ticket))
    isolated_runtime.run_pending()
    assert (ticket.reload().status, ticket.failure, events) == ("cancelled", "cancelled", ["first"])
    assert [step.name for step in records.steps(ticket.id)] == ["first"]
    again = Cut(order=1).async_().call()
    assert not again.duplicate
    isolated_runtime.run_pending()
    assert again.reload().done
    assert events == ["first", "first", "second"]


# -------------------------------------------------------------------- encryption


class Pay(Operation, name="together.pay"):
    encrypt = True
    order: int
    card: str
    once = Once("order")
    retry_on = AT_ONCE

    def perform(self) -> str:
        events.append(self.card)
        happen()
        return f"paid by {self.card}"


def test_an_encrypted_run_with_a_key_is_retried_replayed_and_compared_decrypted(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    during_run.append(fail)
    ticket = Pay(order=1, card=SECRET).async_().call()
    assert Pay(order=1, card=SECRET).async_().call().id == ticket.id
    with pytest.raises(OnceConflict) as raised:
        Pay(order=1, card="another").async_().call()
    assert SECRET not in str(raised.value)
    isolated_runtime.run_pending()
    assert (events, ticket.result(1)) == ([SECRET] * 2, f"paid by {SECRET}")
    assert Pay(order=1, card=SECRET).call() == f"paid by {SECRET}"
    with pytest.raises(OnceConflict):
        Pay(order=1, card="another").call()
    assert len(events) == 2
    assert SECRET not in str(rows(engine))


@deferrable(name="together.post", encrypt=True)
def post(card: str) -> str:
    events.append(("post", card))
    return card


class PayInSteps(Operation, name="together.pay_in_steps"):
    """Is encrypted and has steps, one of which defers an encrypted call."""

    encrypt = True
    card: str
    retry_on = AT_ONCE

    def perform(self) -> str:
        stamped = self.step(self.stamp)
        happen()
        for card in self.each("cards", [self.card, "other"]):
            events.append(card)  # noqa: PERF402 - each item is a transaction
        return self.step(self.send, stamped)

    def stamp(self) -> str:
        events.append("stamp")
        return f"stamped {self.card}"

    def send(self, stamped: str) -> str:
        return defer(post, card=stamped).id


def test_steps_of_an_encrypted_run_and_the_calls_it_defers_are_stored_encrypted(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    during_run.append(fail)
    ticket = PayInSteps(card=SECRET).async_().call()
    isolated_runtime.run_pending()
    deferred = Ticket.get(ticket.result(1))
    assert deferred.result(1) == f"stamped {SECRET}"
    assert events == ["stamp", SECRET, "other", ("post", f"stamped {SECRET}")]
    with engine.connect() as connection:
        stored = [connection.execute(sa.select(one)).all() for one in (table, steps_table, messages)]
    assert len(stored[1]) == 3
    assert SECRET not in str(stored)
    assert SECRET not in str([step.value for step in records.steps(ticket.id)])


# -------------------------------------------------------------------- context, trace, deferred calls


@deferrable(name="together.write_leaf")
def write_leaf(word: str) -> None:
    events.append((word, dict(current_context())))
    Leaf(word=word).async_().call()


class Leaf(Operation, name="together.leaf"):
    word: str
    tenant: str = prop(context="tenant", default="unknown")
    unique = Unique("word", "tenant")

    def perform(self) -> None:
        events.append((self.word, self.tenant))


class Campaign(Operation, name="together.campaign"):
    """Calls an operation in one step, and defers a call, which enqueues another operation, in the next."""

    retry_on = AT_ONCE

    def perform(self) -> None:
        self.step(self.now)
        happen()
        self.step(self.later)

    def now(self) -> None:
        Leaf(word="now").call()

    def later(self) -> None:
        defer(write_leaf, word="later")


def test_propagated_context_reaches_steps_retries_deferred_calls_and_keys(isolated_runtime: Isolated) -> None:
    during_run.append(fail)
    with context(tenant=Propagate("acme"), locale="de"):
        Campaign().async_().call()
    isolated_runtime.run_pending()
    assert events == [("now", "acme"), ("later", {"tenant": "acme"}), ("later", "acme")]
    tickets = []
    for tenant in ("acme", "acme", "other"):
        with context(tenant=tenant):
            tickets.append(Leaf(word="x").async_().call())
    assert [ticket.duplicate for ticket in tickets] == [False, True, False], "each tenant has its own key"


def test_ambient_values_of_an_encrypted_class_are_secret(isolated_runtime: Isolated) -> None:
    with pytest.raises(SensitiveInTransit, match="Everything.customer is sensitive"):
        context(customer=Propagate("acme")).__enter__()


def test_the_tree_has_each_run_of_every_kind_once_despite_retries(isolated_runtime: Isolated) -> None:
    during_run.append(fail)
    with dexpy.trace(trace_id="req-1", actor={"type": "user", "id": 7}):
        ticket = Campaign().async_().call()
        again = defer(write_leaf, word="alone", idempotence_token="t")
        assert defer(write_leaf, word="alone", idempotence_token="t").id == again.id
    isolated_runtime.run_pending()
    tree = records.tree("req-1")
    assert shape(tree.roots) == [
        ("together.campaign", [("together.leaf", []), ("together.write_leaf", [("together.leaf", [])])]),
        ("together.write_leaf", [("together.leaf", [])]),
    ]
    assert {node.status for node in tree.walk()} == {"done"}
    assert next(node for node in tree.roots if node.id == ticket.id).attempts == 2


def shape(nodes: Iterable[records.Node]) -> list[Any]:
    return sorted((node.operation, shape(node.children)) for node in nodes)


@deferrable(
    name="together.capture", once=Once("order"), lock=Lock(template="order:{order}"), concurrency=Concurrency(1)
)
def capture(order: int, amount: int = 1) -> int:
    events.append(order)
    return amount


def test_a_deferred_call_has_the_policies_of_an_operation(isolated_runtime: Isolated) -> None:
    first, second = defer(capture, order=1), defer(capture, order=1)
    assert (second.duplicate, second.id) == (True, first.id)
    with pytest.raises(OnceConflict):
        defer(capture, order=1, amount=2)
    isolated_runtime.run_pending()
    assert (events, defer(capture, order=1).result(1)) == ([1], 1)
    report = defer.operation_of(capture).explain(order=1)
    assert (report.once or {})["status"] == "exists"
    assert (report.lock or {})["key"] == "order:1"


# -------------------------------------------------------------------- custom middleware


def noting(name: str) -> Middleware:
    def run(call: Call, proceed: Callable[[Call], Outcome]) -> Outcome:
        outcome = proceed(call)
        events.append((name, outcome.code if isinstance(outcome, Err) else outcome.value))
        return outcome

    return Middleware(name, run)


class Watched(Operation, name="together.watched"):
    account: int
    once = Once("account")
    lock = Lock(template="account:{account}", timeout=0)
    pipeline = (
        Insert(noting("outside once"), before="once"),
        Insert(noting("outside lock"), before="lock"),
        Insert(noting("outside record"), before="record"),
    )

    @guard("Not this account")
    def forbidden(self) -> bool:
        return self.account == 13

    def perform(self) -> str:
        events.append("perform")
        return "well"


def test_a_middleware_sees_replays_only_outside_of_once(isolated_runtime: Isolated) -> None:
    assert Watched(account=2).call() == "well"
    assert events == ["perform", ("outside record", "well"), ("outside lock", "well"), ("outside once", "well")]
    events.clear()
    assert Watched(account=2).call() == "well"
    assert events == [("outside once", "well")]


@pytest.mark.usefixtures("someone_has_the_lock")
def test_outside_of_lock_a_middleware_sees_the_lock_timeout_and_the_key_is_free(isolated_runtime: Isolated) -> None:
    assert isinstance(Watched(account=1).safe.call(), Err)
    assert events == [("outside lock", "lock_timeout"), ("outside once", "lock_timeout")]
    assert (Watched.explain(account=1).once or {})["status"] == "fresh"


def test_outside_of_record_a_middleware_sees_a_refusal_with_its_row_written(isolated_runtime: Isolated) -> None:
    assert isinstance(Watched(account=13).safe.call(), Err)
    assert events == [(f"outside {name}", "forbidden") for name in ("record", "lock", "once")]
    assert [record.failure for record in records.where(operation=Watched)] == ["rejected"]


# -------------------------------------------------------------------- a class with every policy


class Everything(Operation, name="together.everything"):
    """Declares every policy."""

    encrypt = True
    order: int = prop(ge=1)
    customer: str = prop(context="customer", default="unknown")
    card: str = prop(sensitive=True, default=SECRET)
    async_ = Async(queue="bank", priority=5, expires_in=60)
    once = Once("order", expires_in=timedelta(days=1))
    unique = Unique("order", until="started")
    lock = Lock(template="order:{order}", timeout=0)
    concurrency = Concurrency(2, "customer", group="bank")
    retry_on = (Retry(ConnectionError, attempts=3, wait=0),)
    discard_on = (KeyError,)
    rescue_from = {ZeroDivisionError: "odd"}
    errors = {"odd": "Odd"}
    timeout = 30
    max_lost = 2
    pipeline = (Insert(noting("noted"), after="trace"),)

    @guard("Too large")
    def too_large(self) -> bool:
        return self.order > 1000

    def perform(self) -> str:
        return self.step(self.only)

    def only(self) -> str:
        events.append("only")
        happen()
        return self.card


def test_explain_of_a_class_with_every_policy_shows_each_one_and_has_no_effects(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    with context(customer="acme"):
        report = Everything.explain(order=7)
    assert report.callable
    assert report.context == {"customer": "ambient"}
    assert (report.once or {})["status"] == (report.unique or {})["status"] == "fresh"
    assert (report.lock or {})["key"] == "<sensitive>", "the key contains encrypted props"
    assert not (report.lock or {})["held"]
    assert {name: (report.concurrency or {})[name] for name in ("limit", "running", "blocked")} == {
        "limit": 2,
        "running": 0,
        "blocked": 0,
    }
    background = report.background or {}
    assert [background[name] for name in ("queue", "priority", "timeout", "max_lost")] == ["bank", 5, 30, 2]
    assert (report.encryption or {})["result"] == "default"
    assert all(report.pipeline[name] for name in ("noted", "once", "lock", "rescue", "guard"))
    assert not report.pipeline["refs"]
    assert SECRET not in json.dumps(report.to_dict()) + str(report)
    assert (rows(engine), events) == ([], [])


def test_a_class_with_every_policy_runs_and_explain_shows_what_it_holds(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    observed: list[Any] = []

    def observe() -> None:
        report = elsewhere(lambda: Everything.explain(order=7))
        sections = (report.once, report.unique, report.lock, report.concurrency)
        observed.extend((section or {})[name] for section, name in zip(sections, ASKED, strict=True))
        fail()

    during_run.append(observe)
    ticket = Everything(order=7).async_().call()
    isolated_runtime.run_pending()
    assert observed == ["pending", "fresh", True, 1]
    assert (ticket.result(1), events) == (SECRET, ["only", "only", ("noted", SECRET)])
    assert (Everything.explain(order=7).once or {})["status"] == "exists"
    assert SECRET not in str(rows(engine))


ASKED = ("status", "status", "held", "running")


@pytest.mark.usefixtures("someone_has_the_lock")
def test_callable_acquires_no_lock_and_claims_no_key(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    assert Watched.callable(account=1) == Ok(None)
    assert Watched.is_callable(account=1)
    assert not Watched.is_callable(account=13)
    assert rows(engine) == []


# -------------------------------------------------------------------- enqueue_all


class Told(Operation, name="together.told"):
    shop: int
    note: Any = ""
    unique = Unique("shop", on_conflict="raise")

    def perform(self) -> None:
        events.append(self.shop)


class Plain(Operation, name="together.plain"):
    number: int
    note: Any = ""

    def perform(self) -> None:
        events.append(self.number)


class Reindex(Operation, name="together.reindex"):
    shop: int
    unique = Unique("shop")

    def perform(self) -> None:
        events.append(("reindex", self.shop))


def test_duplicates_within_a_batch_and_of_earlier_runs_get_the_existing_ticket(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    earlier = [Charge(order=1).async_().call(), Reindex(shop=1).async_().call()]
    named = Plain(number=1).once("one")
    batch: list[Any] = [Charge(order=1), Charge(order=2), Charge(order=2), Reindex(shop=2), Reindex(shop=1)]
    tickets = enqueue_all([*batch, Reindex(shop=2), named, Plain(number=1).once("one"), Plain(number=2)])
    assert [ticket.duplicate for ticket in tickets] == [True, False, True, False, True, True, False, True, False]
    ids = [ticket.id for ticket in tickets]
    assert [ids[0], ids[4]] == [ticket.id for ticket in earlier]
    assert (ids[1], ids[3], ids[6]) == (ids[2], ids[5], ids[7])
    assert rows_and_messages(engine) == (6, 6)
    isolated_runtime.run_pending()
    assert sorted(str(one) for one in events) == sorted(
        str(one) for one in [1, 2, ("reindex", 1), ("reindex", 2), 1, 2]
    )
    assert all(ticket.reload().done for ticket in tickets)


BAD: list[tuple[str, Callable[[], Any], type[Exception]]] = [
    ("no JSON form", lambda: Plain(number=9, note=object()), NotSerializable),
    ("other params", lambda: Charge(order=1, amount=99), OnceConflict),
    ("not unique", lambda: Told(shop=1), NotUnique),
]


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize(("bad", "error"), [(bad, error) for _, bad, error in BAD], ids=[name for name, _, _ in BAD])
def test_an_invalid_operation_of_a_batch_stores_nothing_and_keeps_the_callers_transaction(
    isolated_runtime: Isolated, engine: sa.Engine, bad: Callable[[], Any], error: type[Exception], joined: bool
) -> None:
    Charge(order=1).async_().call()
    Told(shop=1).async_().call()
    before = rows_and_messages(engine)
    batch: list[Any] = [Plain(number=1), Charge(order=0), Reindex(shop=5), bad(), Plain(number=2), Reindex(shop=0)]
    if joined:
        with Session(isolated_runtime.runtime.store.database.engine) as session:
            with pytest.raises(error) as raised:
                enqueue_all(batch, session=session)
            Plain(number=3).async_(session=session).call()
            session.commit()
        before = before[0] + 1, before[1] + 1
    else:
        with pytest.raises(error) as raised:
            enqueue_all(batch)
    assert rows_and_messages(engine) == before
    assert raised.value.__notes__ == ["enqueue_all: item 4 of 6; nothing was stored or sent."]
    assert not any(ticket.duplicate for ticket in enqueue_all([Charge(order=0), Reindex(shop=5), Reindex(shop=0)]))


def test_a_batch_in_a_transaction_that_rolls_back_leaves_no_row_message_or_key(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    batch: list[Any] = [Plain(number=1), Charge(order=1), Charge(order=1), Reindex(shop=1)]
    with Session(isolated_runtime.runtime.store.database.engine) as session:
        first = enqueue_all(batch, session=session)
        assert [ticket.duplicate for ticket in first] == [False, False, True, False]
        session.rollback()
    assert rows_and_messages(engine) == (0, 0)
    again = enqueue_all(batch)
    assert [ticket.duplicate for ticket in again] == [False, False, True, False]
    isolated_runtime.run_pending()
    assert events == [1, 1, ("reindex", 1)]


def test_a_token_can_be_used_beside_a_batch(isolated_runtime: Isolated) -> None:
    first = Plain(number=1).async_(idempotence_token="t").call()
    (other,) = enqueue_all([Plain(number=1)])
    assert (first.duplicate, other.duplicate) == (False, False), "a batch has no token"
    assert Plain(number=1).async_(idempotence_token="t").call().id == first.id


# -------------------------------------------------------------------- nested runs


class Outer(Operation, name="together.outer"):
    """Calls an operation with a key inside its own transaction, and may fail."""

    order: int
    fails: bool = False
    errors = {"no": "No"}

    def perform(self) -> str:
        self.session.execute(sa.text("SELECT 1"))
        answer = Charge(order=self.order).call()
        if self.fails:
            raise Error("no")
        return answer


def test_a_nested_run_with_a_key_is_rolled_back_with_its_outer_run_and_its_key_is_free(
    isolated_runtime: Isolated,
) -> None:
    assert isinstance(Outer(order=1, fails=True).safe.call(), Err)
    assert Outer(order=1).call() == "charged 10"
    assert events == [1, 1]
    assert Charge(order=1).async_().call().duplicate
