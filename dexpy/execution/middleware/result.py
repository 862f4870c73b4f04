"""result: logs how the run ended, in one line.

In: called (DEBUG). Out: done (INFO), refused or cancelled (WARNING), crashed (ERROR), with run id and duration.
Outside of record, so that the line comes when the row is written. Params and results are not in it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from dexpy.execution.call import Call
from dexpy.foundation.errors import Cancelled, Interrupted
from dexpy.foundation.log_events import log_event, logger
from dexpy.foundation.outcome import Err, Outcome
from dexpy.foundation.redaction import class_path


def run(call: Call, proceed: Callable[[Call], Outcome]) -> Outcome:
    """Run the rest and log how it ended."""
    if not logger.isEnabledFor(logging.ERROR):
        return proceed(call)
    name, run_id, began = call.contract.name, call.id, time.monotonic()
    if logger.isEnabledFor(logging.DEBUG):
        log_event(logging.DEBUG, "called", operation=name, run=run_id, attempt=call.attempt)
    try:
        outcome = proceed(call)
    except BaseException as error:
        # By its type: isinstance() reads __class__, which may raise in a class of the application.
        kind = type(error)
        if issubclass(kind, Interrupted):
            log_event(logging.INFO, "interrupted", operation=name, run=run_id, seconds=time.monotonic() - began)
            raise
        cancelled = issubclass(kind, (asyncio.CancelledError, Cancelled))
        log_event(
            logging.WARNING if cancelled else logging.ERROR,
            "cancelled" if cancelled else "crashed",
            operation=name,
            run=run_id,
            attempt=call.attempt,
            seconds=time.monotonic() - began,
            error=call.redactor(class_path(error)),
            message=call.redactor.of(error),
        )
        raise
    seconds = time.monotonic() - began
    if isinstance(outcome, Err):
        log_event(
            logging.WARNING, "refused", operation=name, run=run_id, seconds=seconds, code=call.redactor(outcome.code)
        )
    elif logger.isEnabledFor(logging.INFO):
        log_event(logging.INFO, "done", operation=name, run=run_id, seconds=seconds)
    return outcome
