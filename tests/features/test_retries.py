"""The rules `retry_on` and `discard_on` of background runs: their attempts and waits."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

import dexpy
from dexpy import Err, Error, Ok, Operation, Recording, Ref, Reset, Retry, guard, prop, records
from dexpy.errors import DeclarationError
from dexpy.testing import Isolated

from .shop import Customer, Shop
from .tables import attempts, messages, row, rows

WAIT_S = 5.0


class Leak(ConnectionError):
    """A subclass of ConnectionError."""


class Gone(Exception):
    """An exception that rules discard."""


script: list[Any] = []
"""What each run raises, in order; None lets it succeed."""
observed: list[Any] = []
"""The calls of the observers."""
performed: list[str] = []
"""The ids of the runs, one for each attempt."""


@pytest.fixture(autouse=True)
def _clean() -> None:
    for noted in (script, observed, performed):
        noted.clear()


class Scripted(Operation):
    """Raises the next exception of `script`, or succeeds."""

    def perform(self) -> int:
        performed.append(self.run_id)
        raised = script.pop(0) if script else None
        if raised is not None:
            raise raised
        return len(performed)


def run_out(isolated_runtime: Isolated) -> list[float]:
    """Run until no message is left, and return the waits between the attempts, in seconds."""
    waits: list[float] = []
    isolated_runtime.run_pending()
    while waiting := messages(isolated_runtime):
        due = datetime.fromisoformat(waiting[0]["due_at"])
        recorded = [each for each in rows(isolated_runtime) if each["status"] == "pending"]
        since = recorded[0]["updated_at"] if recorded else waiting[0]["created_at"]
        waits.append((due - datetime.fromisoformat(since)).total_seconds())
        isolated_runtime.advance(waits[-1] + 1)
        assert isolated_runtime.run_pending(), "the delayed message is due"
    return waits


class NoRule(Scripted):
    pass


class Thrice(Scripted):
    retry_on = (Retry(ConnectionError, attempts=3, wait=10, jitter=0),)


class ThriceDirect(Thrice):
    record = False


class ThriceNoParams(Thrice):
    record = Recording(params=False)


def test_without_a_rule_there_is_one_attempt(isolated_runtime: Isolated) -> None:
    script[:] = [ConnectionError("down")] * 5

    ticket = NoRule().async_().call()
    assert run_out(isolated_runtime) == []

    assert len(performed) == 1
    assert (row(isolated_runtime, ticket.id)["status"], row(isolated_runtime, ticket.id)["failure"]) == (
        "failed",
        "crash",
    )


def test_attempts_3_allows_three_attempts_in_all(isolated_runtime: Isolated) -> None:
    script[:] = [ConnectionError("down")] * 9

    ticket = Thrice().async_().call()
    waits = run_out(isolated_runtime)

    assert waits == [pytest.approx(10, abs=0.1)] * 2
    assert performed == [ticket.id] * 3
    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["failure"], stored["error"]) == ("failed", "crash", "ConnectionError")
    assert (stored["num_attempts"], stored["claim_token"]) == (3, 3)
    assert stored["completed_at"] is not None


def test_a_run_that_succeeds_on_retry_is_done_without_an_error(isolated_runtime: Isolated) -> None:
    script[:] = [ConnectionError("down"), ConnectionError("still down")]

    ticket = Thrice().async_().call()
    run_out(isolated_runtime)

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], json.loads(stored["result"]), stored["num_attempts"]) == ("done", {"value": 3}, 3)
    assert [stored[column] for column in ("error", "failure", "error_message", "error_details")] == [None] * 4
    stored_attempts = attempts(isolated_runtime, ticket.id)
    assert [(each["number"], each["failure"], each["error"], each["error_message"]) for each in stored_attempts] == [
        (1, "crash", "ConnectionError", "down"),
        (2, "crash", "ConnectionError", "still down"),
    ]
    assert all(
        "test_retries.py" in each["traceback"] and each["started_at"] <= each["ended_at"] for each in stored_attempts
    )
    shown = records.attempts(ticket.id)
    assert [(each.number, each.failure) for each in shown] == [(1, "crash"), (2, "crash"), (3, None)]


def test_between_attempts_a_run_is_pending_with_its_last_error(isolated_runtime: Isolated) -> None:
    script[:] = [ConnectionError("down")]
    ticket = Thrice().async_(queue="mailers", priority=4).call()

    isolated_runtime.run_pending()

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["error"], stored["failure"]) == ("pending", "ConnectionError", "crash")
    assert (stored["error_message"], stored["completed_at"], stored["claimed_by"]) == ("down", None, None)
    (message,) = messages(isolated_runtime)
    assert (message["queue"], message["priority"]) == ("mailers", 4)
    assert ticket.reload().pending
    assert ticket.outcome is None
    assert ticket.failure == "crash"
    assert ticket.wait(0.05) is None, "a wait does not return a failure that will be retried"
    run_out(isolated_runtime)
    assert ticket.wait(WAIT_S) == Ok(2)


def test_a_retry_runs_under_the_same_id(isolated_runtime: Isolated) -> None:
    script[:] = [ConnectionError(), ConnectionError()]
    ticket = Thrice().async_().call()

    run_out(isolated_runtime)

    assert set(performed) == {ticket.id}


def test_a_call_in_place_is_never_retried(isolated_runtime: Isolated) -> None:
    script[:] = [ConnectionError("down")]

    with pytest.raises(ConnectionError):
        Thrice().call()

    assert (len(performed), messages(isolated_runtime)) == (1, [])
    assert [each["status"] for each in rows(isolated_runtime)] == ["failed"]


# ----------------------------------------------------------------------------------------------------- waits


class ByNumber(Scripted):
    retry_on = (Retry(ConnectionError, attempts=4, wait=2.5, jitter=0),)


class ByTimedelta(Scripted):
    retry_on = (Retry(ConnectionError, attempts=4, wait=timedelta(minutes=1), jitter=0),)


class ByDefault(Scripted):
    retry_on = (Retry(ConnectionError, jitter=0),)


class Polynomial(Scripted):
    retry_on = (Retry(ConnectionError, attempts=5, wait="polynomially_longer", jitter=0),)


class Exponential(Scripted):
    retry_on = (Retry(ConnectionError, attempts=5, wait="exponentially_longer", jitter=0),)


class ByFunction(Scripted):
    retry_on = (Retry(ConnectionError, attempts=4, wait=lambda number: timedelta(hours=number), jitter=0),)


class Jittery(Scripted):
    retry_on = (Retry(ConnectionError, attempts=21, wait=100),)


class BadWait(Scripted):
    retry_on = (Retry(ConnectionError, attempts=4, wait=lambda number: -1),)


@pytest.mark.parametrize(
    ("operation", "waits"),
    [
        (ByNumber, [2.5] * 3),
        (ByTimedelta, [60] * 3),
        (ByDefault, [3] * 4),
        (Polynomial, [3, 18, 83, 258]),
        (Exponential, [2, 4, 8, 16]),
        (ByFunction, [3600, 7200, 10800]),
    ],
)
def test_a_wait_is_a_number_a_timedelta_a_name_or_a_function(
    isolated_runtime: Isolated, operation: type[Scripted], waits: list[float]
) -> None:
    script[:] = [ConnectionError()] * 9

    operation().async_().call()

    assert run_out(isolated_runtime) == [pytest.approx(wait, abs=0.1) for wait in waits]


def test_jitter_adds_up_to_fifteen_percent(isolated_runtime: Isolated) -> None:
    script[:] = [ConnectionError()] * 20

    Jittery().async_().call()
    waits = run_out(isolated_runtime)

    assert len(waits) == 20
    assert all(99.9 <= wait <= 115.1 for wait in waits)
    assert max(waits) - min(waits) > 1


def test_a_wait_function_that_fails_ends_the_row_with_the_error_of_the_run(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture
) -> None:
    script[:] = [ConnectionError("down")]

    ticket = BadWait().async_().call()
    run_out(isolated_runtime)

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["failure"], stored["error"]) == ("failed", "crash", "ConnectionError")
    assert f"retry_rule.failed operation={__name__}.BadWait" in caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Retry(), "expected exception classes or error codes, got none"),
        (lambda: Retry(int), "expected subclasses of Exception or codes"),
        (lambda: Retry(KeyboardInterrupt), "Exception"),
        (lambda: Retry(ConnectionError, attempts=0), "attempts=0.*at least 1"),
        (lambda: Retry(ConnectionError, attempts=True), "attempts=True"),
        (lambda: Retry(ConnectionError, wait="polynomialy_longer"), "mean 'polynomially_longer'"),
        (lambda: Retry(ConnectionError, wait=-1), "0 or more seconds"),
        (lambda: Retry(ConnectionError, jitter=2), "from 0 to 1"),
    ],
)
def test_an_invalid_rule_is_refused_at_its_declaration(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        make()


# ---------------------------------------------------------------------------------------------- precedence and counters


class PerRule(Scripted):
    retry_on = (
        Retry(ConnectionError, attempts=3, wait=10, jitter=0),
        Retry(LookupError, attempts=2, wait=20, jitter=0),
    )


def test_each_rule_counts_its_own_attempts(isolated_runtime: Isolated) -> None:
    script[:] = [ConnectionError(), KeyError("k"), ConnectionError(), ConnectionError()]

    ticket = PerRule().async_().call()
    waits = run_out(isolated_runtime)

    # Two ConnectionErrors and one KeyError: neither rule has used up its attempts before the fourth run.
    assert waits == [pytest.approx(wait, abs=0.1) for wait in (10, 20, 10)]
    stored = row(isolated_runtime, ticket.id)
    assert (len(performed), stored["num_attempts"], stored["status"]) == (4, 4, "failed")
    assert json.loads(stored["retry_counts"] or "{}") == {"ConnectionError": 2, "LookupError": 1}


class Shared(Scripted):
    retry_on = (Retry(ConnectionError, LookupError, attempts=3, wait=1, jitter=0),)


def test_exceptions_of_one_rule_are_counted_together(isolated_runtime: Isolated) -> None:
    script[:] = [ConnectionError(), KeyError("k"), ConnectionError(), None]

    ticket = Shared().async_().call()
    run_out(isolated_runtime)

    assert (len(performed), row(isolated_runtime, ticket.id)["status"]) == (3, "failed")


class Specific(Scripted):
    retry_on = (
        Retry(Exception, attempts=9, wait=1, jitter=0),
        Retry(Leak, attempts=2, wait=7, jitter=0),
        Retry(OSError, attempts=9, wait=3, jitter=0),
    )


@pytest.mark.parametrize(("raised", "wait"), [(Leak(), 7), (ConnectionError(), 3), (ValueError(), 1)])
def test_the_rule_for_the_most_specific_class_applies(
    isolated_runtime: Isolated, raised: Exception, wait: float
) -> None:
    script[:] = [raised]

    Specific().async_().call()

    assert run_out(isolated_runtime) == [pytest.approx(wait, abs=0.1)]


class ApplicationOperation(Scripted):
    """The rules that an application declares for all of its operations."""

    retry_on = (Retry(ConnectionError, attempts=4, wait=1, jitter=0), Retry(Leak, attempts=4, wait=2, jitter=0))
    discard_on = (Gone,)


class Nearer(ApplicationOperation):
    retry_on = (
        Retry(ConnectionError, attempts=2, wait=5, jitter=0),
        Retry(ConnectionError, attempts=2, wait=6, jitter=0),
    )


class Forgetful(ApplicationOperation):
    retry_on = (Reset(), Retry(LookupError, attempts=2, wait=8, jitter=0))


@pytest.mark.parametrize(
    ("operation", "raised", "waits"),
    [
        (Nearer, ConnectionError(), [6]),
        (Nearer, Leak(), [2]),
        (Forgetful, ConnectionError(), []),
        (Forgetful, KeyError("k"), [8]),
    ],
    ids=["later rule of the subclass", "more specific rule of the base", "reset", "own rule after a reset"],
)
def test_rules_of_a_subclass_add_to_those_of_its_base_and_precede_them(
    isolated_runtime: Isolated, operation: type[Scripted], raised: Exception, waits: list[float]
) -> None:
    script[:] = [raised]

    operation().async_().call()

    assert run_out(isolated_runtime) == [pytest.approx(wait, abs=0.1) for wait in waits]


class Endless(Scripted):
    retry_on = (Retry(ConnectionError, attempts=None, wait=1, jitter=0),)


def test_attempts_none_retries_without_a_limit(isolated_runtime: Isolated) -> None:
    script[:] = [ConnectionError()] * 12

    ticket = Endless().async_().call()
    run_out(isolated_runtime)

    assert (row(isolated_runtime, ticket.id)["status"], len(performed)) == ("done", 13)


# ------------------------------------------------------------------------------------------------------- discards


class Discarding(ApplicationOperation):
    discard_on = (LookupError,)


class DiscardsMost(Scripted):
    retry_on = (Retry(OSError, attempts=3, wait=1, jitter=0),)
    discard_on = (ConnectionError,)


@pytest.mark.parametrize("raised", [Gone("for ever"), KeyError("k")])
def test_a_discarded_exception_is_not_retried(isolated_runtime: Isolated, raised: Exception) -> None:
    script[:] = [raised]

    ticket = Discarding().async_().call()
    run_out(isolated_runtime)

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["failure"], stored["num_attempts"]) == ("failed", "discarded", 1)
    assert stored["error"].endswith(type(raised).__name__)
    with pytest.raises(dexpy.OperationFailed) as failed:
        ticket.result(WAIT_S)
    assert failed.value.failure == "discarded"


def test_the_more_specific_of_a_discard_and_a_retry_applies(
    isolated_runtime: Isolated,
) -> None:
    script[:] = [Leak()]
    discarded = DiscardsMost().async_().call()
    run_out(isolated_runtime)
    assert row(isolated_runtime, discarded.id)["failure"] == "discarded"

    script[:] = [OSError()]
    retried = DiscardsMost().async_().call()
    assert len(run_out(isolated_runtime)) == 1
    assert row(isolated_runtime, retried.id)["status"] == "done"


class Greets(Operation):
    customer: Ref[Customer]
    retry_on = (Retry(Exception, attempts=5, wait=1, jitter=0),)

    def perform(self) -> str:
        performed.append(self.run_id)
        return self.customer.name


class GreetsInside(Operation):
    """Calls an operation whose referenced row is deleted."""

    retry_on = (Retry(LookupError, attempts=2, wait=1, jitter=0),)

    def perform(self) -> str:
        performed.append(self.run_id)
        return Greets(customer=404).call()


def test_a_missing_row_is_discarded_although_a_rule_retries_everything(isolated_runtime: Isolated, shop: Shop) -> None:
    ticket = Greets(customer=404).async_().call()

    assert run_out(isolated_runtime) == []
    stored = row(isolated_runtime, ticket.id)
    assert (stored["failure"], stored["error"], stored["num_attempts"]) == ("discarded", "dexpy.errors.RefNotFound", 1)
    assert performed == []


def test_a_missing_row_of_a_nested_call_is_an_ordinary_exception(isolated_runtime: Isolated, shop: Shop) -> None:
    ticket = GreetsInside().async_().call()

    assert len(run_out(isolated_runtime)) == 1
    assert (row(isolated_runtime, ticket.id)["failure"], len(performed)) == ("crash", 2)


# ------------------------------------------------------------------------------------------------- business errors


class Broke(Scripted):
    errors = {"no_balance", "busy"}
    retry_on = (
        Retry(Exception, attempts=4, wait=1, jitter=0),
        Retry("busy", attempts=3, wait=5, jitter=0),
    )


class DiscardsCode(Scripted):
    discard_on = ("stale", Exception)


class AnyError(Scripted):
    retry_on = (Retry(Error, attempts=2, wait=4, jitter=0),)


class Refusing(Scripted):
    retry_on = (Retry(Exception, Error, attempts=4, wait=1, jitter=0),)

    @guard("It is closed")
    def closed(self) -> bool:
        return not observed


class Patient(Refusing):
    retry_on = (Retry("closed", attempts=3, wait=60, jitter=0),)


def test_a_business_error_is_not_retried_by_a_rule_for_exceptions(isolated_runtime: Isolated) -> None:
    script[:] = [Error("no_balance", "Nothing to send")]

    ticket = Broke().async_().call()

    assert run_out(isolated_runtime) == []
    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["failure"], stored["error"]) == ("failed", "business", "no_balance")
    assert ticket.wait(WAIT_S) == Err("no_balance", "Nothing to send")


def test_a_business_error_is_retried_by_a_rule_that_names_its_code(isolated_runtime: Isolated) -> None:
    script[:] = [Error("busy", "Later", details={"until": 7})] * 2

    healed = Broke().async_().call()
    assert run_out(isolated_runtime) == [pytest.approx(5, abs=0.1)] * 2
    stored = row(isolated_runtime, healed.id)
    assert stored["status"] == "done"
    assert [stored[column] for column in ("error", "failure", "error_message", "error_details")] == [None] * 4

    script[:] = [Error("busy", "Later")] * 9
    failed = Broke().async_().call()
    assert len(run_out(isolated_runtime)) == 2
    stored = row(isolated_runtime, failed.id)
    assert (stored["status"], stored["failure"], stored["error"]) == ("failed", "business", "busy")
    assert [each["failure"] for each in attempts(isolated_runtime, failed.id)] == ["business"] * 3


def test_a_rule_for_the_class_of_business_errors_names_them_all(isolated_runtime: Isolated) -> None:
    script[:] = [Error("anything")]

    ticket = AnyError().async_().call()

    assert len(run_out(isolated_runtime)) == 1
    assert row(isolated_runtime, ticket.id)["status"] == "done"


@pytest.mark.parametrize(("code", "failure"), [("stale", "discarded"), ("other", "business")])
def test_a_business_error_is_discarded_by_its_code_alone(isolated_runtime: Isolated, code: str, failure: str) -> None:
    script[:] = [Error(code)]

    ticket = DiscardsCode().async_().call()
    run_out(isolated_runtime)

    assert (row(isolated_runtime, ticket.id)["failure"], row(isolated_runtime, ticket.id)["error"]) == (failure, code)


def test_a_refusal_by_a_guard_is_not_retried(isolated_runtime: Isolated) -> None:
    ticket = Refusing().async_().call()

    assert run_out(isolated_runtime) == []
    assert (row(isolated_runtime, ticket.id)["failure"], performed) == ("rejected", [])


def test_a_refusal_is_retried_by_a_rule_that_names_the_guard(isolated_runtime: Isolated) -> None:
    given_up = Patient().async_().call()
    assert run_out(isolated_runtime) == [pytest.approx(60, abs=0.1)] * 2
    assert (row(isolated_runtime, given_up.id)["failure"], performed) == ("rejected", [])

    healed = Patient().async_().call()
    isolated_runtime.run_pending()
    observed.append("open")
    run_out(isolated_runtime)
    assert row(isolated_runtime, healed.id)["status"] == "done"


# ----------------------------------------------------------------------------------------------------- rescue, observer


class Rescued(Scripted):
    rescue_from = {ValueError: ConnectionError, KeyError: "no_key"}
    retry_on = (Retry(ConnectionError, attempts=2, wait=9, jitter=0),)


def test_rules_match_the_exception_that_rescue_from_raises(isolated_runtime: Isolated) -> None:
    script[:] = [ValueError("bad")]
    retried = Rescued().async_().call()
    assert run_out(isolated_runtime) == [pytest.approx(9, abs=0.1)]
    assert row(isolated_runtime, retried.id)["status"] == "done"

    script[:] = [KeyError("k")]
    refused = Rescued().async_().call()
    assert run_out(isolated_runtime) == []
    assert (row(isolated_runtime, refused.id)["failure"], row(isolated_runtime, refused.id)["error"]) == (
        "business",
        "no_key",
    )


class Observed(ApplicationOperation):
    def on_error(self, error: Exception) -> None:
        observed.append((type(error).__name__, self.run_id))
        raise RuntimeError("an observer decides nothing")


def test_on_error_is_called_in_each_attempt_and_does_not_change_the_decision(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture
) -> None:
    script[:] = [ConnectionError()] * 9

    ticket = Observed().async_().call()
    run_out(isolated_runtime)

    assert observed == [("ConnectionError", ticket.id)] * 4
    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["error"], stored["num_attempts"]) == ("failed", "ConnectionError", 4)
    assert caplog.text.count("on_error.failed") == 4


# ----------------------------------------------------------------------------------------------------- direct jobs


def test_a_direct_job_follows_the_same_rules_and_carries_its_counters(isolated_runtime: Isolated) -> None:
    script[:] = [ConnectionError("down")] * 9
    ticket = ThriceDirect().async_(queue="counters", priority=6).call()

    isolated_runtime.run_pending()
    (message,) = messages(isolated_runtime)
    assert (message["queue"], message["priority"]) == ("counters", 6)
    options = message["message"]["options"]["dexpy"]
    assert (options["v"], options["id"], options["attempt"], options["counts"]) == (
        1,
        ticket.id,
        2,
        {"ConnectionError": 1},
    )
    assert set(message["message"]["kwargs"]) == {"class_name", "params", "trace"}
    assert "down" not in message["payload"]
    run_out(isolated_runtime)

    assert performed == [ticket.id] * 3
    assert rows(isolated_runtime) == []
    assert messages(isolated_runtime) == []


def test_a_run_whose_record_has_no_params_leaves_one_row_after_its_last_attempt(isolated_runtime: Isolated) -> None:
    script[:] = [ConnectionError("down")]
    ticket = ThriceNoParams().async_().call()
    isolated_runtime.run_pending()
    assert rows(isolated_runtime) == [], "the run has not ended"
    run_out(isolated_runtime)
    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["num_attempts"], stored["params"]) == ("done", 2, None)

    script[:] = [ConnectionError("down")] * 9
    failed = ThriceNoParams().async_().call()
    run_out(isolated_runtime)
    stored = row(isolated_runtime, failed.id)
    assert (stored["status"], stored["failure"], stored["error"]) == ("failed", "crash", "ConnectionError")
    assert (stored["num_attempts"], stored["error_message"]) == (3, "down")
    assert [each.error for each in records.attempts(failed.id)] == ["ConnectionError"]


class RefusedDirect(Scripted):
    record = Recording(params=False)


def test_a_direct_job_that_ends_in_a_business_error_is_recorded_as_rejected_or_failed(
    isolated_runtime: Isolated,
) -> None:
    script[:] = [Error("no_balance", "Nothing", details={"balance": 0})]

    ticket = RefusedDirect().async_().call()
    run_out(isolated_runtime)

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["failure"], stored["error"]) == ("failed", "business", "no_balance")
    assert json.loads(stored["error_details"]) == {"balance": 0}


# ------------------------------------------------------------------------------------------- effects, log, Ticket.retry


class AddsThenFails(Operation):
    name: str
    failures: int
    retry_on = (Retry(ConnectionError, attempts=5, wait=1, jitter=0),)

    def perform(self) -> None:
        performed.append(self.run_id)
        self.session.add(Customer(name=self.name))
        self.session.flush()
        if len(performed) <= self.failures:
            raise ConnectionError("down")


def test_writes_of_a_failed_attempt_are_rolled_back(isolated_runtime: Isolated, shop: Shop) -> None:
    ticket = AddsThenFails(name="Ada", failures=3).async_().call()

    run_out(isolated_runtime)

    assert shop.names() == ["Ada"]
    assert (row(isolated_runtime, ticket.id)["status"], len(performed)) == ("done", 4)


def test_each_attempt_and_the_wait_are_logged(isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture) -> None:
    script[:] = [ConnectionError("down")]

    with caplog.at_level(logging.INFO, "dexpy"):
        ticket = Thrice().async_().call()
        run_out(isolated_runtime)

    entries = [(each.levelname, each.getMessage()) for each in caplog.records]
    name = f"operation={__name__}.Thrice run_id={ticket.id}"
    assert [(level, text.split()[0]) for level, text in entries] == [
        ("WARNING", "run.retry_scheduled"),
        ("INFO", "run.succeeded"),
    ]
    assert all(name in text for _, text in entries)
    assert "attempt=1" in entries[0][1]
    assert "retry_in_s=10.000" in entries[0][1]


def test_a_failed_run_that_its_ticket_retries_has_all_its_attempts_again(isolated_runtime: Isolated) -> None:
    script[:] = [ConnectionError("down")] * 5
    ticket = Thrice().async_().call()
    run_out(isolated_runtime)
    assert row(isolated_runtime, ticket.id)["num_attempts"] == 3

    ticket.retry()
    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["num_attempts"], stored["error"], stored["completed_at"]) == (
        "pending",
        0,
        None,
        None,
    )
    run_out(isolated_runtime)

    # The retry resets the counters, so the two remaining failures of the script are retried again.
    assert (row(isolated_runtime, ticket.id)["status"], row(isolated_runtime, ticket.id)["num_attempts"]) == ("done", 3)
    assert [each["claim_token"] for each in attempts(isolated_runtime, ticket.id)] == [1, 2, 3, 4, 5]
    assert [each.number for each in records.attempts(ticket.id)] == [1, 2, 3, 1, 2, 3]


class Secretive(Operation):
    password: str = prop(sensitive=True)
    retry_on = (Retry(ConnectionError, attempts=2, wait=1, jitter=0),)

    def perform(self) -> None:
        raise ConnectionError(f"refused {self.password!r}") from ValueError(self.password)


def test_attempts_store_no_secret(isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        ticket = Secretive(password="hunter2-Ω").async_().call()
        run_out(isolated_runtime)

    assert len(attempts(isolated_runtime, ticket.id)) == 2
    for text in (str(attempts(isolated_runtime, ticket.id)), str(records.attempts(ticket.id)), caplog.text):
        assert "hunter2" not in text


# ----------------------------------------------------------------------- database errors without a rule


class Conflict(Exception):
    """The error of a driver for a serialization failure."""

    sqlstate = "40001"


def conflict() -> sa.exc.OperationalError:
    return sa.exc.OperationalError("UPDATE", {}, Conflict())


class Outside(Scripted):
    """Has effects outside of its transaction, which no rollback reverts."""

    transaction = False


def test_a_deadlocked_run_restarts_within_the_same_attempt(isolated_runtime: Isolated) -> None:
    script[:] = [conflict()]

    ticket = NoRule().async_().call()
    isolated_runtime.run_pending()

    assert performed == [ticket.id] * 2
    assert (row(isolated_runtime, ticket.id)["status"], row(isolated_runtime, ticket.id)["num_attempts"]) == ("done", 1)
    assert attempts(isolated_runtime, ticket.id) == []


def test_a_run_without_a_transaction_restarts_only_as_a_new_attempt(
    isolated_runtime: Isolated,
) -> None:
    script[:] = [conflict()]

    ticket = Outside().async_().call()
    isolated_runtime.run_pending()

    assert performed == [ticket.id], "the run is not restarted at once, because its earlier writes may be committed"
    assert (row(isolated_runtime, ticket.id)["status"], row(isolated_runtime, ticket.id)["num_attempts"]) == (
        "pending",
        1,
    )
    assert len(attempts(isolated_runtime, ticket.id)) == 1
    run_out(isolated_runtime)
    assert (row(isolated_runtime, ticket.id)["status"], row(isolated_runtime, ticket.id)["num_attempts"]) == ("done", 2)


def away(*, cut: bool) -> sa.exc.OperationalError:
    """Return the error of an unreachable database, before the first statement or during a transaction."""
    return sa.exc.OperationalError("BEGIN", {}, Exception("database is locked"), connection_invalidated=cut)


class Direct(Scripted):
    record = False


def test_a_direct_run_that_never_reached_the_database_is_republished(isolated_runtime: Isolated) -> None:
    script[:] = [away(cut=False)] * 2

    Direct().async_().call()
    waits = run_out(isolated_runtime)

    assert len(performed) == 3
    assert len(waits) == 2


def test_a_direct_run_whose_connection_was_cut_is_not_run_twice(
    isolated_runtime: Isolated,
) -> None:
    script[:] = [away(cut=True)]

    Direct().async_().call()

    assert run_out(isolated_runtime) == []
    assert len(performed) == 1
