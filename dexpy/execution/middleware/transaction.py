"""transaction: commits all effects through `self.session`, or none.

In: makes the run's session the current one; it begins at the first use. Out: commits an `Ok`, with the record's `done`
as the last statement before the commit; rolls back after an `Err` or an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dexpy.database.current_transaction import shared_sessions
from dexpy.execution.call import Call
from dexpy.foundation.outcome import Ok, Outcome

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


def run(call: Call, proceed: Callable[[Call], Outcome]) -> Outcome:
    """Run the rest in the run's unit of work."""
    unit_of_work = call.unit_of_work
    block = unit_of_work.enter()
    try:
        if shared_sessions.exist:
            unit_of_work.begin_if_scoped()
        outcome = proceed(call)
        if not isinstance(outcome, Ok):
            unit_of_work.rollback()
            unit_of_work.write_progress()
        elif (recorder := call.recorder) is None:
            unit_of_work.commit()
        else:
            if unit_of_work.progress is not None:
                unit_of_work.write_progress()
            value = outcome.value

            def settle(connection: Connection) -> None:
                unit_of_work.settle_progress(connection)
                recorder.succeed(connection, value)

            unit_of_work.commit(settle)
    except BaseException:
        unit_of_work.rollback()
        unit_of_work.write_progress()
        if call.recorder is not None:
            call.recorder.rolled_back()
        raise
    finally:
        unit_of_work.leave(block)
    return outcome


def explain(call: Call) -> Mapping[str, Any]:
    """Return whether `perform` is one transaction, which commits its effects together with the record."""
    is_transactional = call.contract.transactional
    return {"enabled": is_transactional, "effects": "exactly once" if is_transactional else "at least once"}
