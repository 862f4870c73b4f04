"""trace: the run's position in its trace.

In: sets the run's frame, its propagated context and the current run. Out: restores the earlier ones.
Outermost, so that every log line, record and nested run sees the run it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable

from dexpy.execution.call import Call, current
from dexpy.foundation.context import attach, detach
from dexpy.foundation.outcome import Outcome
from dexpy.foundation.trace import frame_scope


def run(call: Call, proceed: Callable[[Call], Outcome]) -> Outcome:
    """Run the rest inside the call's frame."""
    frame = frame_scope.enter(call.frame)
    context_token = attach(call.frame.context) if call.frame.context else None
    token = current.set(call)
    try:
        return proceed(call)
    finally:
        current.reset(token)
        if context_token is not None:
            detach(context_token)
        frame_scope.leave(frame)
