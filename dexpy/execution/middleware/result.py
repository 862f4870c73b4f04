"""result: logs how the run ended, in one line.

In: `run.started`. Out: `run.succeeded`, or for a synchronous call `run.rejected`, `run.cancelled` or `run.failed`.
The job of a background run logs the failure of an attempt, because it decides whether the run is retried.
Outside of record, so that the line comes when the row is written. Params and results are not in it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from dexpy.execution.call import Call
from dexpy.foundation.errors import Cancelled, Interrupted
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.outcome import Err, Outcome
from dexpy.foundation.redaction import class_path

_logger = LogEvent.RUN_STARTED.logger


def run(call: Call, proceed: Callable[[Call], Outcome]) -> Outcome:
    """Run the rest and log how it ended."""
    if not _logger.isEnabledFor(logging.ERROR):
        return proceed(call)
    began = time.monotonic()
    if _logger.isEnabledFor(logging.DEBUG):
        log_event(LogEvent.RUN_STARTED, **_run_facts(call))
    try:
        outcome = proceed(call)
    except BaseException as error:
        # By its type: isinstance() reads __class__, which may raise in a class of the application.
        kind = type(error)
        if issubclass(kind, Interrupted):
            log_event(LogEvent.RUN_INTERRUPTED, **_run_facts(call), duration_ms=_ms_since(began))
        elif not call.is_attempt:
            is_cancelled = issubclass(kind, (asyncio.CancelledError, Cancelled))
            log_event(
                LogEvent.RUN_CANCELLED if is_cancelled else LogEvent.RUN_FAILED,
                **_run_facts(call),
                duration_ms=_ms_since(began),
                failure=None if is_cancelled else "crash",
                error=call.redactor(class_path(error)),
                error_message=call.redactor.of(error),
            )
        raise
    if not isinstance(outcome, Err):
        if _logger.isEnabledFor(logging.INFO):
            log_event(LogEvent.RUN_SUCCEEDED, **_run_facts(call), duration_ms=_ms_since(began))
    elif not call.is_attempt:
        log_event(
            LogEvent.RUN_REJECTED,
            **_run_facts(call),
            duration_ms=_ms_since(began),
            failure="rejected" if outcome.rejected else "business",
            error=call.redactor(outcome.code),
        )
    return outcome


def _run_facts(call: Call) -> dict[str, Any]:
    return {
        "operation": call.contract.name,
        "run_id": call.id,
        "trace_id": call.frame.trace_id,
        "attempt": call.attempt,
    }


def _ms_since(began: float) -> float:
    return (time.monotonic() - began) * 1000
