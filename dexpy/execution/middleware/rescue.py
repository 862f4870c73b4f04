"""rescue: applies `on_error` and `rescue_from`.

In: nothing. Out: calls `on_error`, then maps an exception by `rescue_from`.
Outside of the transaction, so that what a flush or commit raises is mapped like what `perform` raises.
Left out for a class without `rescue_from` and `on_error`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from dexpy.declaration.contract import Contract, Handler
from dexpy.execution.call import Call
from dexpy.execution.middleware.perform import call_user, check_result
from dexpy.foundation.errors import Error
from dexpy.foundation.exception_groups import leaves_of
from dexpy.foundation.forks import run_contained
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.outcome import Err, Ok, Outcome
from dexpy.foundation.redaction import class_path
from dexpy.policies.error_rules import ErrorRule


def needed(contract: Contract) -> bool:
    """Whether the class has `rescue_from` rules or `on_error`."""
    return bool(contract.rescues) or contract.observers


def run(call: Call, proceed: Callable[[Call], Outcome]) -> Outcome:
    """Run the rest and map its exceptions."""
    try:
        return proceed(call)
    except Exception as error:
        if call.contract.observers:
            observe(call, error)
        rule = call.contract.rescue_for(error)
        if rule is None:
            raise
        return apply_answer(call, rule.answer, matching_exception(rule, error))


def matching_exception(rule: ErrorRule, error: Exception) -> Exception:
    """Return the exception that a rule matches: the error itself, or the first member of a group."""
    if isinstance(rule.cause, type) and isinstance(error, rule.cause):
        return error
    first = next(leaves_of(error))
    return first if isinstance(first, Exception) else error


def observe(call: Call, error: Exception) -> None:
    """Call `on_error`; exceptions that it raises are logged only."""
    try:
        run_contained(call.pid, call.operation.on_error, error)
    except Exception as failed:  # noqa: BLE001 - an observer cannot change how the run ends
        log_event(
            LogEvent.ON_ERROR_FAILED,
            operation=call.contract.name,
            run_id=call.id,
            error=class_path(failed),
            error_message=call.redactor.of(failed),
        )


def apply_answer(call: Call, answer: object, error: Exception) -> Outcome:
    """Return the outcome that `rescue_from` maps an exception to.

    Raises:
        Exception: The class that the rule names, or an exception of its function.
    """
    if isinstance(answer, str):
        return Err(answer, call.contract.errors.get(answer) or answer)
    if isinstance(answer, type) and issubclass(answer, Exception):
        if issubclass(answer, Error):
            return call_user(call, _raise, answer(call.redactor.of(error) or class_path(error)))
        raise answer(call.redactor.of(error)) from error
    # A function: the declaration refused anything else.
    outcome = call_user(call, cast("Handler", answer), call.operation, error)
    return Ok(check_result(call.contract, outcome.value)) if isinstance(outcome, Ok) else outcome


def _raise(error: Exception) -> None:
    raise error


def explain(call: Call) -> Mapping[str, Any]:
    """Return what each exception is mapped to: a code, another exception, or the result of a function."""
    return {
        class_path(cast("type[Exception]", rule.cause)): _describe_answer(rule.answer) for rule in call.contract.rescues
    }


def _describe_answer(answer: Any) -> str:
    if isinstance(answer, str):
        return answer
    return class_path(answer) if isinstance(answer, type) else f"{getattr(answer, '__name__', answer)}()"
