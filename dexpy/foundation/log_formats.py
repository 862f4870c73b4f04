"""The formats of `log_format`: lines for a terminal, or one JSON object a line.

A formatter never raises, whatever a record holds: `logging` would print a traceback instead of the line.
The sensitive values of a run appear in no line that is logged in its thread, also if the application logs it.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from datetime import date, datetime, time, timezone
from typing import Any, cast

from dexpy.foundation.log_events import JSON, run_redactor
from dexpy.foundation.redaction import Redactor, class_path
from dexpy.foundation.safe_text import storable, text_of

TEXT_FORMAT = "%(asctime)s %(levelname)-7s [%(process)d] %(message)s"
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
"""The attributes of every record; others are fields that the caller has added."""
MAX_DEPTH = 8
"""The levels of a nested value that are written; deeper values become text."""


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object in ASCII, without line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object: time, level, event, logger and message, then the fields of the record."""
        fields = {
            "timestamp": _timestamp(record),
            "level": record.levelname,
            "event": record.__dict__.get("event"),
            "logger": record.name,
            **self._texts(record),
            "pid": record.process,
            "thread": record.threadName,
        }
        for name, value in list(record.__dict__.items()):
            if name not in STANDARD and name[:1] != "_":
                # A field of the application must not replace one that readers rely on.
                is_same = type(value) in (int, str) and fields.get(name) == value
                fields[f"{name}_" if name in fields and not is_same else name] = value
        plain = {_text(name): _plain(value) for name, value in fields.items() if value is not None}
        return json.dumps(plain, allow_nan=False)

    def _texts(self, record: logging.LogRecord) -> dict[str, str | None]:
        """Return message, traceback and stack."""
        texts: dict[str, str | None] = {}
        try:
            texts["message"] = record.getMessage()
        except Exception as error:  # noqa: BLE001 - arguments that do not match, or an application's __str__
            texts["message"] = text_of(record.msg)
            texts["logging_error"] = class_path(error)
        try:
            if record.exc_info and record.exc_info[0] is not None:
                texts["exception"] = self.formatException(record.exc_info)
        except Exception as error:  # noqa: BLE001 - an exception of the application that cannot be printed
            texts["exception"] = class_path(error)
        texts.setdefault("exception", record.exc_text)
        texts["stack"] = record.stack_info
        return texts


def _timestamp(record: logging.LogRecord) -> str | None:
    try:
        moment = datetime.fromtimestamp(record.created, timezone.utc)
    except (ValueError, OverflowError, OSError, TypeError):
        return None
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a value that every JSON parser accepts; other values as text."""
    # Another name, because `isinstance` narrows the type of `value` for the checkers.
    items: Any = value
    kind = cast("type[object]", type(value))
    if kind is bool or (kind is int and abs(value) < 2**63):
        return value
    if kind is float:
        return value if math.isfinite(value) else str(value)
    try:
        if depth < MAX_DEPTH and isinstance(value, Mapping):
            return {_text(key): _plain(item, depth + 1) for key, item in items.items()}
        if depth < MAX_DEPTH and kind in (list, tuple, set, frozenset):
            return [_plain(item, depth + 1) for item in items]
        if value is None:
            return None
        if kind in (date, datetime, time):
            return items.isoformat()
    except Exception:  # noqa: BLE001 - a collection of the application, or one that another thread changes
        return _text(items)
    return _text(items)


def _text(value: object) -> str:
    return storable(_redacted(text_of(value)))


def _redacted(text: str) -> str:
    redactor = run_redactor.get()
    return redactor.names(text) if isinstance(redactor, Redactor) else text


class TextFormatter(logging.Formatter):
    """Formats a record as a readable line, with its traceback on the lines below."""

    def __init__(self) -> None:
        super().__init__(TEXT_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        try:
            return _redacted(super().format(record))
        except Exception as error:  # noqa: BLE001 - arguments that do not match, or an application's __str__
            return f"{record.levelname} {_text(record.msg)} (not formatted: {class_path(error)})"


def formatter_of(log_format: str | None) -> logging.Formatter:
    """Return the formatter of a `log_format`; for None that of a worker's own lines."""
    return JsonFormatter() if log_format == JSON else TextFormatter()
