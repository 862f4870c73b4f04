"""Log lines: an event of the catalog, with its facts as fields of the record and as ``key=value`` in the text.

Lines contain no params or results. The redactor of the run, or else of the process, is applied to all texts, because
names may come from messages, rows and exceptions.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, TypeAlias

from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.safe_text import storable, text_of

TEXT, JSON = "text", "json"
LOG_FORMATS = (TEXT, JSON)
"""The values of the setting `log_format`; see `log_formats`."""

logger = logging.getLogger("dexpy")
"""The parent of all loggers of dexpy."""
logger.addHandler(logging.NullHandler())
last_resort: logging.Handler | None = None
"""The handler of a worker for errors that no handler of the application accepts."""

Redact: TypeAlias = Callable[[str], str]
process_redactor: Redact | None = None
"""The redactor of the current settings, for lines outside of a run; None without secrets."""
declared_names: set[str] = set()
"""Names of operations that this process declares; they are never redacted."""

run_redactor: ContextVar[Redact | None] = ContextVar("dexpy_log_redactor", default=None)
"""The redactor of the current run."""
_OWN_ID = re.compile(r"(op|tr|bt)_[0-9a-z]{26}", re.ASCII)


RESERVED = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "event"}
"""The attributes of a log record that a fact must not replace."""
MAX_LENGTH = 1000
"""The maximum length of the text of one fact, in characters."""


def log_event(event: LogEvent, level: int | None = None, /, **facts: Any) -> None:
    """Log an event; never raise, even if facts, handlers or filters do.

    Args:
        event: An event of the catalog, with its logger and level.
        level: Another level, as in `logging`, for example for a repetition.
        facts: The fields, named as in `dexpy.foundation.log_catalog.FIELDS`; None values are omitted.

    Example:
        >>> log_event(LogEvent.RUN_SUCCEEDED, operation="shop.Pay", run_id="op_1", duration_ms=12.5)
    """
    try:
        _log(event, event.level if level is None else level, facts)
    except Exception as error:  # noqa: BLE001 - a line must not decide how a run ends
        if last_resort is not None:
            with contextlib.suppress(Exception):
                text = f"(not logged: {type(error).__name__})"
                last_resort.handle(_record(event, event.level, text, {}))


def log_with_stack(event: LogEvent, stack: str | None, /, **facts: Any) -> None:
    """Log an event that a person has requested, so that it is always written; never raise.

    Args:
        event: An event of the catalog.
        stack: The stack of a thread, which formatters write below the line.
        facts: See `log_event`.
    """
    try:
        _log(event, event.level, facts, stack, is_requested=True)
    except Exception:  # noqa: BLE001 - as in `log_event`
        log_event(event)


def _log(
    event: LogEvent, level: int, facts: Mapping[str, Any], stack: str | None = None, *, is_requested: bool = False
) -> None:
    is_enabled = event.logger.isEnabledFor(level)
    is_last_resort_used = last_resort is not None and (is_requested or level >= logging.ERROR)
    if not is_enabled and not is_last_resort_used:
        return
    fields = {key: _field(key, value) for key, value in facts.items() if value is not None}
    text = " ".join(f"{key}={_shown(value)}" for key, value in fields.items())
    if last_resort is not None and is_last_resort_used and not (is_enabled and _is_taken(event.logger, level)):
        last_resort.handle(_record(event, level, text, fields, stack))
        return
    try:
        event.logger.handle(_record(event, level, text, fields, stack))
    except Exception as error:  # noqa: BLE001 - a handler of the application's
        if last_resort is not None:
            last_resort.handle(_record(event, level, f"{text} (not logged: {type(error).__name__})", fields))


def _record(
    event: LogEvent, level: int, text: str, fields: Mapping[str, Any], stack: str | None = None
) -> logging.LogRecord:
    # The event is part of the format string, because tools group lines by it.
    form = f"{event.event} %s" if text else event.event
    arguments = (text,) if text else ()
    try:
        # The caller of `log_event` is two frames above `_log`.
        file, line, function, _ = event.logger.findCaller(False, 4)
        record = event.logger.makeRecord(event.logger.name, level, file, line, form, arguments, None, function)
    except Exception:  # noqa: BLE001 - a logger class or record factory of the application's
        record = logging.LogRecord(event.logger.name, level, "", 0, form, arguments, None)
    # Not by `extra`, which raises if a record factory has set an attribute with that name.
    record.__dict__.update({key: value for key, value in fields.items() if key not in RESERVED}, event=event.event)
    record.stack_info = stack
    return record


def _is_taken(child: logging.Logger, level: int) -> bool:
    """Return whether a handler accepts a line of this level."""
    current: logging.Logger | None = child
    while current is not None:
        if any(level >= handler.level and not isinstance(handler, logging.NullHandler) for handler in current.handlers):
            return True
        current = current.parent if current.propagate else None
    return False


def _field(key: str, value: Any) -> Any:
    """Return a fact as a number, or as a text of bounded length without secrets."""
    if type(value) is bool or (type(value) is int and abs(value) < 2**63):
        return value
    if type(value) is float:
        return round(value, 3)
    text = text_of(value)
    length = len(text)
    # Advice is always a text of dexpy.
    if key != "advice":
        text = _redacted(text)
    if len(text) > MAX_LENGTH:
        text = f"{text[:MAX_LENGTH]}… ({length} characters)"
    return storable(text)


def _shown(field: Any) -> str:
    if type(field) is float:
        return f"{field:.3f}"
    text = str(field)
    # Characters that no stream can write, and line breaks, are shown as escapes.
    is_plain = text.isprintable() and not any(sign.isspace() for sign in text)
    return text if is_plain and text else repr(text)


def _redacted(text: str) -> str:
    redactor = run_redactor.get() or process_redactor
    if redactor is None or text in declared_names or _OWN_ID.fullmatch(text):
        return text
    # A redactor that fails logs a line.
    token = run_redactor.set(str)
    try:
        return redactor(text)
    finally:
        run_redactor.reset(token)
