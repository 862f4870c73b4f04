"""record: the run's row.

In: nothing. Out: tells the recorder how the run ended; a success has been written in the run's own transaction already,
where there was one. Outside of rescue and transaction, so that a failure is written after the rollback, and told once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dexpy.execution.call import Call
from dexpy.foundation.errors import LostClaim
from dexpy.foundation.outcome import Outcome


def run(call: Call, proceed: Callable[[Call], Outcome]) -> Outcome:
    """Run the rest and have its end written."""
    recorder = call.recorder
    if recorder is None:
        return proceed(call)
    try:
        outcome = proceed(call)
    except LostClaim:
        raise
    except BaseException as error:
        recorder.crashed(call.scope.at_end, error)
        raise
    recorder.ended(call.scope.at_end, outcome)
    return outcome


def explain(call: Call) -> Mapping[str, Any]:
    """What is kept of a run of this class, where the runtime records it."""
    record = call.contract.record
    if record is None:
        return {"enabled": False}
    return {"enabled": True, "params": record.params, "result": record.result}
