"""perform: the operation's own work, innermost.

Calls `perform`, on an event loop if it is an ``async def``, and checks what it returns against its annotation:
inside the transaction, so that a wrong result leaves no effects.
"""

from __future__ import annotations

from typing import Any

from dexpy.execution.call import Call
from dexpy.execution.coroutines import process_loop
from dexpy.execution.entry import enter
from dexpy.foundation.outcome import Ok, Outcome


def run(call: Call) -> Outcome:
    """Do the work."""
    # Read before the work begins: an annotation that names nothing is told while nothing has been done.
    success = call.contract.success
    stop = call.stop
    call.scope.performing = True
    try:
        if stop is None or (call.outer is not None and call.outer.stop is stop):
            outcome = _perform(call)
        else:
            with stop.inside():
                outcome = _perform(call)
    finally:
        call.scope.performing = False
    if isinstance(outcome, Ok) and success is not None:
        return Ok(call.contract.check_result(outcome.value))
    return outcome


def _perform(call: Call) -> Outcome:
    return enter(call, _awaited if call.contract.is_async else call.operation.perform, *_arguments(call))


def _arguments(call: Call) -> tuple[Any, ...]:
    return (call,) if call.contract.is_async else ()


def _awaited(call: Call) -> Any:
    desk = call.desk
    assert desk is not None  # noqa: S101 - whoever made the call of an async perform gave it one
    return desk.serve(call.operation.perform(), call.loop or process_loop())
