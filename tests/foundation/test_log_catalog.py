"""The catalog of log events against the code that logs them."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from dexpy.foundation.log_catalog import FIELDS, LOGGERS, LogEvent
from dexpy.foundation.log_events import RESERVED

PACKAGE = Path(__file__).parents[2] / "dexpy"
COMPUTED = {"event", "event_of_failure(failure)", "LogEvent.RUN_CANCELLED if is_cancelled else LogEvent.RUN_FAILED"}
"""First arguments that are events by their types."""
FACTS_OF_MESSAGES = {"unknown_operations.py", "message_bounds.py", "jobs.py"}
"""Files in which facts are also those of a message."""
PASS_FACTS_ON = {"log_refused_row", "log_end", "retry_while_away"}
"""Functions whose keywords are facts."""
LOG_BY_OTHER_MEANS = {"foundation/log_catalog.py", "foundation/log_events.py", "worker/log_setup.py"}


@cache
def nodes() -> tuple[tuple[str, ast.AST], ...]:
    """Every node of the package, with its file."""
    files = sorted(PACKAGE.rglob("*.py"))
    trees = ((file.relative_to(PACKAGE).as_posix(), ast.parse(file.read_text("utf-8"))) for file in files)
    return tuple((file, node) for file, tree in trees for node in ast.walk(tree))


@cache
def log_calls() -> tuple[tuple[str, ast.Call], ...]:
    """Every call of `log_event`, and of a throttle."""
    return tuple((file, node) for file, node in nodes() if isinstance(node, ast.Call) and _logs(node))


def _logs(call: ast.Call) -> bool:
    if isinstance(call.func, ast.Name):
        return call.func.id == "log_event"
    return isinstance(call.func, ast.Attribute) and call.func.attr == "log" and len(call.args) == 2


def _takes_facts(call: ast.Call) -> bool:
    return _logs(call) or (isinstance(call.func, ast.Name) and call.func.id in PASS_FACTS_ON)


def fact_names() -> Iterator[tuple[str, str]]:
    """The names of facts with their places: keywords, and keys of mappings and results of functions called facts."""
    with_facts = [(file, node) for file, node in nodes() if isinstance(node, ast.Call) and _takes_facts(node)]
    for file, call in with_facts:
        yield from ((f"{file}:{call.lineno}", keyword.arg) for keyword in call.keywords if keyword.arg is not None)
    for file, node in nodes():
        if isinstance(node, ast.Assign) and "facts" in ast.unparse(node.targets[0]):
            mappings = [node.value]
        elif isinstance(node, ast.FunctionDef) and node.name.endswith("facts"):
            mappings = [
                returned.value for returned in ast.walk(node) if isinstance(returned, ast.Return) and returned.value
            ]
        else:
            continue
        if file.rpartition("/")[2] not in FACTS_OF_MESSAGES:
            keys = (key for mapping in mappings if isinstance(mapping, ast.Dict) for key in mapping.keys)
            yield from ((f"{file}:{node.lineno}", key.value) for key in keys if isinstance(key, ast.Constant))


@cache
def logged_events() -> frozenset[str]:
    """The events that the code names, outside of the catalog."""
    return frozenset(
        node.attr
        for file, node in nodes()
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "LogEvent"
    )


@pytest.mark.parametrize("event", LogEvent, ids=lambda event: event.event)
def test_an_event_is_named_explained_and_logged_somewhere(event: LogEvent) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*\.[a-z]+(_[a-z]+)*", event.event)
    assert event.name == event.event.replace(".", "_").upper()
    assert event.logger.name in LOGGERS
    assert event.level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
    assert event.meaning.endswith(".")
    assert event.action.endswith(".")
    assert event.name in logged_events()


def test_every_line_is_an_event_of_the_catalog() -> None:
    first_arguments = {ast.unparse(call.args[0]) for _, call in log_calls()}

    assert {text for text in first_arguments if text.removeprefix("LogEvent.") not in LogEvent.__members__} == COMPUTED
    assert len(log_calls()) > len(LogEvent)


def test_a_fact_is_a_documented_field_and_no_attribute_of_a_log_record() -> None:
    assert [(place, name) for place, name in fact_names() if name not in FIELDS] == []
    assert FIELDS.keys() & RESERVED == set()


def test_a_documented_field_is_used() -> None:
    assert FIELDS.keys() - {name for _, name in fact_names()} == {"run_error"}, (
        "that one is passed on by the end writer"
    )


@pytest.mark.parametrize("logger", LOGGERS)
def test_a_logger_is_a_child_of_dexpy_and_has_events(logger: str) -> None:
    assert logging.getLogger(logger).parent is logging.getLogger("dexpy")
    assert [event for event in LogEvent if event.logger.name == logger]


def test_nothing_is_logged_by_other_means() -> None:
    logs = re.compile(r"getLogger$|logger\.(debug|info|warning|error|exception|critical|log|handle)$")
    files = {file for file, node in nodes() if isinstance(node, ast.Call) and logs.search(ast.unparse(node.func))}

    assert files == LOG_BY_OTHER_MEANS
