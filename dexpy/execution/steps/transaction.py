"""transaction: all effects through `self.session`, or none.

In: makes the run's session the current one; it begins at the first use. Out: commits an `Ok`, with the record's `done`
as the last statement before the commit; rolls back because it sees an `Err`, or an exception passing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

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

                    def settle(connection: Connection) -> None:
                        recorder.succeed(connection, value)

                    scope.commit(settle)
            else:
                scope.rollback()
        except BaseException:
            scope.rollback()
            if call.recorder is not None:
                call.recorder.rolled_back()
            raise
    return outcome
