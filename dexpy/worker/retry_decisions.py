"""Decisions: what happens after an attempt that did not end in `done`, for example a retry, by the class's rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import attrs
from dramatiq.middleware.threading import Interrupt
from dramatiq.middleware.time_limit import TimeLimitExceeded
from sqlalchemy.exc import DBAPIError

from dexpy.brokers.message_bounds import valid_counts
from dexpy.database.errors import is_away
from dexpy.declaration.contract import Contract
from dexpy.foundation.errors import (
    Cancelled,
    Error,
    LockLost,
    LostClaim,
    PropsError,
    RefNotFound,
    TimedOut,
    Undecodable,
)
from dexpy.foundation.exception_groups import leaves_of
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.outcome import Err
from dexpy.foundation.redaction import Redactor, class_path, frames_of
from dexpy.policies.lock import LOCK_TIMEOUT
from dexpy.policies.retry import Retry
from dexpy.recording.recorder import NOT_STORED, crash_values, failure_values, shorter_values


@attrs.frozen
class Decision:
    """What happens to a run whose attempt did not end in `done`.

    Attributes:
        event: The event of the state machine: refuse, reject, crash, retry or cancel_running.
        values: The error columns.
        counts: Attempts so far for each retry rule.
        wait_s: Seconds until the next attempt, for a retry.
        traceback: The traceback of the exception, if there was one.
        is_bare: Whether only the record is written, without an attempt and a message.
        logged_message: The redacted message for the log, if it is another one than that of the record.
    """

    event: str
    values: Mapping[str, Any]
    counts: Mapping[str, int]
    wait_s: float | None = None
    traceback: str | None = None
    is_bare: bool = False
    logged_message: str | None = None


def shorter_decisions(decision: Decision) -> tuple[Decision, ...]:
    """Return shorter and shorter variants of a decision, for a database that refuses the texts of the longer ones."""
    shorter = shorter_values(decision.values)
    *longer, shortest = (attrs.evolve(decision, values=values, traceback=None) for values in shorter)
    return (*longer, attrs.evolve(shortest, is_bare=True))


def crash_decision(error: BaseException) -> Decision:
    """Return the decision for an exception outside of the run, or one that the rules cannot handle: no retry.

    It has no error message, because the secrets of the run may be unknown.
    """
    return Decision("crash", {**crash_values(error, "crash", Redactor()), "error_message": NOT_STORED}, {})


def lost_claim_decision(lost: LostClaim) -> Decision:
    """Return the decision for a run that lost its claim to no other worker: it changed its own record."""
    message = (
        "The record was changed or deleted during the run, most likely by the run itself; the run was rolled back."
    )
    return Decision("crash", {**crash_values(lost, "crash", Redactor()), "error_message": message}, {})


WORKER_INTERRUPTS = (Interrupt, KeyboardInterrupt)
"""Raised into a run from outside, so the job raises them again. A SystemExit of an operation ends only its run."""

DISCONNECT_RETRY = Retry(DBAPIError, attempts=6, wait="exponentially_longer")
"""The default rule for a run that lost its database connection: nothing of it was committed."""


LOCK_TIMEOUT_RETRY = Retry(LOCK_TIMEOUT, attempts=10, wait="exponentially_longer")
"""The default rule for a run that did not get its lock in time: ten attempts in 17 minutes."""

LOCK_LOST_RETRY = Retry(LockLost, attempts=6, wait="exponentially_longer")
"""The default rule for a run that lost its lock before its commit: nothing of it was committed."""


def built_in_rule(failure: Err | BaseException) -> Retry | None:
    """Return the default rule for an attempt that failed because of its lock; None for other failures."""
    if isinstance(failure, Err):
        return LOCK_TIMEOUT_RETRY if failure.code == LOCK_TIMEOUT else None
    return LOCK_LOST_RETRY if isinstance(failure, LockLost) else None


def decide(
    contract: Contract,
    failure: Err | BaseException,
    counts: object,
    redactor: Redactor,
    default_rule: Retry | None = None,
) -> Decision:
    """Decide what happens after an attempt, by the rules of the class; the arguments are those of `_decide`.

    The counts may be of any form, as they are read from a row. Never raises: if the exception's class or attributes
    raise, the run ends as a crash without a retry.
    """
    try:
        return _decide(contract, failure, valid_counts(counts), redactor, default_rule)
    except BaseException as failed:  # noqa: BLE001 - an application's class may raise anything in any method
        log_event(
            LogEvent.RETRY_RULE_FAILED,
            operation=contract.name,
            error=class_path(failed),
            error_message=redactor.of(failed),
        )
        ended = cast("BaseException", failure) if issubclass(type(failure), BaseException) else failed
        return attrs.evolve(crash_decision(ended), logged_message=redactor.of(ended))


def _decide(
    contract: Contract,
    failure: Err | BaseException,
    counts: Mapping[str, int],
    redactor: Redactor,
    default_rule: Retry | None = None,
) -> Decision:
    """Decide what happens after an attempt, by the rules of the class.

    Args:
        contract: The operation's contract.
        failure: The business error, refusal or exception that ended the attempt.
        counts: Attempts that each retry rule has counted before.
        redactor: Redacts the stored texts.
        default_rule: The rule for failures that no rule of the class names.
    """
    if isinstance(failure, Err):
        error: BaseException = Error(failure.code, failure.message, details=failure.details)
        # Both end it as failed; a run that a lock or a guard rejected does not keep its key.
        event = "reject" if failure.rejected or failure.code == LOCK_TIMEOUT else "refuse"
        values, traceback = failure_values(failure, redactor), None
    else:
        error = failure
        timed_out = all(isinstance(leaf, (TimedOut, TimeLimitExceeded)) for leaf in leaves_of(failure))
        kind = "timeout" if timed_out else "crash"
        values, event, traceback = crash_values(failure, kind, redactor), "crash", frames_of(failure, redactor)
    if _is_own_row_missing(contract, failure):
        return Decision("crash", {**values, "failure": "discarded"}, counts, traceback=traceback)
    rule = contract.rule_for(error)
    if rule is not None and isinstance(failure, Err) and failure.rejected and not isinstance(rule.cause, str):
        # Only a rule that names the code applies to a guard's refusal.
        rule = None
    if rule is not None and not isinstance(rule.answer, Retry):
        return Decision("crash", {**values, "failure": "discarded"}, counts, traceback=traceback)
    retry = default_rule or built_in_rule(failure) if rule is None else rule.answer
    if retry is None:
        return Decision(event, values, counts, traceback=traceback)
    key = contract.counter_of(retry)
    earlier = contract.earlier_counter_of(retry)
    attempts = counts.get(key, counts.get(earlier, 0) if earlier else 0) + 1
    new_counts = {name: count for name, count in counts.items() if name != earlier} | {key: attempts}
    if retry.attempts is not None and attempts >= retry.attempts:
        return Decision(event, values, new_counts, traceback=traceback)
    try:
        wait_s = retry.wait_s(attempts, error=error)
    except WORKER_INTERRUPTS:
        raise
    except BaseException as failed:  # noqa: BLE001 - raised by the rule's own function; the run must end all the same
        message = redactor.of(failed)
        log_event(LogEvent.RETRY_RULE_FAILED, operation=contract.name, error=class_path(failed), error_message=message)
        reason = f"Not retried: the wait function of the retry rule raised {class_path(failed)}: {message}"[:700]
        message_and_reason = f"{(values['error_message'] or '')[:1200]} ({reason})"
        return Decision(
            event, {**values, "error_message": redactor(message_and_reason)}, new_counts, traceback=traceback
        )
    return Decision("retry", values, new_counts, wait_s, traceback)


def unreachable_database_rule(failure: Err | BaseException) -> Retry | None:
    """Return the default rule for a direct run that could not connect to the database.

    A run whose connection was lost later may have committed, so only a rule of its class can retry it.
    """
    if not isinstance(failure, BaseException):
        return None
    was_disconnected = any(isinstance(leaf, DBAPIError) and leaf.connection_invalidated for leaf in leaves_of(failure))
    return DISCONNECT_RETRY if is_away(failure) and not was_disconnected else None


def _is_own_row_missing(contract: Contract, failure: Err | BaseException) -> bool:
    return isinstance(failure, RefNotFound) and failure.operation == contract.cls.__qualname__


CANCELLED: dict[str, Any] = {
    "error": class_path(Cancelled),
    "failure": "cancelled",
    "error_message": "The run was cancelled while it ran.",
    "error_details": None,
}
"""The error columns of a cancelled run."""


def cancelled_decision(error: BaseException, counts: object) -> Decision:
    """Return the decision for a cancelled run: no retry."""
    return Decision("cancel_running", CANCELLED, valid_counts(counts), traceback=frames_of(error))


def undecodable_decision(error: Exception) -> Decision:
    """Return the decision for params that no longer fit or do not decrypt: failed, with the reason, without values."""
    error_class: type[Exception]
    if isinstance(error, (Undecodable, PropsError)):
        problems = "; ".join(str(problem.hidden()) for problem in error.problems)
        message, error_class = f"The stored params do not match the props any more: {problems}", Undecodable
    else:
        message, error_class = str(error), type(error)
    # Shortens and cleans the text, so that the row can be written whatever the names contain.
    message = Redactor()(message)
    values = {
        "error": class_path(error_class),
        "failure": "undecodable",
        "error_message": message,
        "error_details": None,
    }
    return Decision("crash", values, {})
