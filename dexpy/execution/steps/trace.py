"""trace: who called whom.

In: puts the run's frame, the ambient values that travelled with it and the run itself in force. Out: puts back what
was there.
Outermost, so that every log line, record and nested run sees the run it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable

from dexpy.execution.call import Call, current
from dexpy.foundation.context import arrive, depart
from dexpy.foundation.outcome import Outcome
from dexpy.foundation.trace import enter_frame, leave_frame


def run(call: Call, proceed: Callable[[Call], Outcome]) -> Outcome:
    """Run the rest inside the call's frame."""
    frame = enter_frame(call.frame)
    arrived = arrive(call.frame.context) if call.frame.context else None
    token = current.set(call)
    try:
        return proceed(call)
    finally:
        current.reset(token)
        if arrived is not None:
            depart(arrived)
        leave_frame(frame)
