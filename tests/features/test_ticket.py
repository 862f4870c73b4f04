"""`Ticket`: its attributes, its queries and its actions."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import event

from dexpy import (
    DexpyError,
    Err,
    Error,
    Ok,
    Operation,
    OperationFailed,
    Recording,
    Retry,
    Ticket,
    WaitTimeout,
    guard,
    records,
)
from dexpy.errors import InvalidTransition, NotRecorded, OptionsError, RecordNotFound
from dexpy.foundation.clock import clock
from dexpy.testing import Isolated

from .tables import messages, row, rows, sql

WAIT_S = 5.0
EVENTS: dict[str, Callable[[Ticket[Any]], Any]] = {
    "expire": lambda ticket: ticket.expire(),
    "cancel": lambda ticket: ticket.cancel(),
    "fail": lambda ticket: ticket.fail("by hand"),
    "retry": lambda ticket: ticket.retry(),
    "reschedule": lambda ticket: ticket.reschedule(at=datetime(2100, 1, 1, tzinfo=timezone.utc)),
}


class Answer(Operation):
    """Ends as its prop specifies."""

    ending: str = "well"
    retry_on = (Retry(TimeoutError, attempts=2, wait=60, jitter=0),)

    @guard("It is closed")
    def closed(self) -> bool:
        return self.ending == "guard"

    def perform(self) -> dict[str, date]:
        if self.ending == "error":
            raise Error("no", "Not today", details={"day": 1})
        if self.ending == "bare error":
            raise Error("no")
        if self.ending == "crash":
            raise RuntimeError("the inner secret")
        if self.ending == "again":
            raise TimeoutError("slow")
        return {"day": date(2026, 1, 2)}


class Price(Operation):
    def perform(self) -> Decimal:
        return Decimal("0.10")


class Quiet(Operation):
    def perform(self) -> None: ...


class Unrecorded(Operation):
    record = False

    def perform(self) -> None: ...


class KeepsNoParams(Operation):
    record = Recording(params=False)

    def perform(self) -> None:
        raise RuntimeError("crashed")


def ended(isolated_runtime: Isolated, ending: str = "well") -> Ticket[Any]:
    """Return the ticket of a run that has ended; it was not reloaded since its enqueue."""
    ticket = Answer(ending=ending).async_().call()
    isolated_runtime.run_pending()
    return ticket


def in_state(isolated_runtime: Isolated, status: str) -> Ticket[Any]:
    """Return the ticket of a record with a status."""
    ticket = Answer(ending="error" if status == "failed" else "well").async_().call()
    if status in ("done", "failed"):
        isolated_runtime.run_pending()
    elif status == "expired":
        ticket.expire()
    elif status == "cancelled":
        ticket.cancel()
    elif status == "running":
        sql(isolated_runtime, "UPDATE operation_records SET status = 'running', claim_token = 1, num_attempts = 1")
    return ticket.reload()


@contextmanager
def questions(isolated_runtime: Isolated) -> Generator[list[str]]:
    """Collect the SQL statements that are executed in the block."""
    statements: list[str] = []
    engine = isolated_runtime.runtime.store.database.engine

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


# ---------------------------------------------------------------------------------------------- attributes


def test_a_ticket_is_truthy_and_its_repr_names_the_run(isolated_runtime: Isolated) -> None:
    ticket = Answer().async_(in_=60).call()

    assert ticket
    assert (ticket.id[:3], ticket.operation) == ("op_", f"{__name__}.Answer")
    assert (ticket.recorded, ticket.duplicate, ticket.status) == (True, False, "pending")
    assert ticket.scheduled_at is not None
    assert abs(ticket.scheduled_at - clock.now() - timedelta(seconds=60)) < timedelta(seconds=5)
    assert repr(ticket) == f"<Ticket {__name__}.Answer {ticket.id} pending>"


@pytest.mark.parametrize("status", ["pending", "running", "done", "failed", "expired", "cancelled"])
def test_one_predicate_holds_in_each_state(isolated_runtime: Isolated, status: str) -> None:
    ticket = in_state(isolated_runtime, status)

    holds = {name: getattr(ticket, name) for name in ("pending", "running", "done", "failed", "expired", "cancelled")}
    assert holds == {name: name == status for name in holds}
    assert ticket.terminal == (status in ("done", "failed", "expired", "cancelled"))
    assert bool(ticket)


def test_attributes_have_the_values_of_the_last_load_and_make_no_query(isolated_runtime: Isolated) -> None:
    ticket = ended(isolated_runtime)

    with questions(isolated_runtime) as statements:
        assert (ticket.status, ticket.pending, ticket.done, ticket.terminal) == ("pending", True, False, False)
        assert (ticket.outcome, ticket.failure, ticket.scheduled_at) == (None, None, None)
        assert ticket.to_dict()["status"] == "pending"
        repr(ticket)
    assert statements == []
    with questions(isolated_runtime) as statements:
        assert ticket.reload() is ticket
    assert len(statements) == 1
    assert ticket.done


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        ("well", Ok({"day": date(2026, 1, 2)})),
        ("error", Err("no", "Not today", {"day": 1})),
        ("bare error", Err("no", "no")),
        ("crash", None),
        ("again", None),
    ],
)
def test_the_outcome_is_ok_err_or_none_and_never_raises(isolated_runtime: Isolated, ending: str, outcome: Any) -> None:
    ticket = ended(isolated_runtime, ending)
    assert ticket.outcome is None

    assert ticket.reload().outcome == outcome


def test_a_refusal_is_an_err_with_rejected_set(isolated_runtime: Isolated) -> None:
    outcome = ended(isolated_runtime, "guard").reload().outcome

    assert isinstance(outcome, Err)
    assert (outcome.code, outcome.message, outcome.rejected) == ("closed", "It is closed", True)
    assert outcome.details == {"guards": [{"guard": "closed", "message": "It is closed"}]}


def test_a_result_has_the_type_of_the_annotation_of_perform(isolated_runtime: Isolated) -> None:
    ticket = Price().async_().call()
    isolated_runtime.run_pending()

    result = ticket.result(WAIT_S)
    assert (type(result), str(result)) == (Decimal, "0.10")
    assert Ticket.get(ticket.id).outcome == Ok(Decimal("0.10"))


def test_a_result_that_no_longer_matches_the_class_is_returned_as_stored(isolated_runtime: Isolated) -> None:
    ticket = Price().async_().call()
    isolated_runtime.run_pending()
    sql(isolated_runtime, "UPDATE operation_records SET result = ?", json.dumps({"value": ["changed"]}))

    assert ticket.reload().outcome == Ok(["changed"])


def test_match_works_on_the_outcome_of_wait(isolated_runtime: Isolated) -> None:
    def describe(ticket: Ticket[Any]) -> str:
        match ticket.wait(0.05):
            case Ok(value):
                return f"ok {value}"
            case Err(code, message):
                return f"err {code} {message}"
            case None:
                return "not yet"
        raise AssertionError

    assert describe(ended(isolated_runtime, "error")) == "err no Not today"
    assert describe(ended(isolated_runtime)) == "ok {'day': datetime.date(2026, 1, 2)}"
    assert describe(Answer().async_(in_=60).call()) == "not yet"


# ------------------------------------------------------------------------------------------------------ waiting


def test_wait_returns_none_at_its_timeout_and_result_raises(isolated_runtime: Isolated) -> None:
    ticket = Answer().async_().call()

    began = time.monotonic()
    assert ticket.wait(0.2, interval=0.05) is None
    assert time.monotonic() - began >= 0.2
    with pytest.raises(WaitTimeout, match=r"not ended after 0\.05 s; it is pending, and continues") as late:
        ticket.result(0.05)
    assert isinstance(late.value, TimeoutError)
    assert (late.value.id, late.value.operation, late.value.timeout_s) == (ticket.id, f"{__name__}.Answer", 0.05)


def test_wait_polls_until_the_run_has_ended(isolated_runtime: Isolated) -> None:
    ticket = Answer().async_().call()
    runs = threading.Timer(0.2, isolated_runtime.run_pending)
    runs.start()

    assert ticket.wait(WAIT_S, interval=0.01) == Ok({"day": date(2026, 1, 2)})
    runs.join()


def test_the_last_poll_is_at_the_timeout_even_if_the_interval_is_longer(isolated_runtime: Isolated) -> None:
    ticket = Answer().async_().call()

    def run_after_first_poll(_polls: int) -> float:
        isolated_runtime.run_pending()
        return 60.0

    started = time.monotonic()
    assert ticket.wait(0.5, interval=run_after_first_poll) is not None
    assert time.monotonic() - started < 30


def test_the_interval_may_be_a_function_of_the_number_of_polls(isolated_runtime: Isolated) -> None:
    polls: list[int] = []

    def pause(looks: int) -> float:
        polls.append(looks)
        return 0.02

    assert Answer().async_().call().wait(0.1, interval=pause) is None
    assert polls[:3] == [0, 1, 2]


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), None, "5", True])
@pytest.mark.parametrize("method", ["wait", "result", "aresult"])
def test_an_invalid_timeout_is_refused(isolated_runtime: Isolated, method: str, timeout: Any) -> None:
    ticket = ended(isolated_runtime)

    with pytest.raises(OptionsError, match=r"timeout=\): expected seconds, more than 0"):
        answer = getattr(ticket, method)(timeout)
        asyncio.run(answer)


@pytest.mark.parametrize("interval", [0, -1, float("nan"), None, "5", True])
def test_an_invalid_interval_is_refused(isolated_runtime: Isolated, interval: Any) -> None:
    with pytest.raises(OptionsError, match=r"interval=\): expected seconds, more than 0, or a function"):
        ended(isolated_runtime).wait(1, interval=interval)


def test_a_business_error_is_an_err_to_wait_and_raised_by_result(isolated_runtime: Isolated) -> None:
    ticket = ended(isolated_runtime, "error")

    assert ticket.wait(WAIT_S) == Err("no", "Not today", {"day": 1})
    with pytest.raises(Error) as raised:
        ticket.result(WAIT_S)
    error = raised.value
    assert (error.code, error.message, error.details) == ("no", "Not today", {"day": 1})
    assert error.operation == f"{__name__}.Answer"


@pytest.mark.parametrize("method", ["wait", "result"])
def test_a_crash_is_raised_by_both(isolated_runtime: Isolated, method: str) -> None:
    ticket = ended(isolated_runtime, "crash")

    with pytest.raises(OperationFailed) as raised:
        getattr(ticket, method)(WAIT_S)
    failed = raised.value
    assert (failed.id, failed.operation, failed.failure) == (ticket.id, f"{__name__}.Answer", "crash")
    assert (failed.exception_class, failed.exception_message) == ("RuntimeError", "the inner secret")
    assert str(failed) == f"{__name__}.Answer {ticket.id} failed (crash): RuntimeError: the inner secret"
    assert isinstance(failed, DexpyError)


@pytest.mark.parametrize(
    ("by_hand", "failure"), [("expire", "expired"), ("cancel", "cancelled"), ("fail", "discarded")]
)
def test_a_wait_raises_the_failure_of_a_run_that_was_ended_by_a_ticket(
    isolated_runtime: Isolated, by_hand: str, failure: str
) -> None:
    ticket = Answer().async_().call()
    EVENTS[by_hand](Ticket.get(ticket.id))

    assert ticket.reload().outcome is None
    with pytest.raises(OperationFailed) as failed:
        ticket.wait(WAIT_S)
    assert failed.value.failure == failure


def test_aresult_awaits_the_result_without_blocking_the_loop(isolated_runtime: Isolated) -> None:
    ticket = Price().async_().call()
    refused = ended(isolated_runtime, "error")
    waiting = Price().async_(in_=60).call()

    async def main() -> Any:
        long_wait = asyncio.create_task(waiting.aresult(WAIT_S))
        for _ in range(10):
            await asyncio.sleep(0.01)
        assert not long_wait.done(), "the loop has run ten iterations during the wait"
        long_wait.cancel()
        return await asyncio.gather(
            ticket.aresult(WAIT_S), refused.aresult(WAIT_S), waiting.aresult(0.3), return_exceptions=True
        )

    price, error, late = asyncio.run(main())
    assert price == Decimal("0.10")
    assert isinstance(error, Error)
    assert isinstance(late, WaitTimeout)


# ----------------------------------------------------------------------------------------------- actions


def test_expire_ends_a_pending_run_as_expired(isolated_runtime: Isolated) -> None:
    ticket = Answer().async_().call()

    assert ticket.expire() is ticket

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["failure"]) == ("expired", "expired")
    assert stored["completed_at"] is not None
    assert (ticket.expired, ticket.failure) == (True, "expired")
    isolated_runtime.run_pending()
    assert row(isolated_runtime, ticket.id)["num_attempts"] == 0
    assert messages(isolated_runtime) == []


def test_cancel_ends_a_pending_run(isolated_runtime: Isolated) -> None:
    ticket = Answer().async_().call().cancel()

    assert (row(isolated_runtime, ticket.id)["status"], row(isolated_runtime, ticket.id)["failure"]) == (
        "cancelled",
        "cancelled",
    )
    isolated_runtime.run_pending()
    assert row(isolated_runtime, ticket.id)["num_attempts"] == 0


def test_fail_ends_a_pending_run_as_failed_with_a_reason(isolated_runtime: Isolated) -> None:
    ticket = Answer().async_().call().fail("no longer wanted")

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["failure"], stored["error_message"]) == ("failed", "discarded", "no longer wanted")
    assert (ticket.failed, ticket.failure) == (True, "discarded")


@pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
def test_retry_makes_an_ended_run_pending_again(isolated_runtime: Isolated, status: str) -> None:
    ticket = in_state(isolated_runtime, status)
    before = row(isolated_runtime, ticket.id)
    isolated_runtime.advance(5)

    assert ticket.retry() is ticket

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["num_attempts"], stored["error"], stored["failure"]) == ("pending", 0, None, None)
    assert (stored["completed_at"], stored["params"]) == (None, before["params"])
    assert ticket.pending
    isolated_runtime.run_pending()
    assert row(isolated_runtime, ticket.id)["status"] == ("failed" if status == "failed" else "done")
    assert row(isolated_runtime, ticket.id)["claim_token"] > before["claim_token"]


def test_reschedule_moves_a_run_to_an_earlier_or_later_time(isolated_runtime: Isolated) -> None:
    later, sooner = Answer().async_().call(), Answer().async_(in_=3600).call()
    at = clock.now() + timedelta(seconds=600)

    assert later.reschedule(at=at).scheduled_at == at
    sooner.reschedule(at=at)

    assert isolated_runtime.run_pending() == [] or {
        row(isolated_runtime, each.id)["status"] for each in (later, sooner)
    } == {"pending"}
    isolated_runtime.advance(601)
    isolated_runtime.run_pending()
    assert [row(isolated_runtime, each.id)["status"] for each in (later, sooner)] == ["done", "done"]
    assert [row(isolated_runtime, each.id)["num_attempts"] for each in (later, sooner)] == [1, 1]
    isolated_runtime.advance(3600)
    isolated_runtime.run_pending()
    assert [row(isolated_runtime, each.id)["num_attempts"] for each in (later, sooner)] == [1, 1]
    assert messages(isolated_runtime) == []


def test_reschedule_requires_an_aware_datetime(isolated_runtime: Isolated) -> None:
    ticket = Answer().async_().call()

    with pytest.raises(OptionsError, match=r"reschedule\(\): at=.*: expected an aware datetime, got a naive one"):
        ticket.reschedule(at=datetime(2100, 1, 1))
    with pytest.raises(OptionsError, match="expected an aware datetime"):
        ticket.reschedule(at=None)  # type: ignore[arg-type]
    assert row(isolated_runtime, ticket.id)["scheduled_at"] is None


ALLOWED = {
    "expire": {"pending"},
    "cancel": {"pending", "running"},
    "fail": {"pending"},
    "reschedule": {"pending"},
    "retry": {"failed", "expired", "cancelled"},
}


@pytest.mark.parametrize("status", ["pending", "running", "done", "failed", "expired", "cancelled"])
@pytest.mark.parametrize("event", EVENTS)
def test_a_transition_that_the_status_does_not_allow_is_refused(
    isolated_runtime: Isolated, event: str, status: str
) -> None:
    ticket = in_state(isolated_runtime, status)
    before, stored_messages = row(isolated_runtime, ticket.id), messages(isolated_runtime)

    if (event, status) == ("cancel", "running"):
        # The cancellation is requested; the row does not change until the run ends.
        assert ticket.cancel().running
        assert row(isolated_runtime, ticket.id) == before
        return
    if status in ALLOWED[event]:
        EVENTS[event](ticket)
        assert row(isolated_runtime, ticket.id) != before
        return
    with pytest.raises(InvalidTransition) as refused:
        EVENTS[event](ticket)
    error = refused.value
    assert (error.id, error.event, error.status) == (ticket.id, event, status)
    sources = " or ".join(sorted(ALLOWED[event], reverse=True))
    assert str(error).startswith(f"{ticket.id}: cannot {event} a run that is {status}. Expected a record that is ")
    assert all(source in str(error) for source in sources.split(" or "))
    assert row(isolated_runtime, ticket.id) == before
    assert messages(isolated_runtime) == stored_messages


def test_a_record_without_params_cannot_be_run_again(isolated_runtime: Isolated) -> None:
    without_params = KeepsNoParams().async_().call()
    isolated_runtime.run_pending()
    before = row(isolated_runtime, without_params.id)

    with pytest.raises(InvalidTransition, match=r"cannot retry a run that is failed\. Its params are not stored"):
        records.get(without_params.id).retry()
    assert row(isolated_runtime, without_params.id) == before
    assert messages(isolated_runtime) == []


def test_concurrent_calls_of_an_action_apply_it_once(isolated_runtime: Isolated) -> None:
    ticket = Answer().async_().call()
    gate = threading.Barrier(8)
    collected: list[str] = []

    def cancel() -> None:
        mine = Ticket.get(ticket.id)
        gate.wait()
        try:
            mine.cancel()
            collected.append("done")
        except InvalidTransition:
            collected.append("refused")

    threads = [threading.Thread(target=cancel) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(collected) == ["done"] + ["refused"] * 7


# --------------------------------------------------------------------------------------------- get, to_dict, records


def test_get_returns_the_ticket_of_an_id(isolated_runtime: Isolated) -> None:
    ticket = ended(isolated_runtime)

    loaded = Ticket.get(ticket.id)
    assert (loaded.id, loaded.operation, loaded.status, loaded.done) == (ticket.id, f"{__name__}.Answer", "done", True)
    assert loaded.outcome == Ok({"day": date(2026, 1, 2)})


@pytest.mark.parametrize("id", ["op_unknown", "", "'; DROP TABLE operation_records; --"])
def test_an_unknown_id_is_not_found(isolated_runtime: Isolated, id: str) -> None:
    for get in (Ticket.get, records.get, records.attempts):
        with pytest.raises(RecordNotFound, match="No record has the id") as missing:
            get(id)
        assert isinstance(missing.value, LookupError)


def test_a_record_that_was_deleted_is_not_found_by_its_ticket(isolated_runtime: Isolated) -> None:
    ticket = Answer().async_().call()
    sql(isolated_runtime, "DELETE FROM operation_records")

    for ask in (ticket.reload, ticket.cancel, ticket.retry, lambda: ticket.wait(1)):
        with pytest.raises(RecordNotFound):
            ask()


@pytest.mark.parametrize(
    ("ending", "rest"),
    [
        ("well", {"status": "done", "result": {"day": "2026-01-02"}}),
        ("error", {"status": "failed", "error": {"code": "no", "message": "Not today", "details": {"day": 1}}}),
        ("bare error", {"status": "failed", "error": {"code": "no", "message": "no"}}),
        ("crash", {"status": "failed"}),
        ("again", {"status": "pending"}),
    ],
)
def test_to_dict_shows_the_status_of_a_crash_and_no_details(
    isolated_runtime: Isolated, ending: str, rest: dict[str, Any]
) -> None:
    ticket = ended(isolated_runtime, ending).reload()

    document = ticket.to_dict()
    assert document == {"id": ticket.id, "operation": f"{__name__}.Answer", **rest}
    assert json.loads(json.dumps(document)) == document


def test_to_dict_shows_the_code_of_a_refusal(isolated_runtime: Isolated) -> None:
    document = ended(isolated_runtime, "guard").reload().to_dict()

    assert document["error"]["code"] == "closed"


def test_a_record_has_the_actions_of_its_ticket(isolated_runtime: Isolated) -> None:
    ticket = Answer().async_().call()

    assert records.get(ticket.id).fail("by hand").status == "failed"
    assert records.get(ticket.id).retry().status == "pending"
    assert records.get(ticket.id).cancel().failure == "cancelled"
    assert records.get(ticket.id).retry().expire().failure == "expired"
    moved = records.get(ticket.id).retry().reschedule(at=datetime(2100, 1, 1, tzinfo=timezone.utc))
    assert moved.scheduled_at == datetime(2100, 1, 1, tzinfo=timezone.utc)
    assert moved.ticket.pending
    assert len(rows(isolated_runtime)) == 1


def test_the_ticket_of_an_unrecorded_run_has_its_id_and_name(isolated_runtime: Isolated) -> None:
    ticket = Unrecorded().async_().call()

    assert ticket
    assert (ticket.recorded, ticket.outcome, ticket.operation) == (False, None, f"{__name__}.Unrecorded")
    assert repr(ticket) == f"<Ticket {__name__}.Unrecorded {ticket.id} not recorded>"
    with pytest.raises(NotRecorded):
        asyncio.run(ticket.aresult(1))
