"""The order of things, as data, folded once per class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import attrs

from dexpy.declaration.contract import Contract
from dexpy.execution.call import Call
from dexpy.execution.steps import callbacks, guard, perform, record, refs, rescue, result, trace, transaction
from dexpy.foundation.outcome import Ok, Outcome

Proceed: TypeAlias = Callable[[Call], Outcome]


@attrs.frozen
class Step:
    """One word of the arrow line.

    Attributes:
        name: The word.
        run: Gets the call and what comes after; returns the outcome.
        needed: Says whether a class needs it; one that is not needed is left out.
    """

    name: str
    run: Callable[[Call, Proceed], Outcome]
    needed: Callable[[Contract], bool] = lambda _contract: True


DEFAULT_STEPS: tuple[Step, ...] = (
    Step("trace", trace.run),
    Step("result", result.run),
    Step("record", record.run),
    Step("rescue", rescue.run, rescue.needed),
    Step("transaction", transaction.run),
    Step("refs", refs.run, refs.needed),
    Step("guard", guard.run, guard.needed),
    Step("callbacks", callbacks.run, callbacks.needed),
)
"""trace > result > record > rescue > transaction > refs > guard > callbacks, and `perform` inside."""

_folded: WeakKeyDictionary[Any, Proceed] = WeakKeyDictionary()


def run(call: Call) -> Outcome:
    """Run a call through the steps of its class.

    Returns:
        The outcome; an exception that is no business error is raised.
    """
    proceed = _folded.get(call.contract)
    if proceed is None:
        proceed = _folded[call.contract] = fold(DEFAULT_STEPS, call.contract, perform.run)
    return proceed(call)


def rehearse(call: Call) -> Outcome:
    """Ask the guards of a call's class, with its rows loaded, in a transaction that is always rolled back.

    Returns:
        ``Ok(None)``, or the `Err` that a run would be refused with. Nothing ran and nothing is kept.
    """
    steps = tuple(step for step in DEFAULT_STEPS if step.name in ("trace", "refs", "guard"))
    with call.scope.entered():
        try:
            return fold(steps, call.contract, _nothing_done)(call)
        finally:
            call.scope.rollback()


def _nothing_done(_call: Call) -> Outcome:
    return Ok(None)


def fold(steps: tuple[Step, ...], contract: Contract, innermost: Proceed) -> Proceed:
    """Put steps around the innermost one; the first step ends up outermost."""

    def around(step: Step, inner: Proceed) -> Proceed:
        entered = step.run
        return lambda call: entered(call, inner)

    for step in reversed(steps):
        if step.needed(contract):
            innermost = around(step, innermost)
    return innermost
