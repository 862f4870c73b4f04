"""`log_format`: JSON or text on the standard streams; without it the application's logging is left alone."""

from __future__ import annotations

import json
import logging
import math
import sys
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from harness.workers import Deployment

from dexpy import Operation, prop
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.log_formats import JsonFormatter, formatter_of
from dexpy.testing import Isolated

SECRET = "hunter2hunter2"
LOGGER = logging.getLogger("shop")


class Unprintable:
    """Has no text."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class LogsItsPassword(Operation):
    password: str = prop(sensitive=True)

    def perform(self) -> None:
        LOGGER.warning("log in with %s", self.password, extra={"login": {"as": [self.password]}})
        raise ValueError(self.password)


def formatted(message: object = "sold", *args: object, exc_info: Any = None, **extra: object) -> dict[str, Any]:
    """Return the parsed JSON of a record; it must be one line of ASCII."""
    record = logging.LogRecord("shop", logging.INFO, "shop.py", 1, message, args, exc_info)
    record.__dict__.update(extra)
    line = JsonFormatter().format(record)
    assert len(line.splitlines()) == 1
    assert line.isascii()
    parsed: dict[str, Any] = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    return parsed


def test_an_event_has_its_facts_as_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log_event(LogEvent.RUN_SUCCEEDED, operation="shop.Pay", run_id="op_1", attempt=1, duration_ms=12.5)

    line = json.loads(JsonFormatter().format(caplog.records[0]))

    assert line.pop("timestamp").endswith("Z")
    assert line.pop("pid")
    assert line == {
        "level": "INFO",
        "event": "run.succeeded",
        "logger": "dexpy.execution",
        "message": "run.succeeded operation=shop.Pay run_id=op_1 attempt=1 duration_ms=12.500",
        "thread": "MainThread",
        "operation": "shop.Pay",
        "run_id": "op_1",
        "attempt": 1,
        "duration_ms": 12.5,
    }


def test_a_line_of_the_application_has_its_time_in_utc_and_its_extra_fields() -> None:
    line = formatted("sold %d", 3, created=1796000000.25, customer="Ada", price=Decimal("1.50"), tags={"a"})

    assert line["timestamp"] == "2026-11-30T00:53:20.250000Z"
    assert (line["message"], line["customer"], line["price"], line["tags"]) == ("sold 3", "Ada", "1.50", ["a"])
    assert "event" not in line


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a\nb\r\u2028c", "a\nb\r\u2028c"),
        ("nul \0", "nul \\x00"),
        ("half \ud800", "half \\ud800"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (10**30, str(10**30)),
        (10**5000, "<int cannot be printed>"),
        (Unprintable(), "<Unprintable cannot be printed>"),
        ({1: [None, True, Unprintable()]}, {"1": [None, True, "<Unprintable cannot be printed>"]}),
        (datetime(2026, 1, 1, tzinfo=timezone.utc), "2026-01-01T00:00:00+00:00"),
        (b"\xff", "b'\\xff'"),
    ],
    ids=[
        "line breaks",
        "NUL",
        "surrogate",
        "NaN",
        "infinity",
        "large",
        "very large",
        "unprintable",
        "nested",
        "time",
        "bytes",
    ],
)
def test_every_value_has_a_form_in_json(value: object, expected: object) -> None:
    assert formatted(value=value)["value"] == expected
    if isinstance(value, str):
        assert formatted(value)["message"] == expected


def test_a_value_that_contains_itself_has_a_form_in_json() -> None:
    loop: list[object] = []
    loop.append(loop)

    assert str(formatted(value=loop)["value"]).count("[") >= 8


def test_a_field_of_the_application_replaces_none_of_the_standard_ones() -> None:
    line = formatted(level="high", logger="mine", timestamp=Unprintable(), pid=1)

    assert (line["level"], line["logger"], line["level_"], line["logger_"]) == ("INFO", "shop", "high", "mine")
    assert (line["timestamp_"], line["pid_"]) == ("<Unprintable cannot be printed>", 1)


def test_a_message_that_cannot_be_formatted_is_logged_all_the_same() -> None:
    line = formatted("sold %d and %d", 1)
    assert (line["message"], line["logging_error"]) == ("sold %d and %d", "TypeError")
    assert formatted("%s", Unprintable())["logging_error"] == "ValueError"
    assert formatted(created=math.inf)["message"] == "sold"

    record = logging.LogRecord("shop", logging.INFO, "shop.py", 1, "sold %d", ("x",), None)
    assert "sold %d" in formatter_of("text").format(record)


def test_a_traceback_is_a_field() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        line = formatted("failed", exc_info=sys.exc_info())

    assert "ValueError: two\nlines" in line["exception"]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_sensitive_values_of_a_run_are_redacted_in_lines_of_the_application(
    isolated_runtime: Isolated, log_format: str
) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(formatter_of(log_format).format(record))  # type: ignore[method-assign]
    logging.root.addHandler(handler)
    try:
        LogsItsPassword(password=SECRET).async_().call()
        isolated_runtime.run_pending()
    finally:
        logging.root.removeHandler(handler)

    assert any("log in with" in line for line in lines)
    assert SECRET not in "".join(lines)


# ------------------------------------------------------------------------------------------------ real workers

APPLICATION = """
import logging, logging.config, sys
import dexpy
from dexpy import Operation

