"""The log line about the end of an attempt, from its record."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Row

from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event

_EVENTS = {
    "rejected": LogEvent.RUN_REJECTED,
    "business": LogEvent.RUN_REJECTED,
    "discarded": LogEvent.RUN_DISCARDED,
    "cancelled": LogEvent.RUN_CANCELLED,
    "expired": LogEvent.RUN_EXPIRED,
}
"""The events of the failures that are not errors of the run."""


def run_facts(row: Row[Any]) -> dict[str, Any]:
    """Return the fields that identify the run of a record; the row may lack other columns."""
    return {
        "operation": row.operation,
        "run_id": row.id,
        "trace_id": getattr(row, "trace_id", None),
        "attempt": getattr(row, "num_attempts", None) or None,
        "queue": getattr(row, "queue", None),
    }


def event_of_failure(failure: object) -> LogEvent:
    """Return the event of a run that has ended with a kind of failure."""
    return _EVENTS.get(failure, LogEvent.RUN_FAILED) if isinstance(failure, str) else LogEvent.RUN_FAILED


def log_end(row: Row[Any], **facts: Any) -> None:
    """Log the end of an attempt after it was written.

    Args:
        row: The record after the attempt: pending if the run will be retried.
        facts: Additional fields.
    """
    if row.status == "pending":
        log_event(LogEvent.RUN_RETRY_SCHEDULED, **run_facts(row), **facts)
        return
    event = event_of_failure(row.failure)
    failure = row.failure if event in (LogEvent.RUN_FAILED, LogEvent.RUN_REJECTED) else None
    log_event(event, **run_facts(row), failure=failure, **facts)
