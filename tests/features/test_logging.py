"""Logging: the events of runs, their fields, and the configuration of loggers by the application."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator
from io import StringIO
from typing import Any

import pytest
from harness.workers import eventually

import dexpy
from dexpy import Async, Error, Operation, Retry, prop
from dexpy.foundation import log_events
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.maintenance.relay import Relay
from dexpy.testing import Isolated

from .tables import sql

SECRET = "hunter2hunter2"


class Pay(Operation):
    """Ends as its prop specifies."""

    end: str = "well"
    retry_on = (Retry(ConnectionError, attempts=2, wait=10),)
    discard_on = (LookupError,)
    errors = {"no_money"}
    async_ = Async(expires_in=60)

    @dexpy.guard("The account must be open")
    def closed(self) -> bool:
        return self.end == "guarded"

    def perform(self) -> str:
        if self.end == "refused":
            raise Error("no_money", "There is no money")
        if self.end == "cancelled":
            dexpy.Ticket.get(self.run_id).cancel()
            eventually(self.check_cancelled, "the run receives the cancellation")
        if self.end in ERRORS:
            raise ERRORS[self.end]
        return "paid"


ERRORS = {"away": ConnectionError("the bank is away"), "crash": ValueError("broken"), "gone": LookupError("no account")}


class Unrecorded(Pay):
    record = False
    async_ = Async(expires_in=None)


class LogIn(Operation):
    password: str = prop(sensitive=True)

    def perform(self) -> None:
        raise ValueError(f"cannot log in with {self.password}")


def records_of(caplog: pytest.LogCaptureFixture, run_id: str) -> list[logging.LogRecord]:
    """Return the log records about one run."""
    return [record for record in caplog.records if getattr(record, "run_id", None) == run_id]


def lines_of(caplog: pytest.LogCaptureFixture, run_id: str) -> list[tuple[str, str, str]]:
    """Return the event, level and logger of each line about one run."""
    return [(record.event, record.levelname, record.name) for record in records_of(caplog, run_id)]  # type: ignore[attr-defined]


def let_expire(isolated: Isolated) -> None:
    isolated.advance(61)
    isolated.run_pending()


def let_the_worker_die(isolated: Isolated) -> None:
    sql(
        isolated,
        "UPDATE operation_records SET status = 'running', claimed_by = 'gone:1:x', claim_token = 1, num_attempts = 1, "
        "started_at = created_at",
    )
    heartbeat = isolated.runtime.services.heartbeat
    assert heartbeat is not None
    Relay(isolated.runtime.dispatcher, heartbeat, isolated.runtime.intervals).run_once()


def run(isolated: Isolated) -> None:
    isolated.run_pending()


def perform(isolated: Isolated) -> None:
    (pending,) = dexpy.records.where(status="pending")
    dexpy.Ticket.get(pending.id).perform()


def retry(isolated: Isolated) -> None:
    isolated.run_pending()
    isolated.advance(12)
    isolated.run_pending()


EXECUTION = "dexpy.execution"
ENDS: dict[str, tuple[str, Callable[[Isolated], None], list[tuple[str, str, str]]]] = {
    "succeeded": ("well", run, [("run.succeeded", "INFO", EXECUTION)]),
    "refused by a guard": ("guarded", run, [("run.rejected", "WARNING", EXECUTION)]),
    "a business error": ("refused", run, [("run.rejected", "WARNING", EXECUTION)]),
    "crashed": ("crash", run, [("run.failed", "ERROR", EXECUTION)]),
    "retried": (
        "away",
        retry,
        [("run.retry_scheduled", "WARNING", EXECUTION), ("run.failed", "ERROR", EXECUTION)],
    ),
    "discarded": ("gone", run, [("run.discarded", "WARNING", EXECUTION)]),
    "cancelled": ("cancelled", perform, [("run.cancelled", "WARNING", EXECUTION)]),
    "expired": ("well", let_expire, [("run.expired", "WARNING", EXECUTION)]),
    "recovered": ("well", let_the_worker_die, [("run.recovered", "WARNING", "dexpy.relay")]),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_end_of_a_background_run_is_one_event(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    end, happens, expected = ENDS[how]
    ticket = Pay(end=end).async_().call()

    with caplog.at_level(logging.INFO, "dexpy"):
        happens(isolated_runtime)

    assert lines_of(caplog, ticket.id) == expected
    for record in records_of(caplog, ticket.id):
        fields: Any = record
        assert fields.operation == f"{__name__}.Pay"
        assert fields.trace_id == dexpy.records.get(ticket.id).trace_id
        assert fields.event == "run.succeeded" or fields.queue == "default"
        assert record.getMessage().startswith(f"{fields.event} ")
        assert f"run_id={ticket.id}" in record.getMessage()


def test_an_attempt_that_will_be_retried_has_its_error_and_its_wait(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture
) -> None:
    ticket = Pay(end="away").async_().call()

    with caplog.at_level(logging.INFO, "dexpy"):
        retry(isolated_runtime)

    first, last = map(vars, records_of(caplog, ticket.id))
    assert (first["attempt"], first["retry_in_s"]) == (1, pytest.approx(10, rel=0.15))
    assert (first["error"], first["error_message"]) == ("ConnectionError", "the bank is away")
    assert isinstance(first["duration_ms"], float)
    assert (last["attempt"], last["failure"], "retry_in_s" in last) == (2, "crash", False)


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("well", ("run.succeeded", "INFO", EXECUTION)),
        ("guarded", ("run.rejected", "WARNING", EXECUTION)),
        ("refused", ("run.rejected", "WARNING", EXECUTION)),
        ("crash", ("run.failed", "ERROR", EXECUTION)),
        ("away", ("run.failed", "ERROR", EXECUTION)),
    ],
)
def test_the_end_of_a_call_in_place_is_one_event(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture, end: str, expected: tuple[str, str, str]
) -> None:
    with caplog.at_level(logging.INFO, "dexpy"):
        try:
            Pay(end=end).safe.call()
        except Exception as error:
            assert error is ERRORS[end]

    (record,) = [record for record in caplog.records if record.name == EXECUTION]
    assert (record.event, record.levelname, record.name) == expected  # type: ignore[attr-defined]


def test_a_run_without_a_record_is_logged_in_the_same_way(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "dexpy"):
        tickets = {end: Unrecorded(end=end).async_().call() for end in ("well", "refused", "crash", "away")}
        retry(isolated_runtime)

    events = {end: [event for event, *_ in lines_of(caplog, ticket.id)] for end, ticket in tickets.items()}
    assert events == {
        "well": ["run.succeeded"],
        "refused": ["run.rejected"],
        "crash": ["run.failed"],
        "away": ["run.retry_scheduled", "run.failed"],
    }


class JsonFormatter(logging.Formatter):
    """The formatter of the page on logging."""

    standard = {*vars(logging.makeLogRecord({})), "message", "asctime"}

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in vars(record).items() if name not in self.standard}
        return json.dumps({"level": record.levelname, "logger": record.name, **fields})


@pytest.fixture
def stream() -> Generator[StringIO]:
    """The output of a handler of the root logger with a JSON formatter."""
    handler = logging.StreamHandler(StringIO())
    handler.setFormatter(JsonFormatter())
    logging.root.addHandler(handler)
    yield handler.stream
    logging.root.removeHandler(handler)


def test_a_json_formatter_finds_the_fields_without_secrets(
    isolated_runtime: Isolated, stream: StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    ticket = LogIn(password=SECRET).async_().call()
    with caplog.at_level(logging.DEBUG, "dexpy"):
        isolated_runtime.run_pending()

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    (failed,) = [line for line in lines if line.get("event") == "run.failed"]
    assert failed.pop("duration_ms") >= 0
    assert failed == {
        "level": "ERROR",
        "logger": EXECUTION,
        "event": "run.failed",
        "operation": f"{__name__}.LogIn",
        "run_id": ticket.id,
        "trace_id": dexpy.records.get(ticket.id).trace_id,
        "attempt": 1,
        "queue": "default",
        "failure": "crash",
        "error": "ValueError",
        "error_message": "cannot log in with <sensitive>",
    }
    assert SECRET not in stream.getvalue()


def test_each_logger_can_have_its_own_level(isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dexpy")
    caplog.set_level(logging.CRITICAL, EXECUTION)
    caplog.set_level(logging.DEBUG, "dexpy.worker")
    Pay(end="crash").async_().call()
    isolated_runtime.run_pending()
    log_event(LogEvent.RECORD_OUTRANKED, run_id="op_1")
    log_event(LogEvent.RECORD_LOCKED, run_id="op_1")

    assert {record.name for record in caplog.records} == {"dexpy.worker"}


class Unprintable:
    def __str__(self) -> str:
        raise BaseException("not even that")


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (Unprintable(), "<Unprintable cannot be printed>"),
        ("two\nlines", "two\nlines"),
        ("\udc80\0", "\\udc80\\x00"),
        ("x" * 2000, "x" * 1000 + "… (2000 characters)"),
        (10**5000, "<int cannot be printed>"),
        (1.23456, 1.235),
        (float("nan"), None),
        (7, 7),
        (True, True),
        ("", ""),
    ],
    ids=["unprintable", "lines", "surrogate", "long", "huge", "float", "nan", "int", "bool", "empty"],
)
def test_a_field_of_any_type_is_logged_on_one_line(
    caplog: pytest.LogCaptureFixture, value: object, field: object
) -> None:
    log_event(LogEvent.RUN_FAILED, reason=value)

    (record,) = caplog.records
    assert "\n" not in record.getMessage()
    assert record.getMessage().startswith("run.failed reason=")
    reason = record.reason  # type: ignore[attr-defined]
    assert reason == field or (field is None and reason != reason)


def test_no_field_replaces_an_attribute_of_the_log_record(caplog: pytest.LogCaptureFixture) -> None:
    log_event(LogEvent.RUN_FAILED, name="x", message="y", args=(1,), levelno=0, event="z")

    (record,) = caplog.records
    assert (record.name, record.levelname, record.event) == (EXECUTION, "ERROR", "run.failed")  # type: ignore[attr-defined]


def test_the_log_record_has_the_place_of_the_call(caplog: pytest.LogCaptureFixture) -> None:
    log_event(LogEvent.RUN_FAILED)

    (record,) = caplog.records
    assert (record.pathname, record.funcName) == (__file__, "test_the_log_record_has_the_place_of_the_call")
    assert record.getMessage() == "run.failed"


class Raises(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("the disk is full")


def raise_in_filter(record: logging.LogRecord) -> bool:
    raise RuntimeError("not this one")


def raise_in_factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
    raise RuntimeError("no records")


@pytest.fixture(params=["handler", "filter", "record factory"])
def broken_logging(request: pytest.FixtureRequest) -> Generator[str]:
    """Logging whose configuration by the application raises errors."""
    handler, logger = Raises(), logging.getLogger(EXECUTION)
    factory = logging.getLogRecordFactory()
    if request.param == "handler":
        logger.addHandler(handler)
    elif request.param == "filter":
        logger.addFilter(raise_in_filter)
    else:
        logging.setLogRecordFactory(raise_in_factory)
    yield request.param
    logger.removeHandler(handler)
    logger.removeFilter(raise_in_filter)
    logging.setLogRecordFactory(factory)


def test_a_run_succeeds_although_logging_raises(isolated_runtime: Isolated, broken_logging: str) -> None:
    ticket = Pay().async_().call()
    isolated_runtime.run_pending()

    assert ticket.reload().status == "done"
    assert Pay().call() == "paid"


def test_an_error_that_cannot_be_logged_is_written_to_the_last_resort_handler(
    monkeypatch: pytest.MonkeyPatch, broken_logging: str, caplog: pytest.LogCaptureFixture
) -> None:
    last_resort = logging.StreamHandler(StringIO())
    monkeypatch.setattr(log_events, "last_resort", last_resort)

    log_event(LogEvent.RUN_FAILED, run_id="op_1")

    output = last_resort.stream.getvalue() + "".join(caplog.messages)
    assert output.count("run.failed run_id=op_1") == 1
    assert ("not logged: RuntimeError" in output) == (broken_logging != "record factory")


def test_a_record_factory_of_the_application_may_set_the_same_names(caplog: pytest.LogCaptureFixture) -> None:
    factory = logging.getLogRecordFactory()

    def with_trace(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = factory(*args, **kwargs)
        record.trace_id = record.operation = "of the application"
        return record

    logging.setLogRecordFactory(with_trace)
    try:
        log_event(LogEvent.RUN_FAILED, operation="shop.Pay")
    finally:
        logging.setLogRecordFactory(factory)

    (record,) = caplog.records
    assert (record.operation, record.trace_id) == ("shop.Pay", "of the application")  # type: ignore[attr-defined]


def test_a_broker_that_does_not_answer_is_logged(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path}/a.db", broker="redis://127.0.0.1:1/0")
    try:
        Pay().async_().call()
    finally:
        dexpy.runtime.install(None)
        runtime.close()

    (record,) = [vars(record) for record in caplog.records if record.name == "dexpy.broker"]
    assert (record["event"], record["levelname"], record["queue"]) == ("broker.unreachable", "WARNING", "default")
    assert "Connection" in record["error"]
