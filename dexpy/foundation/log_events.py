"""Log lines: an event first, then ``key=value``.

The life of a run speaks in four levels: called (DEBUG), done (INFO), refused (WARNING), crashed (ERROR).
Params and results are in none of them, and the texts pass the redactor of the run, or else that of the process:
names come from messages, rows and exceptions too.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeAlias

from dexpy.foundation.safe_text import text_of

logger = logging.getLogger("dexpy")
logger.addHandler(logging.NullHandler())
last_resort: logging.Handler | None = None
"""Of a worker: takes the errors that no handler of the application's takes."""

Redact: TypeAlias = Callable[[str], str]
process_redactor: Redact | None = None
"""The redactor of the current settings, for lines outside of a run; None if there are no secrets."""
declared_names: set[str] = set()
"""Names of operations that this process has declared: never redacted."""

run_redactor: ContextVar[Redact | None] = ContextVar("dexpy_log_redactor", default=None)
"""The redactor of the current run."""
_OWN_ID = re.compile(r"(op|tr)_[0-9a-z]{26}", re.ASCII)


def log_event(level: int, event: str, **facts: Any) -> None:
    """Write one line.

    Args:
        level: As in `logging`.
        event: A short name: ``done``, ``broker.unreachable``.
        facts: What belongs to it; None is left out; a text with spaces is quoted.
    """
    is_enabled = logger.isEnabledFor(level)
    if not is_enabled and (last_resort is None or level < logging.ERROR):
        return
    text = " ".join(f"{key}={_shown(key, value)}" for key, value in facts.items() if value is not None)
    if last_resort is not None and level >= logging.ERROR and not (is_enabled and _is_taken(level)):
        last_resort.handle(logger.makeRecord(logger.name, level, "", 0, "%s %s", (event, text), None))
        return
    try:
        logger.log(level, "%s %s", event, text)
    except Exception as error:  # noqa: BLE001 - a handler of the application's; a line must not decide how a run ends
        if last_resort is not None:
            failed = f"{text} (not logged: {type(error).__name__})"
            last_resort.handle(logger.makeRecord(logger.name, level, "", 0, "%s %s", (event, failed), None))


def _is_taken(level: int) -> bool:
    """Return whether a handler takes a line of this level."""
    current: logging.Logger | None = logger
    while current is not None:
        if any(level >= handler.level and not isinstance(handler, logging.NullHandler) for handler in current.handlers):
            return True
        current = current.parent if current.propagate else None
    return False


MOST_SHOWN = 1000
"""Characters of one fact that a line shows."""


def _shown(key: str, value: Any) -> str:
    if type(value) is float:
        return f"{value:.3f}"
    text = text_of(value)
    length = len(text)
    # Advice is always dexpy's own text.
    if not isinstance(value, (int, float)) and key != "advice":
        text = _redacted(text)
    if len(text) > MOST_SHOWN:
        text = f"{text[:MOST_SHOWN]}… ({length} characters)"
    # What no stream can write, or what would write a line of its own, is shown as escapes.
    is_plain = text.isprintable() and not any(sign.isspace() for sign in text)
    return text if is_plain and text else repr(text)


def _redacted(text: str) -> str:
    redactor = run_redactor.get() or process_redactor
    if redactor is None or text in declared_names or _OWN_ID.fullmatch(text):
        return text
    # A redactor that fails writes a line itself.
    token = run_redactor.set(str)
    try:
        return redactor(text)
    finally:
        run_redactor.reset(token)
