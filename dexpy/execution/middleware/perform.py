"""perform: calls the operation's `perform`, innermost; also calls all other user code of a run.

Calls `perform`, on an event loop if it is an ``async def``, and checks what it returns against its annotation:
inside the transaction, so that a wrong result leaves no effects. An `Error` of user code becomes an `Err` here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from dexpy.codec.problems import InvalidValue, TooDeep
from dexpy.declaration.contract import Contract
from dexpy.execution.call import Call
from dexpy.execution.event_loop import process_loop
from dexpy.foundation.errors import Error, ResultTypeError, UndeclaredError
from dexpy.foundation.exception_groups import leaves_of
from dexpy.foundation.forks import ContainedCoroutine, run_contained
from dexpy.foundation.outcome import Err, Ok, Outcome
from dexpy.foundation.stack_depth import require_stack


def run(call: Call) -> Outcome:
    """Call `perform` and check its result."""
    # Read before the call, so that an unresolvable annotation raises before `perform` has any effect.
    contract, outer, token = call.contract, call.outer, call.cancel_token
    success = contract.success
    if outer is not None or contract.is_async:
        # Checked before a thread and a loop wait for each other: a stack overflow would lose the answer.
        require_stack(contract.cls.__qualname__)
    perform = partial(_awaited, call) if contract.is_async else call.operation.perform
    call.unit_of_work.performing = True
    try:
        if token is None or (outer is not None and outer.cancel_token is token):
            outcome = call_user(call, perform)
        else:
            with token.interruptible():
                outcome = call_user(call, perform)
    finally:
        call.unit_of_work.performing = False
    if isinstance(outcome, Ok) and success is not None:
        return Ok(check_result(contract, outcome.value))
    return outcome


def _awaited(call: Call) -> Any:
    bridge = call.bridge
    assert bridge is not None  # noqa: S101 - the call of an async perform always has one
    return bridge.serve(ContainedCoroutine(call.operation.perform(), call.pid), call.loop or process_loop())


def check_result(contract: Contract, value: Any) -> Any:
    """Return a result, checked and converted by the contract.

    Raises:
        ResultTypeError: It does not match the return annotation of `perform`.
    """
    if contract.success is None:
        return value
    try:
        return contract.success.check(value)
    except TooDeep:
        # Its type may be right; it is treated as a result without a JSON form.
        return value
    except InvalidValue as invalid:
        problems = "; ".join(str(problem.under("result").without_value()) for problem in invalid.problems)
        raise ResultTypeError(
            f"{contract.cls.__qualname__}.perform: expected to return {contract.success.label}, got "
            f"{type(value).__name__} ({problems}). Change the return value or the annotation."
        ) from None


def call_user(call: Call, function: Callable[..., Any], *arguments: Any) -> Outcome:
    """Call a piece of user code.

    Returns:
        `Ok` with what it returned, or `Err` with the business error that it raised.

    Raises:
        UndeclaredError: The error has a code that the class does not declare.
    """
    try:
        return Ok(run_contained(call.pid, function, *arguments))
    except (Error, BaseExceptionGroup) as error:
        return to_err(call.contract, business_error(error))


def business_error(error: BaseException) -> Error:
    """Return the business error that was raised, or that is the only member of a group.

    Raises:
        BaseException: Any other error; of a group, the first member that is not an `Exception`, or else the group.
    """
    if isinstance(error, Error):
        return error
    leaves = [*leaves_of(error)]
    if len(leaves) == 1 and isinstance(leaves[0], Error):
        return leaves[0]
    # A cancellation or interrupt has precedence over the other exceptions of the group.
    for leaf in leaves:
        if not isinstance(leaf, Exception):
            raise leaf from None
    raise error


def to_err(contract: Contract, error: Error) -> Err:
    """Return a business error as an outcome; its code is checked for the class that raised it.

    Raises:
        UndeclaredError: The class does not declare the code.
    """
    nested = error.operation is not None and error.operation != contract.name
    if not nested and contract.errors and error.code not in contract.errors:
        raise UndeclaredError(contract.cls.__qualname__, error.code, contract.errors) from error
    message = error.message
    if not nested and not error.has_message:
        message = contract.errors.get(error.code) or error.code
    return Err(error.code, message, error.details, operation=error.operation if nested else None)
