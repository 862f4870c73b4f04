"""transaction: all effects through `self.session`, or none.

In: makes the run's session the current one; it begins at the first use. Out: commits an `Ok`, with the record's `done`
as the last statement before the commit; rolls back because it sees an `Err`, or an exception passing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dexpy.execution import progress
from dexpy.execution.call import Call
from dexpy.foundation.outcome import Ok, Outcome

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


def run(call: Call, proceed: Callable[[Call], Outcome]) -> Outcome:
    """Run the rest in the run's scope."""
    scope = call.scope
    with scope.entered():
        try:
            outcome = proceed(call)
            if isinstance(outcome, Ok):
                recorder, value = call.recorder, outcome.value
                if recorder is None:
                    scope.commit()
                else:
                    progress.keep_last(scope)

                    def settle(connection: Connection) -> None:
                        progress.settle(scope, connection)
                        recorder.succeed(connection, value)

                    scope.commit(settle)
            else:
                scope.rollback()
                progress.keep_last(scope)
        except BaseException:
            scope.rollback()
            progress.keep_last(scope)
            if call.recorder is not None:
                call.recorder.rolled_back()
            raise
    return outcome


def explain(call: Call) -> Mapping[str, Any]:
    """Whether `perform` is one transaction, and so its effects and its record's `done` one commit."""
    whole = call.contract.transactional
    return {"enabled": whole, "effects": "exactly once" if whole else "at least once"}
