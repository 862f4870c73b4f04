"""rescue: exceptions that the class has an answer for.

In: nothing. Out: tells `on_error`, then maps an exception by `rescue_from`.
Outside of the transaction, so that what a flush or commit raises is mapped like what `perform` raises.
Left out for a class without `rescue_from` and `on_error`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

from dexpy.declaration.contract import Contract, Handler
from dexpy.execution.call import Call
from dexpy.execution.entry import enter
from dexpy.foundation.errors import Error
from dexpy.foundation.log import line
from dexpy.foundation.outcome import Err, Ok, Outcome
from dexpy.foundation.redaction import class_path


def needed(contract: Contract) -> bool:
    """Whether the class says anything about exceptions."""
    return bool(contract.rescues) or contract.observers


def run(call: Call, proceed: Callable[[Call], Outcome]) -> Outcome:
    """Run the rest and answer its exceptions."""
    try:
        return proceed(call)
    except Exception as error:
        if call.contract.observers:
            observe(call, error)
        rule = call.contract.rescue_for(error)
        if rule is None:
            raise
        return answer(call, rule.answer, error)


def observe(call: Call, error: Exception) -> None:
    """Tell `on_error`; what it raises itself decides nothing."""
    try:
        call.operation.on_error(error)
    except Exception as failed:  # noqa: BLE001 - an observer cannot change how the run ends
        line(
            logging.ERROR,
            "on_error.failed",
            operation=call.contract.name,
            run=call.id,
            error=class_path(failed),
            message=call.redactor.of(failed),
        )


def answer(call: Call, chosen: object, error: Exception) -> Outcome:
    """What `rescue_from` makes of an exception.

    Raises:
        Exception: The class that it names, or whatever its function raises.
    """
    if isinstance(chosen, str):
        return Err(chosen, call.contract.errors.get(chosen) or chosen)
    if isinstance(chosen, type) and issubclass(chosen, Exception):
        if issubclass(chosen, Error):
            return enter(call, _raise, chosen(call.redactor.of(error) or class_path(error)))
        raise chosen(call.redactor.of(error)) from error
    # A function: the declaration refused anything else.
    outcome = enter(call, cast("Handler", chosen), call.operation, error)
    return Ok(call.contract.check_result(outcome.value)) if isinstance(outcome, Ok) else outcome


def _raise(error: Exception) -> None:
    raise error


def explain(call: Call) -> Mapping[str, Any]:
    """What each exception becomes: a code, another exception, or what a function makes of it."""
    return {class_path(cast("type[Exception]", rule.cause)): _told(rule.answer) for rule in call.contract.rescues}


def _told(chosen: Any) -> str:
    if isinstance(chosen, str):
        return chosen
    return class_path(chosen) if isinstance(chosen, type) else f"{getattr(chosen, '__name__', chosen)}()"
