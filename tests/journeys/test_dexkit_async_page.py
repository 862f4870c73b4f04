"""Each statement of Dexkit's page on async execution, with a real worker process, on every database and broker.

The tests read rows by SQL and messages from the broker, without dexpy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from apps.accounts import (
    Attach,
    Attachment,
    Color,
    CountClick,
    CountVisit,
    EchoAll,
    Flaky,
    FlakyVisit,
    GreetCustomer,
    SendNewsletter,
    SendReport,
    SendWelcomeEmail,
)
from harness.pairs import CapturedMessages, Pair
from harness.workers import eventually

import dexpy
from dexpy.runtime import install

WAIT_S = 30.0
"""A generous timeout in seconds, for busy machines."""


def row(place: Pair, id: str) -> dict[str, Any]:
    """Return one record, as the database stores it."""
    (stored,) = place.sql("SELECT * FROM operation_records WHERE id = :id", id=id)
    return dict(stored._mapping)


def wait_for_row(place: Pair, ticket: Any, status: str) -> dict[str, Any]:
    """Wait until a record has a status, and return it."""
    place.wait_for_status(ticket.id, status, within_s=WAIT_S)
    return row(place, ticket.id)


def value(stored: Any) -> Any:
    """Return the value of a JSON column; some drivers return text, others the parsed value."""
    return json.loads(stored) if isinstance(stored, str) else stored


def moment(stored: Any) -> datetime:
    """Return a stored time as an aware datetime; some databases return it without a zone, and SQLite returns text."""
    parsed = datetime.fromisoformat(stored) if isinstance(stored, str) else stored
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=timezone.utc)


def count_records(place: Pair) -> int:
    """Return the number of records."""
    return int(place.sql("SELECT count(*) FROM operation_records")[0][0])


def message(place: Pair, ticket: Any, queue: str) -> str:
    """Return the only message of a run in a queue of the broker."""
    (matching,) = (payload for payload in place.queued(queue) if ticket.id in payload)
    return matching


@pytest.fixture
def enqueued(served: Pair) -> Generator[list[Any]]:
    """Yield the messages that this process publishes during a test."""
    broker: Any = dexpy.current_runtime().broker
    capturing = CapturedMessages()
    broker.add_middleware(capturing)
    yield capturing.messages
    broker.middleware.remove(capturing)


# ------------------------------------------------------------------------------------------ basic usage


def test_an_operation_runs_in_the_background_in_another_process(served: Pair) -> None:
    ticket = SendWelcomeEmail(user_id=123).async_().call()

    assert ticket.result(WAIT_S) == "welcomed 123"
    stored_row = row(served, ticket.id)
    assert (stored_row["status"], value(stored_row["params"])) == ("done", {"user_id": 123})
    (effect,) = served.sql("SELECT * FROM effects WHERE run = :run", run=ticket.id)
    assert effect.what == "welcome 123"
    assert effect.pid != os.getpid()
    assert effect.pid in served.workers[0].children()


def test_props_are_written_as_json_when_it_is_enqueued_and_read_back_when_the_job_runs(served: Pair) -> None:
    ticket = GreetCustomer(customer=7, others=[8, 9]).async_().call()

    assert value(row(served, ticket.id)["params"]) == {
        "customer": 7,
        "friend": None,
        "others": [8, 9],
        "order": None,
    }
    assert ticket.result(WAIT_S) == ["Customer Ada", None, "Ben,Cy", None]


def test_nothing_is_enqueued_before_call(served: Pair, enqueued: list[Any]) -> None:
    before = count_records(served)

    prepared = SendWelcomeEmail(user_id=1).async_(queue="mailers")

    assert (count_records(served), enqueued) == (before, [])
    first, second = prepared.call(), prepared.call()
    assert first.id != second.id
    assert (count_records(served), len(enqueued)) == (before + 2, 2)
    assert first.result(WAIT_S) == second.result(WAIT_S) == "welcomed 1"


# ---------------------------------------------------------------------------------- scheduling options


def test_an_operation_runs_on_the_queue_of_the_call(served: Pair) -> None:
    ticket = SendWelcomeEmail(user_id=123).async_(queue="mailers").call()

    assert ticket.result(WAIT_S) == "welcomed 123"
    assert row(served, ticket.id)["queue"] == "mailers"


@pytest.mark.parametrize("delay", [2, 1.25, timedelta(seconds=1.5)], ids=["seconds", "parts of seconds", "timedelta"])
def test_an_operation_runs_after_a_delay(served: Pair, delay: float | timedelta) -> None:
    ticket = SendWelcomeEmail(user_id=123).async_(in_=delay).call()

    stored_row = row(served, ticket.id)
    assert stored_row["status"] == "pending"
    waits = moment(stored_row["scheduled_at"]) - moment(stored_row["created_at"])
    wanted = delay if isinstance(delay, timedelta) else timedelta(seconds=delay)
    assert abs(waits - wanted) < timedelta(seconds=0.1)
    assert ticket.result(WAIT_S) == "welcomed 123"
    stored_row = row(served, ticket.id)
    assert moment(stored_row["started_at"]) >= moment(stored_row["scheduled_at"])


def test_an_operation_runs_at_a_datetime(served: Pair) -> None:
    at = (datetime.now(timezone.utc) + timedelta(seconds=1)).astimezone(ZoneInfo("Asia/Tokyo"))

    ticket = SendWelcomeEmail(user_id=123).async_(at=at).call()

    assert moment(row(served, ticket.id)["scheduled_at"]) == at
    assert ticket.result(WAIT_S) == "welcomed 123"
    assert moment(row(served, ticket.id)["started_at"]) >= at


def test_a_past_datetime_is_due_at_once(served: Pair) -> None:
    ticket = SendWelcomeEmail(user_id=5).async_(at=datetime(2001, 1, 1, tzinfo=timezone.utc)).call()

    assert ticket.result(WAIT_S) == "welcomed 5"


# ------------------------------------------------------------------------------- class-level defaults


def test_a_class_names_the_queue_of_all_its_instances(served: Pair) -> None:
    ticket = SendNewsletter(user_id=123).async_().call()

    assert ticket.result(WAIT_S) == "welcomed 123"
    assert row(served, ticket.id)["queue"] == "mailers"


def test_options_of_the_call_override_those_of_the_class(served: Pair) -> None:
    ticket = SendNewsletter(user_id=123).async_(queue="urgent").call()

    assert ticket.result(WAIT_S) == "welcomed 123"
    assert row(served, ticket.id)["queue"] == "urgent"


# ----------------------------------------------------------------------------------------- serialization


def a_generator() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("props", "path"),
    [
        ({"payload": object()}, "payload"),
        ({"payload": a_generator}, "payload"),
        ({"items": [*3 * [Attachment("a", None)], Attachment("b", object())]}, "items[3].file"),
        ({"table": {"rate": float("nan")}}, "table['rate']"),
        ({"table": {"rates": [1.5, float("inf")]}}, "table['rates'][1]"),
        ({"table": {1: "one"}}, "table"),
        ({"table": {"text": "a\0b"}}, "table['text']"),
        ({"table": {"text": "\ud800"}}, "table['text']"),
        ({"table": {"when": date(2026, 1, 1)}}, "table['when']"),
        ({"table": {"many": {1, 2}}}, "table['many']"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_without_a_json_form_is_refused_at_enqueue_and_nothing_is_stored(
    served: Pair, enqueued: list[Any], props: dict[str, Any], path: str
) -> None:
    before = count_records(served)
    operation = Attach(**props)

    with pytest.raises(dexpy.NotSerializable) as refused:
        operation.async_().call()

    assert isinstance(refused.value, TypeError)
    assert refused.value.path.lstrip(".") == path
    assert str(refused.value).startswith(f"Attach: {path} ")
    assert (count_records(served), enqueued) == (before, [])


SENT: dict[str, Any] = {
    "text": "naïve “quotes” \n\t\\ 🜚 </script>",
    "whole": 2**70,
    "broken": 0.1 + 0.2,
    "flag": False,
    "nothing": None,
    "color": Color.GREEN,
    "moment": datetime(2026, 3, 29, 1, 59, 59, 123456, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
    "day": date(2024, 2, 29),
    "amount": Decimal("0.10"),
    "table": {"due": date(2026, 1, 31)},
    "items": [Decimal("1.50"), Decimal("-0"), Decimal("1E+3")],
    "plain": {"a": [1, 2.5, None, True, {"b": "c"}]},
    "row": [1, "two", [3]],
}


@pytest.mark.parametrize(
    ("prop", "json_form"),
    [
        ("text", SENT["text"]),
        ("whole", 2**70),
        ("broken", 0.30000000000000004),
        ("flag", False),
        ("nothing", None),
        ("color", "green"),
        ("moment", "2026-03-29T01:59:59.123456-03:30"),
        ("day", "2024-02-29"),
        ("amount", "0.10"),
        ("table", {"due": "2026-01-31"}),
        ("items", ["1.50", "-0", "1E+3"]),
        ("plain", {"a": [1, 2.5, None, True, {"b": "c"}]}),
        ("row", [1, "two", [3]]),
    ],
)
def test_each_type_survives_the_round_trip(served: Pair, echoed: dict[str, Any], prop: str, json_form: Any) -> None:
    stored = value(row(served, echoed["id"])["params"])

    assert stored[prop] == json_form
    assert type(stored[prop]) is type(json_form)
    assert echoed["result"][prop] == repr(SENT[prop])


@pytest.fixture(scope="module")
def echoed(served_deployment: Pair) -> dict[str, Any]:
    """Return the id and the result of a run with values of all types."""
    before = install(served_deployment.runtime)
    ticket = EchoAll(**SENT).async_().call()
    result = ticket.result(WAIT_S)
    install(before)
    return {"id": ticket.id, "result": result}


def test_a_reference_is_sent_as_its_id_and_loaded_again_in_the_worker(served: Pair) -> None:
    ticket = GreetCustomer(customer=7, friend=9, others=[9, 8, 9], order=("north", 3)).async_().call()

    params = value(row(served, ticket.id)["params"])
    assert params == {"customer": 7, "friend": 9, "others": [9, 8, 9], "order": ["north", 3]}
    assert ticket.result(WAIT_S) == ["Customer Ada", "Cy", "Cy,Ben,Cy", "north/3"]


def test_an_instance_is_sent_as_its_id_too(served: Pair) -> None:
    from apps.accounts import Customer
    from sqlalchemy.orm import Session

    with Session(served.engine) as session:
        ada = session.get_one(Customer, 7)
        ticket = GreetCustomer(customer=ada).async_().call()

    assert value(row(served, ticket.id)["params"])["customer"] == 7
    assert ticket.result(WAIT_S)[0] == "Customer Ada"


def test_a_run_whose_referenced_row_is_missing_is_discarded(served: Pair) -> None:
    ticket = GreetCustomer(customer=404).async_().call()

    stored_row = wait_for_row(served, ticket, "failed")
    assert (stored_row["error"], stored_row["failure"], stored_row["num_attempts"]) == (
        "dexpy.errors.RefNotFound",
        "discarded",
        1,
    )
    with pytest.raises(dexpy.OperationFailed, match="no Customer with the key 404"):
        ticket.result(WAIT_S)


def test_an_operation_returns_the_same_in_place_and_in_a_worker(served: Pair) -> None:
    operation = GreetCustomer(customer=8, others=[7])

    assert operation.call() == operation.async_().call().result(WAIT_S) == ["Customer Ben", None, "Ada", None]


# ----------------------------------------------------------------------------------------------- recording


def test_with_a_record_the_message_holds_its_id_and_no_params(unserved: Pair) -> None:
    ticket = SendNewsletter(user_id=123).async_(priority=3).call()

    record, payload = row(unserved, ticket.id), message(unserved, ticket, "mailers")
    published = json.loads(payload)
    assert (record["status"], record["queue"], record["priority"]) == ("pending", "mailers", 3)
    assert (published["queue_name"], published["actor_name"], published["args"]) == ("mailers", "dexpy.RecordJob", [])
    assert published["kwargs"] == {
        "class_name": "apps.accounts.SendNewsletter",
        "record_id": ticket.id,
        "trace": {"id": record["trace_id"]},
    }
    assert published["options"]["dexpy"] == {"v": 1, "priority": 3}
    for number in (ticket.id, record["trace_id"], published["message_id"], published["message_timestamp"]):
        payload = payload.replace(str(number), "")
    assert "123" not in payload.replace(str(published["options"].get("redis_message_id")), "")


@pytest.mark.parametrize("operation", [CountVisit(page="/a"), CountClick(page="/a")], ids=["record=False", "no params"])
def test_without_a_record_the_message_holds_the_params(unserved: Pair, operation: Any) -> None:
    with dexpy.trace(actor={"type": "user", "id": 5}, trace_id="req-1"):
        ticket = operation.async_(queue="counters").call()

    name = f"apps.accounts.{type(operation).__name__}"
    published = json.loads(message(unserved, ticket, "counters"))
    assert (published["queue_name"], published["actor_name"], published["args"]) == ("counters", "dexpy.DirectJob", [])
    assert published["kwargs"] == {
        "class_name": name,
        "params": {"page": "/a"},
        "trace": {"id": "req-1", "actor": {"type": "user", "id": 5}, "stack": [[ticket.id, name]]},
    }
    assert published["options"]["dexpy"]["v"] == 1
    assert unserved.sql("SELECT * FROM operation_records WHERE id = :id", id=ticket.id) == []


def test_a_direct_job_runs_and_leaves_no_record(served: Pair) -> None:
    ticket = CountVisit(page="/pricing").async_().call()

    eventually(lambda: "visit /pricing" in served.effects(), "the visit is counted", WAIT_S, served.output)
    assert served.sql("SELECT * FROM operation_records WHERE id = :id", id=ticket.id) == []
    assert not ticket.recorded


def test_a_direct_job_whose_params_are_not_recorded_stores_one_row_at_its_end(served: Pair) -> None:
    ticket = CountClick(page="/buy").async_().call()

    def observe() -> list[Any]:
        return list(served.sql("SELECT status, params, result FROM operation_records WHERE id = :id", id=ticket.id))

    (stored,) = eventually(observe, "the row is written", WAIT_S, served.output)
    assert (stored.status, stored.params, value(stored.result)) == ("done", None, {"value": "/buy"})


def test_the_record_is_pending_at_once_then_running_then_done(served: Pair, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    ticket = SendReport(user_id=123, gate=str(gate)).async_(in_=2).call()

    pending = row(served, ticket.id)
    assert (pending["status"], pending["started_at"], pending["completed_at"], pending["num_attempts"]) == (
        "pending", None, None, 0
    )  # fmt: skip
    running = wait_for_row(served, ticket, "running")
    assert (running["completed_at"], running["num_attempts"]) == (None, 1)
    assert str(served.workers[0].children()[0]) in running["claimed_by"]
    assert served.effects("report 123") == []
    gate.touch()
    done = wait_for_row(served, ticket, "done")
    assert value(done["result"]) == {"value": "sent"}
    assert moment(done["completed_at"]) > moment(done["started_at"])
    assert (done["error"], done["failure"], done["claimed_by"]) == (None, None, None)
    assert served.effects("report 123") == ["report 123"]


# -------------------------------------------------------------------------------------------- error handling


def test_a_business_error_fails_the_record_with_its_code(served: Pair) -> None:
    ticket = SendReport(user_id=66, ending="error").async_().call()

    stored_row = wait_for_row(served, ticket, "failed")
    assert (stored_row["error"], stored_row["failure"], stored_row["error_message"]) == (
        "no_report",
        "business",
        "Nothing to report",
    )
    assert value(stored_row["error_details"]) == {"user": 66}
    assert (stored_row["num_attempts"], stored_row["result"]) == (1, None)
    assert served.effects("report 66") == []
    with pytest.raises(dexpy.Error) as raised:
        ticket.result(WAIT_S)
    assert (raised.value.code, raised.value.details) == ("no_report", {"user": 66})


def test_a_crash_fails_the_record_with_the_name_of_the_exception(served: Pair) -> None:
    ticket = SendReport(user_id=67, ending="crash").async_().call()

    stored_row = wait_for_row(served, ticket, "failed")
    assert (stored_row["error"], stored_row["failure"], stored_row["error_message"]) == (
        "ConnectionError",
        "crash",
        "no line to 67",
    )
    assert served.effects("report 67") == []
    (attempt,) = served.sql("SELECT * FROM operation_attempts WHERE record_id = :id", id=ticket.id)
    assert (attempt.number, attempt.error) == (1, "ConnectionError")
    assert "accounts.py" in attempt.traceback
    with pytest.raises(dexpy.OperationFailed) as raised:
        ticket.result(WAIT_S)
    assert (raised.value.failure, raised.value.exception_class) == ("crash", "ConnectionError")


def test_a_crash_is_retried_by_a_matching_rule(served: Pair, tmp_path: Path) -> None:
    ticket = Flaky(ledger=str(tmp_path / "ledger"), failures=2).async_(queue="mailers").call()

    assert ticket.result(WAIT_S) == 3
    stored_row = row(served, ticket.id)
    assert (stored_row["status"], stored_row["error"], stored_row["num_attempts"], stored_row["queue"]) == (
        "done",
        None,
        3,
        "mailers",
    )
    query = "SELECT number, error FROM operation_attempts WHERE record_id = :id ORDER BY number"
    attempts = served.sql(query, id=ticket.id)
    assert [tuple(attempt) for attempt in attempts] == [(1, "ConnectionError"), (2, "ConnectionError")]
    assert (tmp_path / "ledger").read_text().splitlines() == [ticket.id] * 3


def test_the_record_fails_after_the_last_attempt(served: Pair, tmp_path: Path) -> None:
    ticket = Flaky(ledger=str(tmp_path / "ledger"), failures=9).async_().call()

    stored_row = wait_for_row(served, ticket, "failed")
    assert (stored_row["error"], stored_row["num_attempts"]) == ("ConnectionError", 3)
    assert len((tmp_path / "ledger").read_text().splitlines()) == 3


def test_a_direct_job_is_retried_by_the_same_rules(served: Pair, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"

    ticket = FlakyVisit(ledger=str(ledger), failures=2).async_(queue="flaky").call()

    eventually(
        lambda: ledger.exists() and len(ledger.read_text().splitlines()) == 3,
        "the job runs three times",
        WAIT_S,
        served.output,
    )
    assert ledger.read_text().splitlines() == [ticket.id] * 3
    eventually(lambda: served.queued("flaky") == [], "no message is left", WAIT_S, served.output)
