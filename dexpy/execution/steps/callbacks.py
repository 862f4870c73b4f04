"""callbacks: `before`, `after` and `around`.

In: enters the arounds, then the befores. Out: the afters, when `perform` returned; then the arounds end.
All of it inside the transaction. Left out for a class without callbacks.
"""

from __future__ import annotations

from collections.abc import Callable

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
    def entered() -> Outcome:
        reached: list[Outcome] = []

        def proceed() -> None:
            if reached:
                raise DeclarationError(f"{call.contract.cls.__qualname__}.{name} called proceed() twice.")
            reached.append(inner())
            if isinstance(reached[0], Err):
                raise _Ended(reached[0])

        try:
            refused = enter(call, getattr(call.operation, name), proceed)
        except _Ended as ended:
            return ended.outcome
        if isinstance(refused, Err):
            return refused
        if not reached:
            raise DeclarationError(
                f"{call.contract.cls.__qualname__}.{name} is an around callback and never called proceed(). "
                "Call it once; raise an Error to refuse the run."
            )
        return reached[0]

    return entered
