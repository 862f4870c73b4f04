"""callbacks: `before`, `after` and `around`.

In: enters the arounds, then the befores. Out: the afters, when `perform` returned; then the arounds end.
All of it inside the transaction. Left out for a class without callbacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dexpy.declaration.contract import Contract
from dexpy.execution.call import Call
from dexpy.execution.entry import enter
from dexpy.foundation.errors import DeclarationError
from dexpy.foundation.outcome import Err, Ok, Outcome


def needed(contract: Contract) -> bool:
    """Whether the class has callbacks."""
    return bool(contract.callbacks)


class _Ended(BaseException):
    """Carries a business error out through the arounds, as an exception would go."""

    def __init__(self, outcome: Err) -> None:
        self.outcome = outcome


def run(call: Call, proceed: Callable[[Call], Outcome]) -> Outcome:
    """Run the rest among the callbacks."""
    contract, operation = call.contract, call.operation

    def inner() -> Outcome:
        for name in contract.methods("before"):
            if isinstance(refused := enter(call, getattr(operation, name)), Err):
                return refused
        outcome = proceed(call)
        if isinstance(outcome, Ok):
            for name in contract.methods("after"):
                if isinstance(refused := enter(call, getattr(operation, name)), Err):
                    return refused
        return outcome

    for name in reversed(contract.methods("around")):
        inner = _around(call, name, inner)
    return inner()


def _around(call: Call, name: str, inner: Callable[[], Outcome]) -> Callable[[], Outcome]:
    where = f"{call.contract.cls.__qualname__}.{name}"

    def entered() -> Outcome:
        begun = False
        reached: list[Outcome] = []

        def proceed() -> None:
            nonlocal begun
            if begun:
                raise DeclarationError(f"{where} called proceed() twice. Call it once; retry_on runs all of it again.")
            begun = True
            reached.append(inner())
            if isinstance(reached[0], Err):
                raise _Ended(reached[0])

        try:
            refused = enter(call, getattr(call.operation, name), proceed)
        except _Ended as ended:
            return ended.outcome
        if isinstance(refused, Err):
            return refused
        if reached:
            return reached[0]
        if begun:
            raise DeclarationError(
                f"{where} is an around callback and caught what proceed() raised, so the run has no result. "
                "Raise it again, or raise an Error; rescue_from answers exceptions."
            )
        raise DeclarationError(
            f"{where} is an around callback and never called proceed(). Call it once; raise an Error to refuse the run."
        )

    return entered


def explain(call: Call) -> Mapping[str, Any]:
    """How many callbacks there are of each moment."""
    return {moment: len(call.contract.methods(moment)) for moment in ("before", "after", "around")}
