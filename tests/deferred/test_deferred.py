"""Deferred calls, through the public face: a call that is a row in the caller's transaction, and is made later."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from apps import shop_deferred as shop
from apps.shop_deferred import Effect, Mailer, Order, OrderClient, Subclient
from sqlalchemy.orm import Session

import dexpy
from dexpy import DeferredCall, Error, NotSerializable, OperationFailed, PropsError, defer, deferrable, records
from dexpy.database.tables import messages
from dexpy.errors import DeclarationError, InvalidTransition, OptionsError, RecordNotFound, RolledBack, UnknownOperation
from dexpy.testing import Isolated

LATER = dt.timedelta(hours=1)


@pytest.fixture(autouse=True)
def _shop(engine: sa.Engine) -> Any:
    shop.create_tables(engine)
    shop.handled_errors.clear()
    OrderClient.calls.clear()


def effects(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(Effect.note).order_by(Effect.id)).scalars())


def pass_time(isolated_runtime: Isolated, engine: sa.Engine, by: dt.timedelta) -> None:
    """Let time go by: the clock of a server cannot be moved, but what waits there can."""
    if engine.dialect.name == "sqlite":
        isolated_runtime.advance(by)
        return
    waiting = [(records.table, ("scheduled_at", "expires_at")), (messages, ("due_at",))]
    with engine.begin() as connection:
        for table, moments in waiting:
            for row in connection.execute(sa.select(table)).mappings().all():
                moved = {name: row[name] - by for name in moments if row[name] is not None}
                if moved:
                    connection.execute(sa.update(table).where(table.c.id == row["id"]).values(moved))


def later() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc) + LATER


# ------------------------------------------------------------------------------------ the transaction


def test_a_call_deferred_in_a_transaction_that_is_rolled_back_is_never_made(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    with Session(engine) as session:
        session.add(Order(id=2, number=1))
        ticket = defer(OrderClient.fulfill, order_number=1, customer_token="t", session=session)
        session.rollback()

    assert isolated_runtime.run_pending() == []
    assert (OrderClient.calls, effects(engine), records.all().count()) == ([], [], 0)
    with pytest.raises(RolledBack):
        ticket.wait(1)


def test_a_call_deferred_in_a_transaction_is_made_after_its_commit(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    with Session(engine) as session:
        ticket = defer(OrderClient.fulfill, order_number=1, customer_token="t", session=session)
        assert OrderClient.calls == []
        session.commit()
    isolated_runtime.run_pending()

    assert ticket.result(5) == "order 1 is on its way"
    assert effects(engine) == ["fulfilled 1"]


def test_the_current_session_is_joined_and_a_rolled_back_savepoint_drops_its_calls(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    with Session(engine) as session, dexpy.session(session):
        committed = defer(OrderClient.cancel, order_number=1)
        with pytest.raises(KeyError), session.begin_nested():
            defer(OrderClient.cancel, order_number=2)
            raise KeyError
        session.commit()
    isolated_runtime.run_pending()

    assert committed.result(5) == "OrderClient 1"
    assert [record.id for record in records.all()] == [committed.id]


def test_without_a_session_the_call_is_stored_at_once(isolated_runtime: Isolated) -> None:
    ticket = defer(OrderClient.cancel, 7, reason="late")

    assert records.get(ticket.id).status == "pending"
    isolated_runtime.run_pending()
    assert ticket.result(5) == "OrderClient 7 late"


def test_writes_of_a_target_are_rolled_back_with_its_attempt(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    broken = defer(OrderClient.break_down, order_number=1, customer_token="t")
    refused = defer(OrderClient.refuse, order_number=2)
    isolated_runtime.run_pending()

    assert (broken.reload().failure, refused.reload().failure) == ("crash", "business")
    assert effects(engine) == []


def test_transactions_of_a_target_are_savepoints_in_that_of_its_run(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    defer(shop.nest, word="a")
    isolated_runtime.run_pending()

    assert effects(engine) == ["around a", "kept a"]


# --------------------------------------------------------------------------------------- what a target is


def test_a_registered_function_can_still_be_called(isolated_runtime: Isolated) -> None:
    assert Subclient.cancel(3) == "Subclient 3"
    assert Mailer("me").send("you") == "me to you"
    assert shop.tick() == "tick"
    assert records.all().count() == 0


@pytest.mark.parametrize(
    ("target", "arguments", "expected"),
    [
        (OrderClient.cancel, {"order_number": 1, "reason": "why"}, "OrderClient 1 why"),
        (shop.mailer.send, {"to": "you"}, "shop to you"),
        (shop.ping_shop, {}, "shop"),
        (shop.name_one, {}, "one of them"),
        (shop.tick, {}, "tick"),
        (shop.fetch, {"url": "http://x"}, b"http://x"),
        (
            shop.bill,
            {"day": dt.date(2026, 1, 31), "amounts": [Decimal("1.10"), Decimal("2")], "fee": Decimal("0.05")},
            Decimal("3.15"),
        ),
    ],
    ids=["classmethod", "method", "bound", "one_of_two", "function", "coroutine", "types"],
)
def test_functions_and_methods_of_every_kind_can_be_deferred(
    isolated_runtime: Isolated, target: Any, arguments: dict[str, Any], expected: Any
) -> None:
    ticket = defer(target, **arguments)
    isolated_runtime.run_pending()

    result = ticket.result(5)
    assert (result, type(result)) == (expected, type(expected))


def test_a_model_is_stored_by_its_key_and_loaded_in_the_runs_transaction(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    with Session(engine) as session:
        order = session.get_one(Order, 1)
        ticket = defer(shop.stamp, order=order, others=[order], spare=order)
    by_key = defer(shop.stamp, 1, others=[])  # type: ignore[arg-type] - a key stands for its row
    isolated_runtime.run_pending()

    assert (ticket.result(5), by_key.result(5)) == (7355610, 7355608)
    assert records.get(ticket.id).params == {"order": 1, "others": [1], "spare": 1}


def test_a_mutable_default_is_not_shared_between_calls(isolated_runtime: Isolated) -> None:
    tickets = [defer(shop.collect) for _ in range(2)]
    isolated_runtime.run_pending()

    assert [ticket.result(5) for ticket in tickets] == [[0], [0]]


def test_a_stored_call_resolves_its_target_by_name_when_it_runs(
    isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = defer(OrderClient.cancel, order_number=1)
    monkeypatch.setattr(OrderClient, "cancel", lambda order_number, reason: f"a stand-in got {order_number}")
    assert OrderClient.cancel(order_number=1, reason="") == "a stand-in got 1"
    isolated_runtime.run_pending()

    assert ticket.result(5) == "a stand-in got 1"


def test_a_row_of_an_unregistered_target_is_not_run(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    ticket = defer(OrderClient.fulfill, order_number=1)
    with engine.begin() as connection:
        connection.execute(sa.delete(messages))
        connection.execute(sa.update(records.table).values(operation="os.getpid", params={}))
    records.get(ticket.id).reschedule(at=dt.datetime.now(dt.timezone.utc))
    assert [run.operation for run in isolated_runtime.run_pending()] == ["os.getpid"]

    record = records.get(ticket.id)
    assert (record.status, record.num_attempts, OrderClient.calls) == ("pending", 0, [])
    with pytest.raises(UnknownOperation, match=r"Unknown operation 'os\.getpid': this process does not declare it"):
        record.perform()


def test_a_target_without_a_record_is_sent_in_its_message(isolated_runtime: Isolated) -> None:
    ticket = defer(shop.whisper, word="psst")
    isolated_runtime.run_pending()

    assert (ticket.recorded, OrderClient.calls) == (False, [4])


# --------------------------------------------------------------------------------------------- arguments


def test_arguments_are_checked_against_the_signature_at_once_and_together(isolated_runtime: Isolated) -> None:
    with pytest.raises(PropsError) as refused:
        defer(OrderClient.fulfill, order_number="1", costumer_token="t", queue="orders")

    assert [str(problem) for problem in refused.value.problems] == [
        "order_number: expected int, got str '1'",
        "costumer_token: unknown prop; expected one of 'customer_token', 'order_number'. "
        "Did you mean 'customer_token'?",
    ]
    assert records.all().count() == 0


@pytest.mark.parametrize(
    ("arguments", "kwargs", "expected"),
    [
        ((1, 2, 3), {}, "expected at most 2 positional arguments, got 3"),
        ((1,), {"order_number": 1}, "order_number: given twice, by position and by name"),
        ((), {}, "order_number: missing; expected int"),
    ],
)
def test_invalid_arguments_are_refused(
    isolated_runtime: Isolated, arguments: tuple[Any, ...], kwargs: dict[str, Any], expected: str
) -> None:
    with pytest.raises(PropsError, match=expected):
        defer.with_options()(OrderClient.fulfill, *arguments, **kwargs)


def test_an_argument_that_has_no_json_form_is_refused_with_nothing_stored(isolated_runtime: Isolated) -> None:
    with pytest.raises(NotSerializable):
        defer(shop.collect, extra={"when": object()})
    assert records.all().count() == 0


def test_a_parameter_with_the_name_of_an_option_is_passed_after_the_options(isolated_runtime: Isolated) -> None:
    with pytest.raises(OptionsError, match=r"queue=\.\.\.\): an option and a parameter have this name"):
        defer(shop.dawdle, queue="x")
    ticket = defer.with_options(queue="orders")(shop.dawdle, queue="x")

    record = records.get(ticket.id)
    assert (record.queue, record.params) == ("orders", {"queue": "x"})


def test_a_sensitive_argument_is_shown_nowhere(isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(PropsError) as refused:
        defer(OrderClient.fulfill, order_number=1, customer_token=b"s3cr3t")
    ticket = defer(OrderClient.break_down, order_number=1, customer_token="s3cr3t")
    isolated_runtime.run_pending()

    with pytest.raises(OperationFailed) as failed:
        ticket.result(5)
    record = records.get(ticket.id)
    texts = [str(refused.value), str(failed.value), repr(record), str(record.params), caplog.text]
    texts += [str(attempt) for attempt in records.attempts(ticket.id)]
    assert not any("s3cr3t" in text for text in texts)
    assert record.error_message == "1 of <sensitive>"


# ------------------------------------------------------------------------------------------------ options


def test_a_call_is_not_made_before_it_is_due(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    ticket = defer(shop.tick, at=later())
    past = defer(shop.tick, at=dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc))

    assert [run.id for run in isolated_runtime.run_pending()] == [past.id]
    pass_time(isolated_runtime, engine, LATER)
    assert [run.id for run in isolated_runtime.run_pending()] == [ticket.id]


def test_queue_priority_and_expiry_of_the_call_win_over_those_of_the_target(isolated_runtime: Isolated) -> None:
    by_target = records.get(defer(shop.dawdle).id)
    by_call = records.get(defer(shop.tick, queue="slow", priority=-1, expires_in=60).id)

    assert (by_target.queue, by_target.priority) == ("mailers", 5)
    assert (by_call.queue, by_call.priority, by_call.expires_at is None) == ("slow", -1, False)


def test_a_policy_of_the_target_works_as_for_an_operation(isolated_runtime: Isolated) -> None:
    ticket = defer(shop.dawdle)
    contract = defer.operation_of(shop.dawdle).contract
    retried = defer(OrderClient.try_again)
    isolated_runtime.run_pending({"default"})
    isolated_runtime.run_pending({"default"})

    assert contract.timeout_s == 0.3
    assert [rule.cause for rule in contract.rules] == [KeyError]
    assert ticket.reload().pending
    assert (retried.reload().status, retried.num_attempts) == ("failed", 2)


def test_a_target_without_a_rule_has_one_attempt(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    ticket = defer(OrderClient.break_twice)
    isolated_runtime.run_pending()
    pass_time(isolated_runtime, engine, LATER)
    isolated_runtime.run_pending()

    assert (ticket.reload().status, ticket.num_attempts) == ("failed", 1)
    assert records.get(ticket.id).error_message == "the client is away"


def test_acall_defers_from_asyncio(isolated_runtime: Isolated) -> None:
    async def main() -> dexpy.Ticket[str]:
        return await defer.with_options(idempotence_token="a").acall(OrderClient.cancel, order_number=1)

    ticket = asyncio.run(main())
    isolated_runtime.run_pending()
    assert ticket.result(5) == "OrderClient 1"


# -------------------------------------------------------------------------------------------------- tokens


def test_a_second_call_with_a_token_stores_nothing_and_returns_the_ticket_of_the_first(
    isolated_runtime: Isolated,
) -> None:
    first = defer(OrderClient.fulfill, order_number=1, idempotence_token="order-1")
    second = defer(OrderClient.fulfill, order_number=1, idempotence_token="order-1")
    isolated_runtime.run_pending()
    third = defer(OrderClient.fulfill, order_number=1, idempotence_token="order-1")
    isolated_runtime.run_pending()

    assert (first.duplicate, second.duplicate, third.duplicate) == (False, True, True)
    assert first.id == second.id == third.id
    assert third.result(5) == "order 1 is on its way"
    assert OrderClient.calls == [1]


def test_a_token_is_unique_per_target_and_calls_without_one_never_conflict(isolated_runtime: Isolated) -> None:
    tickets = [
        defer(OrderClient.fulfill, order_number=1, idempotence_token="order-1"),
        defer(OrderClient.cancel, order_number=1, idempotence_token="order-1"),
        defer(OrderClient.cancel, order_number=1, idempotence_token="ORDER-1"),
        defer(OrderClient.cancel, order_number=1),
        defer(OrderClient.cancel, order_number=1, idempotence_token=None),
    ]

    assert not any(ticket.duplicate for ticket in tickets)
    assert records.all().count() == 5


def test_a_token_of_a_call_that_was_rolled_back_is_free(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    with Session(engine) as session:
        first = defer(shop.tick, idempotence_token="a", session=session)
        again = defer(shop.tick, idempotence_token="a", session=session)
        assert (again.id, again.duplicate) == (first.id, True)
        session.rollback()

    assert not defer(shop.tick, idempotence_token="a").duplicate
    with pytest.raises((RolledBack, RecordNotFound)):
        again.wait(1)


def test_a_duplicate_leaves_the_callers_transaction_unchanged(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    first = defer(shop.tick, idempotence_token="a")
    with Session(engine) as session:
        session.add(Order(id=2, number=2))
        session.flush()
        assert defer(shop.tick, idempotence_token="a", session=session).id == first.id
        session.commit()

    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(Order)).scalar_one() == 2


# ----------------------------------------------------------------------------------- records and tickets


def test_records_are_found_by_target_and_method(isolated_runtime: Isolated) -> None:
    fulfilled = defer(OrderClient.fulfill, order_number=1).id
    cancelled = defer(OrderClient.cancel, order_number=1).id
    mailed = defer(shop.mailer.send, to="you").id
    pinged = defer(shop.ping_shop).id
    ticked = defer(shop.tick).id

    def find_ids(**filters: Any) -> list[str]:
        return [record.id for record in records.where(**filters)]

    assert find_ids(target=OrderClient, method="fulfill") == [fulfilled]
    assert find_ids(target=OrderClient) == [fulfilled, cancelled]
    assert find_ids(target=OrderClient.cancel) == [cancelled]
    assert find_ids(target=shop.mailer) == [mailed, pinged]
    assert find_ids(target=Mailer, method="send") == [mailed]
    assert find_ids(target=shop, method="tick") == [ticked]
    assert find_ids(target="apps.shop_deferred.OrderClient", method="fulfill") == [fulfilled]
    assert find_ids(target="apps.shop_deferred.OrderClient") == [fulfilled, cancelled]
    assert find_ids(target=OrderClient, params={"order_number": 1}) == [fulfilled, cancelled]


def test_a_ticket_has_status_attempts_and_completion(isolated_runtime: Isolated) -> None:
    ticket = defer(OrderClient.fulfill, order_number=1)
    assert (ticket.status, ticket.num_attempts, ticket.completed_at) == ("pending", 0, None)
    isolated_runtime.run_pending()
    ticket.reload()

    assert (ticket.status, ticket.num_attempts) == ("done", 1)
    assert ticket.completed_at is not None
    assert dt.datetime.now(dt.timezone.utc) - ticket.completed_at < dt.timedelta(minutes=1)


@pytest.mark.parametrize(("event", "status"), [("expire", "expired"), ("fail", "failed")])
def test_a_pending_call_can_be_expired_or_failed_and_is_then_complete(
    isolated_runtime: Isolated, event: str, status: str
) -> None:
    ticket = defer(OrderClient.fulfill, order_number=1)
    arguments = ("the shop has closed",) if event == "fail" else ()
    getattr(ticket, event)(*arguments)

    assert (ticket.status, ticket.completed_at is None) == (status, False)
    isolated_runtime.run_pending()
    assert OrderClient.calls == []
    before = ticket.completed_at
    for again in (ticket.expire, lambda: ticket.fail("again"), ticket.perform):
        with pytest.raises(InvalidTransition):
            again()
    assert ticket.reload().completed_at == before


# -------------------------------------------------------------------------------------------- perform()


def test_perform_makes_the_call_at_once_in_this_thread(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    ticket = defer(OrderClient.fulfill, order_number=1)

    assert ticket.perform() is True
    assert (ticket.status, ticket.num_attempts, OrderClient.calls) == ("done", 1, [1])
    assert effects(engine) == ["fulfilled 1"]
    # Its message is still there, and comes to nothing.
    isolated_runtime.run_pending()
    assert (OrderClient.calls, ticket.reload().num_attempts) == ([1], 1)


def test_perform_of_a_call_that_is_not_due_only_logs(
    isolated_runtime: Isolated, engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    ticket = defer(OrderClient.fulfill, order_number=1, at=later())
    with caplog.at_level(logging.INFO):
        assert ticket.perform() is False

    assert "run.postponed" in caplog.text
    assert "reason='not due'" in caplog.text
    assert (ticket.status, ticket.num_attempts, OrderClient.calls) == ("pending", 0, [])
    pass_time(isolated_runtime, engine, LATER + dt.timedelta(seconds=5))
    assert ticket.perform() is True


def test_perform_of_a_call_that_is_not_pending_is_refused_and_changes_nothing(isolated_runtime: Isolated) -> None:
    ticket = defer(OrderClient.fulfill, order_number=1)
    ticket.perform()

    with pytest.raises(InvalidTransition, match=r"op_\w+: cannot perform a run that is done"):
        ticket.perform()
    assert (ticket.reload().num_attempts, OrderClient.calls) == (1, [1])


def test_perform_respects_the_concurrency_limit_of_the_target(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    holder, waiting = defer(shop.limited, 1), defer(shop.limited, 1)
    with engine.begin() as connection:
        changed = sa.update(records.table).where(records.table.c.id == holder.id).values(status="running")
        connection.execute(changed)

    assert waiting.perform() is False
    assert (waiting.status, waiting.num_attempts) == ("pending", 0)
    with engine.begin() as connection:
        connection.execute(sa.update(records.table).values(status="pending"))
    assert waiting.perform() is True


def test_an_error_in_perform_is_recorded_with_the_attempt_and_follows_the_rules(isolated_runtime: Isolated) -> None:
    retried, failed = defer(OrderClient.try_again), defer(OrderClient.refuse, order_number=1)

    assert retried.perform() is True
    assert (retried.status, retried.num_attempts, retried.completed_at) == ("pending", 1, None)
    retried.perform()
    failed.perform()
    assert (retried.status, retried.num_attempts) == ("failed", 2)
    assert [attempt.error_message for attempt in records.attempts(retried.id)] == ["not yet", "not yet"]
    with pytest.raises(Error, match="There is no 1 left"):
        failed.result(5)


def test_perform_of_a_record_returns_the_updated_record(isolated_runtime: Isolated) -> None:
    ticket = defer(shop.tick)

    assert records.get(ticket.id).perform().status == "done"


def test_an_expired_call_is_not_performed(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    ticket = defer(OrderClient.fulfill, order_number=1, expires_in=60)
    pass_time(isolated_runtime, engine, dt.timedelta(seconds=61))

    with pytest.raises(InvalidTransition, match="a run that is expired"):
        ticket.perform()
    assert OrderClient.calls == []


def test_a_call_by_perform_has_its_time_limit(isolated_runtime: Isolated) -> None:
    ticket = defer(shop.dawdle)
    ticket.perform()

    assert (ticket.status, ticket.failure) == ("failed", "timeout")


# ----------------------------------------------------------------------------------------- handle_error


def test_a_handler_receives_the_error_and_the_error_is_recorded(isolated_runtime: Isolated) -> None:
    ticket = defer(OrderClient.break_down, order_number=1, customer_token="t")
    isolated_runtime.run_pending()

    assert shop.handled_errors == ["1 of t"]
    assert (ticket.reload().status, ticket.completed_at is None) == ("failed", False)


def test_an_exception_in_a_handler_changes_nothing(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture
) -> None:
    ticket = defer(OrderClient.break_twice)
    isolated_runtime.run_pending()

    assert "on_error.failed" in caplog.text
    assert records.get(ticket.id).error_message == "the client is away"


def test_a_base_handles_errors_of_all_its_targets_and_a_subclass_may_add_to_it(isolated_runtime: Isolated) -> None:
    defer(OrderClient.try_again)
    isolated_runtime.run_pending()
    isolated_runtime.run_pending()
    defer(OrderClient.shout)
    isolated_runtime.run_pending()

    assert shop.handled_errors == ["try_again not yet", "try_again not yet", "shout too quiet", "and louder"]


# ---------------------------------------------------------------------------------------------- explain


def test_the_operation_behind_a_target_explains_a_call(isolated_runtime: Isolated) -> None:
    report = defer.operation_of(shop.dawdle).explain(queue="x")

    assert (report.operation, report.callable) == ("apps.shop_deferred.dawdle", True)
    assert report.background is not None
    assert (report.background["queue"], report.background["timeout"]) == ("mailers", 0.3)
    assert records.all().count() == 0


# --------------------------------------------------------------------------------------------- refusals


def spoken(word: str, *words: str) -> None: ...
def named(**words: str) -> None: ...
def timed(timeout: float) -> None: ...
def yielding() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("declare", "expected"),
    [
        (lambda: deferrable(spoken), r"deferrable\(spoken\): \*words.* is not supported"),
        (lambda: deferrable(named), r"deferrable\(named\): \*\*words"),
        (lambda: deferrable(timed), r"deferrable\(timed\).timeout: a parameter cannot have the reserved name"),
        (lambda: deferrable(yielding), r"expected a plain function, got a generator function"),
        (lambda: deferrable(7), r"expected a function, a staticmethod, a classmethod or a bound method, got 7"),
        (lambda: deferrable(shop.mailer.ping), r"a method that is bound to a Mailer requires a name"),
        (
            lambda: deferrable(shop.create_tables, retry=1),
            r"unknown policy 'retry'; expected one of .* Did you mean 'retry_on'\?",
        ),
        (
            lambda: deferrable(shop.create_tables, sensitive=("engin",)),
            r"unknown parameter 'engin' in sensitive; .* Did you mean 'engine'",
        ),
        (lambda: deferrable(shop.create_tables, sensitive="engine"), r"sensitive=\('engine',\)"),
        (
            lambda: deferrable(shop.create_tables, base=dexpy.Operation),
            r"expected a subclass of dexpy\.DeferredCall",
        ),
        (
            lambda: deferrable(shop.create_tables, name=""),
            r"deferrable\(name=''\): expected a str of 1 to 255 characters",
        ),
        (lambda: deferrable(shop.create_tables, timeout=-1), r"create_tables: timeout=-1"),
        (
            lambda: deferrable(shop.create_tables, name="apps.shop_deferred.tick"),
            r"is already used by apps\.shop_deferred\.tick",
        ),
        (lambda: DeferredCall().perform(), r"DeferredCall is a base class"),
    ],
)
def test_a_target_that_cannot_be_called_later_is_refused_at_its_declaration(declare: Any, expected: str) -> None:
    with pytest.raises(DeclarationError, match=expected):
        declare()


@pytest.mark.parametrize(
    ("call", "refusal", "expected"),
    [
        (lambda: defer(print), OptionsError, r"not registered, .*Decorate it with @deferrable"),
        (lambda: defer(lambda: None), OptionsError, r"not registered"),
        (lambda: defer(OrderClient), OptionsError, r"write OrderClient\(\.\.\.\)\.async_\(\)\.call\(\)"),
        (
            lambda: defer(Subclient.cancel, 1),
            OptionsError,
            r"another function is registered under this name, OrderClient\.cancel of apps.shop_deferred",
        ),
        (lambda: defer(Mailer("me").send, "you"), OptionsError, r"another function is registered under this name"),
        (lambda: defer(shop.one.shout), DeclarationError, r"expected exactly one BulkMailer in .*, got 2"),
        (lambda: defer(shop.tick, at=dt.datetime(2026, 1, 1)), OptionsError, r"at=.* got a naive one"),
        (
            lambda: defer(shop.tick, idempotency_token="a"),
            OptionsError,
            r"unknown argument 'idempotency_token'\. Did you mean 'idempotence_token'",
        ),
        (lambda: defer(shop.tick, queue="no queue"), OptionsError, r"defer\(tick\): invalid queue name 'no queue'"),
        (
            lambda: defer(shop.tick, idempotence_token=""),
            OptionsError,
            r"idempotence_token: expected a str of 1 to 255",
        ),
        (
            lambda: defer(shop.tick, session="mine"),
            OptionsError,
            r"defer\(tick\) session=: expected a SQLAlchemy Session",
        ),
        (lambda: defer(shop.whisper, "a", idempotence_token="b"), OptionsError, r"requires a record"),
        (lambda: records.where(target=Effect), OptionsError, r"target=Effect\): no function or method of it"),
        (lambda: records.where(target=OrderClient, method="fulfil"), OptionsError, r"Did you mean 'fulfill'\?"),
        (lambda: records.where(method="fulfill"), OptionsError, r"expected target= too\. Pass for example"),
    ],
)
def test_a_call_that_cannot_be_deferred_is_refused_and_nothing_is_stored(
    isolated_runtime: Isolated, call: Any, refusal: type[Exception], expected: str
) -> None:
    with pytest.raises(refusal, match=expected):
        call()
    assert records.all().count() == 0
