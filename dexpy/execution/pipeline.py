"""The order of things, as data, folded once per class."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from dexpy.declaration.contract import Contract
from dexpy.execution.call import Call
from dexpy.execution.placement import INNERMOST, Arrangement, Proceed, Step, arrange, watched
from dexpy.execution.steps import (
    callbacks,
    guard,
    lock,
    once,
    perform,
    record,
    refs,
    rescue,
    result,
    trace,
    transaction,
)
from dexpy.foundation.outcome import Outcome

DEFAULT_STEPS: tuple[Step, ...] = (
    Step("trace", trace.run, rehearsed=True),
    Step("result", result.run),
    Step("once", once.run, once.needed, once.explain),
    Step("lock", lock.run, lock.needed, lock.explain),
    Step("record", record.run, explain=record.explain),
    Step("rescue", rescue.run, rescue.needed, rescue.explain),
    Step("transaction", transaction.run, explain=transaction.explain),
    Step("refs", refs.run, refs.needed, rehearsed=True),
    Step("guard", guard.run, guard.needed, guard.explain, rehearsed=True),
    Step("callbacks", callbacks.run, callbacks.needed, callbacks.explain),
)
"""trace > result > once > lock > record > rescue > transaction > refs > guard > callbacks, and `perform` inside."""

_arranged: WeakKeyDictionary[Any, Arrangement] = WeakKeyDictionary()
_folded: WeakKeyDictionary[Any, Proceed] = WeakKeyDictionary()


def run(call: Call) -> Outcome:
    """Run a call through the steps of its class.

    Returns:
        The outcome; an exception that is no business error is raised.
    """
    proceed = _folded.get(call.contract)
    if proceed is None:
        arranged = arrangement_of(call.contract)
        proceed = _folded[call.contract] = fold(arranged, arranged.in_force, call.contract, perform.run)
    return proceed(call)


def arrangement_of(contract: Contract) -> Arrangement:
    """The steps of a class.

    Raises:
        DeclarationError: Its `steps` cannot be.
    """
    arranged = _arranged.get(contract)
    if arranged is None:
        arranged = _arranged[contract] = arrange(DEFAULT_STEPS, contract)
    return arranged


def steps_of(contract: Contract) -> dict[str, bool]:
    """The words of a class's arrow line, and whether each is in its fold."""
    arranged = arrangement_of(contract)
    in_fold = {step.name: step.name not in arranged.removed and step.needed(contract) for step in arranged.steps}
    return {**in_fold, INNERMOST: True}


def rehearse(call: Call, innermost: Proceed, *, without: str | None = None) -> Outcome:
    """Run a call through those steps that answer what a run would meet; the caller undoes whatever comes of that.

    Args:
        call: Made for this.
        innermost: Instead of `perform`.
        without: The name of a step that is left out.

    Returns:
        What *innermost* returned, or the `Err` that a run would be refused with.
    """
    arranged = arrangement_of(call.contract)
    steps = tuple(step for step in arranged.in_force if step.rehearsed and step.name != without)
    with call.scope.entered():
        try:
            return fold(arranged, steps, call.contract, innermost)(call)
        finally:
            call.scope.rollback()


def fold(arranged: Arrangement, steps: tuple[Step, ...], contract: Contract, innermost: Proceed) -> Proceed:
    """Put steps of a class around the innermost one; the first step ends up outermost."""
    names = [step.name for step in arranged.steps]

    def around(step: Step, inner: Proceed) -> Proceed:
        entered = step.run
        if step.name in arranged.own:
            entered = watched(step, is_outside=names.index(step.name) < names.index("transaction"))
        return lambda call: entered(call, inner)

    for step in reversed(steps):
        if step.needed(contract):
            innermost = around(step, innermost)
    return innermost