logging.config.dictConfig({
    "version": 1,
    "formatters": {"mine": {"format": "MINE %(levelname)s %(message)s"}},
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": "mine", "stream": "ext://sys.stdout"},
        "file": {"class": "logging.FileHandler", "formatter": "mine", "filename": "mine.log", "level": "WARNING",
                 "encoding": "utf-8", "errors": "backslashreplace"},
    },
    "loggers": {"quiet": {"level": "ERROR"}},
    "root": {"handlers": ["console", "file"], "level": "INFO"},
})


def state():
    loggers = [logging.root, *(logging.getLogger(name) for name in ("shop", "quiet"))]
    return [(logger.name, logger.level, logger.propagate, logger.disabled,
             [(id(h), h.level, id(h.formatter)) for h in logger.handlers]) for logger in loggers]


BEFORE = state()


class Sell(Operation):
    def perform(self) -> bool:
        logging.getLogger("shop").warning("two\\nlines \\ud800 \\0", extra={"price": {"EUR": 3}})
        logging.getLogger("quiet").warning("not logged")
        return state() == BEFORE
"""


@pytest.fixture
def shop(tmp_path: Path) -> Deployment:
    """A deployment whose application configures logging at its import."""
    (tmp_path / "logging_shop.py").write_text(APPLICATION)
    return Deployment(tmp_path)


def sell(shop: Deployment, *flags: str) -> tuple[bool, list[str], list[str], list[str]]:
    """Run `Sell` in a worker; return whether logging is unchanged, and the lines of both streams and of the file."""
    code = "from logging_shop import Sell; print(Sell().async_().call().id)"
    enqueued = shop.run([sys.executable, "-c", code])
    (shop.folder / "mine.log").unlink()
    worked = shop.dexpy("worker", "logging_shop", "--burst", "-p", "1", "-t", "1", *flags)
    assert worked.returncode == 0, worked.stderr
    result = json.loads(shop.row(enqueued.stdout.split()[-1])["result"])["value"]
    file_lines = (shop.folder / "mine.log").read_text("utf-8", "replace").splitlines()
    return result, worked.stdout.splitlines(), worked.stderr.splitlines(), file_lines


def test_without_a_log_format_the_worker_leaves_the_logging_of_the_application_alone(shop: Deployment) -> None:
    is_unchanged, output, errors, _ = sell(shop)

    assert is_unchanged
    assert any(line.startswith("MINE INFO run.succeeded ") for line in output)
    assert "worker.started" not in "".join(errors)


def test_with_json_each_line_on_the_standard_streams_is_one_object_and_files_are_unchanged(shop: Deployment) -> None:
    is_unchanged, output, errors, file_lines = sell(shop, "--log-format", "json")

    assert not is_unchanged, "the formatter of the console handler is replaced"
    lines = [json.loads(line) for line in output + errors]
    events = [line.get("event") for line in lines]
    assert {"worker.started", "run.succeeded", "worker.stopped"} <= set(events)
    (sold,) = [line for line in lines if line["logger"] == "shop"]
    assert (sold["message"], sold["price"], sold["level"]) == ("two\nlines \\ud800 \\x00", {"EUR": 3}, "WARNING")
    assert all(line["timestamp"].endswith("Z") and "level" in line and "message" in line for line in lines)
    assert "not logged" not in str(lines), "the levels are the application's"
    assert not any("run.succeeded" in line for line in file_lines), "the level of the handler is kept"
