"""guard: may this run at all?

In: asks every guard; a refusal ends the run as an `Err` with the first code, and tells all of them. Out: nothing.
After refs, so that guards see current rows. Left out for a class without guards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dexpy.declaration.contract import Contract
from dexpy.declaration.hooks import Guard
from dexpy.execution.call import Call
from dexpy.foundation.errors import DeclarationError, Error
from dexpy.foundation.outcome import Err, Outcome


def needed(contract: Contract) -> bool:
    """Whether the class has guards."""
    return bool(contract.guards)


def run(call: Call, proceed: Callable[[Call], Outcome]) -> Outcome:
    """Run the rest unless a guard refuses."""
    failed = refusals(call)
    if not failed:
        return proceed(call)
    first = failed[0]
    return Err(first["guard"], first["message"], {"guards": failed}, rejected=True)


def refusals(call: Call) -> list[dict[str, str]]:
    """Every guard that refuses, in order; one that requires a guard that refused is skipped."""
    return [{"guard": guard.code, "message": _message(guard)} for guard, answer in _asked(call) if answer == "refused"]


def explain(call: Call) -> Mapping[str, Any]:
    """What each guard says to the call: passed, refused or skipped."""
    return {guard.code: {"status": answer, "message": _message(guard)} for guard, answer in _asked(call)}


def _asked(call: Call) -> Iterator[tuple[Guard, str]]:
    closed: set[str] = set()
    for guard in call.contract.guards:
        if closed.intersection(guard.requires):
            closed.add(guard.code)
            yield guard, "skipped"
        elif _threat(call, guard.code):
            closed.add(guard.code)
            yield guard, "refused"
        else:
            yield guard, "passed"


def _message(guard: Guard) -> str:
    return guard.message or guard.code


def _threat(call: Call, code: str) -> bool:
    try:
        return bool(getattr(call.operation, code)())
    except Error as error:
        raise DeclarationError(
            f"{call.contract.cls.__qualname__}.{code} is a guard and raised Error({error.code!r}). "
            "A guard returns something true when the threat is there; its name is the code."
        ) from error
