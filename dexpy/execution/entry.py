"""The one place where user code is entered: there an `Error` becomes an `Err`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dexpy.declaration.contract import Contract
from dexpy.execution.call import Call
from dexpy.foundation.errors import Error, UndeclaredError
from dexpy.foundation.outcome import Err, Ok, Outcome


def enter(call: Call, function: Callable[..., Any], *arguments: Any) -> Outcome:
    """Call a piece of user code.

    Returns:
        `Ok` with what it returned, or `Err` with the business error that it raised.

    Raises:
        UndeclaredError: The error has a code that the class does not declare.
    """
    try:
        return Ok(function(*arguments))
    except Error as error:
        return refusal(call.contract, error)


def refusal(contract: Contract, error: Error) -> Err:
    """A business error as an outcome; codes are checked for the class that raised it.

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
