"""Verdicts: what becomes of a run whose attempt did not end in `done`, by the rules of its class."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import attrs
from dramatiq.middleware.threading import Interrupt
from dramatiq.middleware.time_limit import TimeLimitExceeded
from sqlalchemy.exc import DBAPIError

from dexpy.background.outages import is_away
from dexpy.declaration.contract import Contract
from dexpy.declaration.lock import LOCK_TIMEOUT
from dexpy.declaration.policies import Retry
from dexpy.foundation.errors import Cancelled, Error, LockLost, PropsError, RefNotFound, TimedOut, Undecodable
from dexpy.foundation.log import line
from dexpy.foundation.outcome import Err
from dexpy.foundation.redaction import Redactor, class_path, frames_of
from dexpy.recording.recorder import crash_values, failure_values


@attrs.frozen
class Verdict:
    """What happens to a run whose attempt did not end in `done`.

    Attributes:
        event: Of the state machine: refuse, reject, crash, retry or abandon.
        values: The error columns.
        counts: Attempts so far for each retry rule.
        wait_s: Until the next attempt, for a retry.
        traceback: Of the exception, where there was one.
    """

    event: str
    values: Mapping[str, Any]
    counts: Mapping[str, int]
    wait_s: float | None = None
    traceback: str | None = None


def in_few_words(verdict: Verdict) -> Verdict:
    """The same without what a database may refuse for what it says or how long it is."""
    said = "What there was to say of it could not be written: see the worker's log."
    return attrs.evolve(
        verdict, values={**verdict.values, "error_message": said, "error_details": None}, traceback=None
    )


FOR_OTHERS = (Interrupt, KeyboardInterrupt)
"""Raised into a run, not by it: whoever sent them is to see them. A SystemExit of an operation ends its run only."""

CUT_OFF = Retry(DBAPIError, attempts=6, wait="exponentially_longer")
"""For a run that the database went away from, where no rule of its class says otherwise: it has written nothing."""


CONTENDED = Retry(LOCK_TIMEOUT, attempts=10, wait="exponentially_longer")
"""For a run that did not get its lock in time, where no rule of its class says otherwise: ten tries in 17 minutes."""

UNLOCKED = Retry(LockLost, attempts=6, wait="exponentially_longer")
"""For a run whose lock was gone before its commit: it has written nothing."""


def built_in_rule(ended: Err | BaseException) -> Retry | None:
    """The rule for what a lock did to a run, where no rule of its class says otherwise."""
    if isinstance(ended, Err):
        return CONTENDED if ended.code == LOCK_TIMEOUT else None
    return UNLOCKED if isinstance(ended, LockLost) else None


def judge(
    contract: Contract,
    ended: Err | BaseException,
    counts: Mapping[str, int],
    redactor: Redactor,
    unless_named: Retry | None = None,
) -> Verdict:
    """Decide what happens after an attempt, by the rules of the class.

    Args:
        contract: Of the operation.
        ended: The business error, refusal or exception that ended the attempt.
        counts: Attempts that each retry rule has counted before.
        redactor: For what is kept of it.
        unless_named: The rule for what no rule of the class names.
    """
    if isinstance(ended, Err):
        error: BaseException = Error(ended.code, ended.message)
        # Both end it as failed; what a lock or a guard has turned away keeps no key, for it is no answer.
        event = "reject" if ended.rejected or ended.code == LOCK_TIMEOUT else "refuse"
        values, traceback = failure_values(ended, redactor), None
    else:
        error = ended
        failure = "timeout" if isinstance(ended, (TimedOut, TimeLimitExceeded)) else "crash"
        values, event, traceback = crash_values(ended, failure, redactor), "crash", frames_of(ended)
    if _own_row_is_gone(contract, ended):
        return Verdict("crash", {**values, "failure": "discarded"}, counts, traceback=traceback)
    rule = contract.rule_for(error)
    if rule is not None and isinstance(ended, Err) and ended.rejected and not isinstance(rule.cause, str):
        # A refusal by a guard is only meant where its code is named.
        rule = None
    if rule is not None and not isinstance(rule.answer, Retry):
        return Verdict("crash", {**values, "failure": "discarded"}, counts, traceback=traceback)
    retry = unless_named or built_in_rule(ended) if rule is None else rule.answer
    if retry is None:
        return Verdict(event, values, counts, traceback=traceback)
    number = counts.get(retry.key, 0) + 1
    counted = {**counts, retry.key: number}
    if retry.attempts is not None and number >= retry.attempts:
        return Verdict(event, values, counted, traceback=traceback)
    try:
        wait_s = retry.wait_s(number)
    except Exception as failed:  # noqa: BLE001 - the rule's own function; the run must come to an end in spite of it
        message = redactor.of(failed)
        line(logging.ERROR, "retry.failed", operation=contract.name, error=class_path(failed), message=message)
        return Verdict(event, values, counted, traceback=traceback)
    return Verdict("retry", values, counted, wait_s, traceback)


def never_opened(ended: Err | BaseException) -> Retry | None:
    """The rule for a direct run that could not reach the database at all.

    One whose connection was cut may have committed, and nothing remembers whether: that is for the class to decide.
    """
    cut = isinstance(ended, DBAPIError) and ended.connection_invalidated
    return CUT_OFF if isinstance(ended, BaseException) and is_away(ended) and not cut else None


def _own_row_is_gone(contract: Contract, ended: Err | BaseException) -> bool:
    return isinstance(ended, RefNotFound) and ended.operation == contract.cls.__qualname__


CANCELLED: dict[str, Any] = {
    "error": class_path(Cancelled),
    "failure": "cancelled",
    "error_message": "It was called off while it ran.",
    "error_details": None,
}
"""The error columns of a run that was called off."""


def cancelled(error: BaseException, counts: Mapping[str, int]) -> Verdict:
    """What happens to a run that was called off: never another attempt."""
    return Verdict("abandon", CANCELLED, counts, traceback=frames_of(error))


def undecodable(error: Exception, contract: Contract, run_id: str) -> Verdict:
    """Params that no longer fit, or do not decrypt: parked, with the reason and without values."""
    kind: type[Exception]
    if isinstance(error, (Undecodable, PropsError)):
        problems = "; ".join(str(problem.hidden()) for problem in error.problems)
        message, kind = f"The stored params no longer fit: {problems}", Undecodable
    else:
        message, kind = str(error), type(error)
    # However many mistakes there are, and whatever signs are in the names: the row must not stay running.
    message = Redactor()(message)
    line(logging.ERROR, "undecodable", operation=contract.name, run=run_id, message=message)
    values = {
        "error": class_path(kind),
        "failure": "undecodable",
        "error_message": message,
        "error_details": None,
    }
    return Verdict("crash", values, {})
