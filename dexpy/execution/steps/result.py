"""result: what the run came to, said in one line.

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
from dexpy.foundation.log import line, logger
from dexpy.foundation.outcome import Err, Outcome
from dexpy.foundation.redaction import class_path


def run(call: Call, proceed: Callable[[Call], Outcome]) -> Outcome:
    """Run the rest and say how it ended."""
    if not logger.isEnabledFor(logging.ERROR):
        return proceed(call)
    name, run_id, began = call.contract.name, call.id, time.monotonic()
    line(logging.DEBUG, "called", operation=name, run=run_id, attempt=call.attempt)
    try:
        outcome = proceed(call)
    except BaseException as error:
        if isinstance(error, Interrupted):
            line(logging.INFO, "interrupted", operation=name, run=run_id, seconds=time.monotonic() - began)
            raise
        cancelled = isinstance(error, (asyncio.CancelledError, Cancelled))
        line(
            logging.WARNING if cancelled else logging.ERROR,
            "cancelled" if cancelled else "crashed",
            operation=name,
            run=run_id,
            attempt=call.attempt,
            seconds=time.monotonic() - began,
            error=class_path(error),
            message=call.redactor.of(error),
        )
        raise
    seconds = time.monotonic() - began
    if isinstance(outcome, Err):
        line(logging.WARNING, "refused", operation=name, run=run_id, seconds=seconds, code=outcome.code)
    else:
        line(logging.INFO, "done", operation=name, run=run_id, seconds=seconds)
    return outcome
