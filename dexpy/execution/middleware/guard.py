"""guard: refuses a run if one of its guards does.

In: calls every guard; a refusal ends the run as an `Err` with the first code and the list of all. Out: nothing.
After refs, so that guards see current rows. Left out for a class without guards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dexpy.declaration.contract import Contract
from dexpy.declaration.hooks import Guard
from dexpy.execution.call import Call
from dexpy.foundation.errors import DeclarationError, Error
from dexpy.foundation.forks import run_contained
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
    """Return every guard that refuses, in order; a guard that requires a refused one is skipped."""
    return [
        {"guard": guard.code, "message": _message(guard)} for guard, answer in _evaluate(call) if answer == "refused"
    ]


def explain(call: Call) -> Mapping[str, Any]:
    """Return the status of each guard for the call: passed, refused or skipped."""
    return {guard.code: {"status": answer, "message": _message(guard)} for guard, answer in _evaluate(call)}


def _evaluate(call: Call) -> Iterator[tuple[Guard, str]]:
    refused_codes: set[str] = set()
    for guard in call.contract.guards:
        if refused_codes.intersection(guard.requires):
            refused_codes.add(guard.code)
            yield guard, "skipped"
        elif _is_refused(call, guard.code):
            refused_codes.add(guard.code)
            yield guard, "refused"
        else:
            yield guard, "passed"


def _message(guard: Guard) -> str:
    return guard.message or guard.code


def _is_refused(call: Call, code: str) -> bool:
    try:
        return bool(run_contained(call.pid, getattr(call.operation, code)))
    except Error as error:
        raise DeclarationError(
            f"{call.contract.cls.__qualname__}.{code}: this guard raised Error({error.code!r}). "
            "Return a true value to refuse the run; the name of the guard is the error code."
        ) from error
