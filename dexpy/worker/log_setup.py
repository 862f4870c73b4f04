"""Logging of a worker process: the application's configuration, with the worker's defaults for the rest.

The worker's handler is `logging.lastResort`, which is used only if no other handler is configured.
So whatever the application configures replaces it at any time, and no line is logged twice.

A `log_format` changes how lines on the standard streams look, but not which lines are written there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time

from dexpy.foundation import log_events
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_formats import formatter_of

REPEAT_AFTER_S = 10.0
"""How often the log repeats that the broker is unreachable, in seconds."""
CONSUMER_LOST_PREFIX = "Consumer encountered a connection error"
"""The beginning of Dramatiq's message about that."""
WORKER_LOGGERS = ("dexpy", "dramatiq")
"""The loggers of a worker's own lines, with their children."""


class LastResort(logging.Handler):
    """Writes to standard error, also if the application has closed or replaced `sys.stderr`.

    Args:
        log_format: See `set_up_logging`.
    """

    def __init__(self, log_format: str | None) -> None:
        super().__init__()
        self._stream = sys.stderr
        self.setFormatter(formatter_of(log_format))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        text = f"{self.format(record)}\n"
        try:
            self._stream.write(text)
            self._stream.flush()
        except Exception:  # noqa: BLE001 - closed, or a stream with another encoding
            with contextlib.suppress(OSError):
                os.write(2, text.encode(errors="backslashreplace"))


def set_up_logging(level: int, log_format: str | None = None) -> None:
    """Log to standard error if no other handler is configured; called before the application is imported.

    Args:
        level: The level of `logging`.
        log_format: The setting `log_format`; None to leave the handlers of the application alone.
    """
    log_events.last_resort = logging.lastResort = LastResort(log_format)
    for handler in log_events.logger.handlers[:]:
        if isinstance(handler, logging.NullHandler):
            # `logging` counts it as a handler, so `lastResort` would not be used.
            log_events.logger.removeHandler(handler)
    if not logging.root.handlers:
        # The parent process, which imports no application, may have set it.
        logging.root.setLevel(logging.WARNING)
    if level <= logging.DEBUG:
        log_events.logger.setLevel(level)


def complete_logging(level: int, log_format: str | None = None) -> None:
    """Complete the configuration after the application was imported: set what it has not configured.

    Args:
        level: The level of `logging`.
        log_format: The setting `log_format`; None to leave the handlers of the application alone.
    """
    if log_format is not None:
        _format_standard_streams(log_format)
    for name, existing in list(logging.root.manager.loggerDict.items()):
        if isinstance(existing, logging.Logger) and name.partition(".")[0] in WORKER_LOGGERS:
            # `logging.config` disables all existing loggers by default.
            existing.disabled = False
    if not logging.root.handlers and logging.root.level == logging.WARNING:
        logging.root.setLevel(level)
    _quieten("dramatiq", logging.WARNING if level > logging.DEBUG else logging.INFO)
    if level > logging.DEBUG:
        # It logs long tracebacks for each attempt; the consumers log the same in one line.
        _quieten("pika", logging.CRITICAL + 1)
        # It logs an error for each connection that is lost on its return; the pool opens a new one.
        _quieten("sqlalchemy.pool", logging.CRITICAL + 1)
        consumer_filter = ConsumerErrorFilter()
        for handler in (*logging.root.handlers, log_events.last_resort):
            if handler is not None:
                handler.addFilter(consumer_filter)
    else:
        log_events.logger.setLevel(level)


def _format_standard_streams(log_format: str) -> None:
    """Set the format of all handlers that write to standard output or standard error."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    streams = [stream for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__) if stream is not None]
    for logger in loggers:
        for handler in logger.handlers if isinstance(logger, logging.Logger) else ():
            # Other handlers with a stream, for example of files, have another one.
            if getattr(handler, "stream", None) in streams:
                handler.setFormatter(formatter_of(log_format))


def _quieten(name: str, level: int) -> None:
    logger = logging.getLogger(name)
    if logger.level == logging.NOTSET:
        logger.setLevel(level)


class ConsumerErrorFilter(logging.Filter):
    """Limits Dramatiq's lines about an unreachable broker to one event every few seconds in a process."""

    def __init__(self) -> None:
        super().__init__()
        self._logged_at = -REPEAT_AFTER_S

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line is logged; one about an unreachable broker becomes the event `broker.unreachable`."""
        if not record.name.startswith("dramatiq.worker") or not str(record.msg).startswith(CONSUMER_LOST_PREFIX):
            return True
        now = time.monotonic()
        if now - self._logged_at < REPEAT_AFTER_S:
            return False
        self._logged_at = now
        event = LogEvent.BROKER_UNREACHABLE
        error_message = " ".join(record.getMessage().partition(":")[2].split())
        advice = "the worker retries"
        record.name = event.logger.name
        record.levelno, record.levelname = event.level, logging.getLevelName(event.level)
        record.msg, record.args = f"{event.event} error_message=%r advice=%r", (error_message, advice)
        record.__dict__.update(event=event.event, error_message=error_message, advice=advice)
        return event.logger.isEnabledFor(event.level)
