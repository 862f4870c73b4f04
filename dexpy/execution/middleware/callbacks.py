"""callbacks: `before`, `after` and `around`.

In: enters the around callbacks, then calls the before callbacks. Out: calls the after callbacks if `perform` returned,
then leaves the around callbacks. All of them run inside the transaction. Left out for a class without callbacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dexpy.declaration.contract import Contract
from dexpy.execution.call import Call
from dexpy.execution.middleware.perform import call_user
from dexpy.foundation.errors import DeclarationError
from dexpy.foundation.outcome import Err, Ok, Outcome


def needed(contract: Contract) -> bool:
    """Whether the class has callbacks."""
    return bool(contract.callbacks)


class _ErrRaised(BaseException):
    """Carries a business error through the around callbacks as an exception."""

    def __init__(self, outcome: Err) -> None:
        self.outcome = outcome


def run(call: Call, proceed: Callable[[Call], Outcome]) -> Outcome:
    """Run the rest inside the callbacks."""
    contract, operation = call.contract, call.operation

    def inner() -> Outcome:
        for name in contract.methods("before"):
            if isinstance(refused := call_user(call, getattr(operation, name)), Err):
                return refused
        outcome = proceed(call)
        if isinstance(outcome, Ok):
            for name in contract.methods("after"):
                if isinstance(refused := call_user(call, getattr(operation, name)), Err):
                    return refused
        return outcome

    for name in reversed(contract.methods("around")):
        inner = _around(call, name, inner)
    return inner()


def _around(call: Call, name: str, inner: Callable[[], Outcome]) -> Callable[[], Outcome]:
    where = f"{call.contract.cls.__qualname__}.{name}"

    def enter_around() -> Outcome:
        is_called = False
        outcomes: list[Outcome] = []

        def proceed() -> None:
            nonlocal is_called
            if is_called:
                raise DeclarationError(f"{where}: called proceed() twice. Call it once; to retry, declare retry_on.")
            is_called = True
            outcomes.append(inner())
            if isinstance(outcomes[0], Err):
                raise _ErrRaised(outcomes[0])

        try:
            refused = call_user(call, getattr(call.operation, name), proceed)
        except _ErrRaised as ended:
            return ended.outcome
        if isinstance(refused, Err):
            return refused
        if outcomes:
            return outcomes[0]
        if is_called:
            raise DeclarationError(
                f"{where}: this around callback suppressed the exception of proceed(), so the run has no result. "
                "Re-raise it, or raise an Error; to map exceptions, declare rescue_from."
            )
        raise DeclarationError(
            f"{where}: this around callback did not call proceed(). Call it once, or raise an Error to refuse the run."
        )

    return enter_around


def explain(call: Call) -> Mapping[str, Any]:
    """Return the number of callbacks of each kind."""
    return {moment: len(call.contract.methods(moment)) for moment in ("before", "after", "around")}
