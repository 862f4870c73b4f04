"""record: writes the end of the run to its record.

In: nothing. Out: passes the outcome to the recorder; a success was already written in the run's own transaction, if it
has one. Outside of rescue and transaction, so that a failure is written once, after the rollback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dexpy.execution.call import Call
from dexpy.foundation.errors import LostClaim
from dexpy.foundation.outcome import Outcome


def run(call: Call, proceed: Callable[[Call], Outcome]) -> Outcome:
    """Run the rest and write its end."""
    recorder = call.recorder
    if recorder is None:
        return proceed(call)
    try:
        outcome = proceed(call)
    except LostClaim:
        raise
    except BaseException as error:
        recorder.crashed(call.unit_of_work.at_end, error)
        raise
    recorder.ended(call.unit_of_work.at_end, outcome)
    return outcome


def explain(call: Call) -> Mapping[str, Any]:
    """Return what a run of this class stores, if the runtime records it."""
    record = call.contract.record
    if record is None:
        return {"enabled": False}
    return {"enabled": True, "params": record.params, "result": record.result}
