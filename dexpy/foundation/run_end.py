"""`RunEnd`: the end of a run, as hooks of the application receive it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, TypeAlias

import attrs


@attrs.frozen(kw_only=True)
class RunEnd:
    """The final end of a background run; it holds no params and no result, and its texts are redacted.

    Attributes:
        operation: The stable name of the operation.
        run_id: The id of the run, also of its record.
        status: ``done``, ``failed``, ``expired`` or ``cancelled``.
        failure: Why it is not done: ``business``, ``rejected``, ``crash``, ``timeout``, ``lost``, ``discarded``,
            ``cancelled``, ``expired``, ``unknown`` or ``undecodable``; None if it is done.
        error: The error code of a business error, or the path of the exception's class.
        error_message: The message of the error.
        queue: The queue of the run.
        attempts: The number of attempts that were started.
        trace_id: The id of the trace.
        parent_id: The id of the run that started this one.
        actor_type: The type of the actor of the trace.
        actor_id: The id of the actor of the trace.
        created_at: When the run was enqueued.
        started_at: When the last attempt began; None if none did.
        ended_at: When the run ended, by the clock of the database.
        call: Which call of the hook for this end it is; more than 1 after a process died during the calls before.
    """

    operation: str
    run_id: str
    status: str
    failure: str | None = None
    error: str | None = None
    error_message: str | None = None
    queue: str
    attempts: int
    trace_id: str | None = None
    parent_id: str | None = None
    actor_type: str | None = None
    actor_id: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    call: int = 1


Hook: TypeAlias = Callable[[RunEnd], object | Coroutine[Any, Any, object]]
"""A function of the application that is called with the end of a run."""
