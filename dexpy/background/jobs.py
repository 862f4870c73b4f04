"""`RecordJob` and `DirectJob`: from a message to a run, and the last word on its row.

A job never raises for an outcome that it has handled: to Dramatiq such a message is done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any, cast

import attrs
from dramatiq.middleware import CurrentMessage
from dramatiq.middleware.shutdown import Shutdown
from dramatiq.middleware.threading import Interrupt
from dramatiq.middleware.time_limit import TimeLimitExceeded
from sqlalchemy.engine import Row
from sqlalchemy.exc import DBAPIError

from dexpy.background.claims import Claims
from dexpy.background.dispatch import Dispatcher
from dexpy.background.heart import Heart
from dexpy.background.outages import insist, is_away, is_conflict
from dexpy.background.payload import DirectPayload
from dexpy.background.unknown import Patience, Strangers
from dexpy.background.watch import Run, Watch
from dexpy.declaration import registry
from dexpy.declaration.contract import Contract
from dexpy.declaration.policies import Retry
from dexpy.declaration.props import decoded
from dexpy.execution import start
from dexpy.execution.stop import Stop
from dexpy.foundation.checkpoint import checkpoint
from dexpy.foundation.errors import (
    Cancelled,
    Error,
    LostClaim,
    PropsError,
    RefNotFound,
    TimedOut,
    Undecodable,
    UnknownOperation,
)
from dexpy.foundation.ids import new_id
from dexpy.foundation.log import line
from dexpy.foundation.outcome import Err, Outcome
from dexpy.foundation.redaction import Redactor, class_path, frames_of
from dexpy.foundation.trace import Frame
from dexpy.recording.recorder import (
    ClaimRecorder,
    Recorder,
    SyncRecorder,
    crash_values,
    failure_values,
)
from dexpy.recording.signals import is_cancel_requested
from dexpy.recording.store import Store, facts_of
from dexpy.recording.transitions import apply


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


FOR_OTHERS = (Interrupt, KeyboardInterrupt)
"""Raised into a run, not by it: whoever sent them is to see them. A SystemExit of an operation ends its run only."""

CONFLICTS = 3
"""So often a run gives way to another transaction before that counts as an attempt."""

CUT_OFF = Retry(DBAPIError, attempts=6, wait="exponentially_longer")
"""For a run that the database went away from, where no rule of its class says otherwise: it has written nothing."""


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
        event = "reject" if ended.rejected else "refuse"
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
    retry = unless_named if rule is None else rule.answer
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


class Jobs:
    """The bodies of the two actors.

    Args:
        dispatcher: Sends what has to run again.
        store: Where records are; None when nothing is recorded.
        redactor: For what is kept of failures.
        store_for_sessions: Gives the store, for the sessions of runs.
        heart: Of this process; None when nothing is recorded.
        patience: With messages of unknown classes.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        store: Store | None,
        redactor: Redactor,
        store_for_sessions: Callable[[], Store],
        heart: Heart | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._store = store
        self._redactor = redactor
        self._store_for_sessions = store_for_sessions
        self._strangers = Strangers(dispatcher, store, patience)
        self._heart = heart
        self._claims = None
        if store is not None and heart is not None:
            self._claims = Claims(store, dispatcher, lambda: heart.worker_id)
        self.watch = Watch(store, self._give_up)

    def run_record(self, class_name: str, record_id: str, trace: Mapping[str, Any], **_later: Any) -> None:
        """Run what a record says, if it is still to be run.

        Args:
            class_name: The operation's stable name.
            record_id: Of its row.
            trace: The trace's id; the row has the rest.
            _later: What a later form of the message may say besides.
        """
        store, claims, heart = self._store, self._claims, self._heart
        if store is None or claims is None or heart is None:
            line(logging.ERROR, "record.no_database", operation=class_name, run=record_id, trace=trace.get("id"))
            raise UnknownOperation(
                f"{class_name} {record_id} has a record, and this worker has no database to find it in. "
                "Start it with the settings of the application."
            )
        contract = self._contract(class_name, record_id)
        if contract is None:
            return
        insist("begin", lambda: heart.worker_id, operation=class_name, run=record_id)
        heart.await_soundness()
        with claims.taken(class_name, record_id) as row:
            if row is None:
                return
            checkpoint("after_claim")
            if row.id != record_id:
                contract = registry.find(row.name).contract
            # A context of its own: nothing of whoever feeds this thread is in force inside the run.
            with self.watch.over(row.id, contract, row) as run:
                if row.claim_token > 1:
                    # Called off in the very moment in which an earlier attempt ended, perhaps.
                    insist("look", lambda: self.watch.see_to_cancelled([run]), operation=contract.name, run=row.id)
                Context().run(self._drive, store, contract, row, run)
        checkpoint("before_ack")

    def give_back(self) -> None:
        """Return what still runs when its worker ends: the attempt does not count, and no end of it can be written."""
        store = self._store
        if store is None:
            return
        for run in self.watch.runs:
            if run.row is not None:
                self._give_back(store, run.row)

    def _give_back(self, store: Store, row: Row[Any]) -> None:
        with store.begin() as connection:
            if is_cancel_requested(connection, row.id):
                ended = apply(connection, "abandon", row.id, claim_token=row.claim_token, **CANCELLED)
                if ended is not None:
                    store.keep_attempt(connection, {**facts_of(ended), "claimed_by": row.claimed_by}, None)
                return
            sent = self._dispatcher.transactional
            after = apply(connection, "give_back", row.id, claim_token=row.claim_token, sent=sent)
            if after is not None:
                self._dispatcher.send(connection, after)
                line(logging.WARNING, "given_back", operation=row.name, run=row.id, attempt=row.num_attempts)

    def _contract(self, class_name: str, run_id: str) -> Contract | None:
        why = self._strangers.of_later_form()
        if why is None:
            try:
                found: Contract = registry.find(class_name).contract
            except UnknownOperation:
                why = "its class is not declared here: is its module imported?"
            else:
                return found
        reason = why
        insist("look", lambda: self._strangers.take_in(class_name, run_id, reason), operation=class_name, run=run_id)
        return None

    def _drive(self, store: Store, contract: Contract, row: Row[Any], run: Run) -> None:
        redactor = self._redactor
        counts = counts_of(row)
        try:
            operation = build(contract, row.params, row.id)
        except (Undecodable, PropsError) as error:
            self._finish(store, contract, row, undecodable(error, contract, row.id))
            return
        except Exception as error:  # noqa: BLE001 - a default's factory, for one; the row must not stay running
            crashed_early(error, contract, row.id, redactor)
            self._finish(store, contract, row, judge(contract, error, counts, redactor))
            return
        redactor = start.redactor_for(operation, contract, redactor)
        frame = frame_of(row.trace, row.trace_id)
        recorder = ClaimRecorder(store, contract, row)
        try:
            run.stop.check()
            outcome = self._run_again_on_conflict(
                contract,
                lambda: self._run(contract, operation, row.id, frame, recorder, redactor, row.num_attempts, run.stop),
            )
        except LostClaim as lost:
            line(logging.WARNING, "claim.lost", operation=contract.name, run=row.id, message=str(lost))
        except Cancelled as error:
            self._finish(store, contract, row, cancelled(error, counts))
        except Exception as error:  # noqa: BLE001 - whatever ends an attempt is judged by the class's rules
            # Safe even if the connection was lost during the commit: a row that is done is running no more.
            rule = CUT_OFF if is_away(error) else None
            self._finish(store, contract, row, judge(contract, error, counts, redactor, rule))
        except Shutdown:
            insist("give_back", lambda: self._give_back(store, row), operation=contract.name, run=row.id)
            raise
        except BaseException as error:
            # What a coroutine is told when it is called off.
            is_cancelled = isinstance(error, asyncio.CancelledError) and run.stop.is_cancelled
            verdict = cancelled(error, counts) if is_cancelled else judge(contract, error, counts, redactor)
            self._finish(store, contract, row, verdict)
            if isinstance(error, FOR_OTHERS):
                raise
        else:
            if isinstance(outcome, Err):
                self._finish(store, contract, row, judge(contract, outcome, counts, redactor))

    def _run_again_on_conflict(self, contract: Contract, run: Callable[[], Outcome]) -> Outcome:
        """A transaction that had to give way to another one has left nothing: it begins anew, in the same attempt."""
        for _ in range(CONFLICTS if contract.transactional else 0):
            try:
                return run()
            except DBAPIError as error:
                if not is_conflict(error):
                    raise
                line(logging.INFO, "run.conflict", operation=contract.name, error=class_path(error))
        return run()

    def _give_up(self, run: Run) -> None:
        """End the attempt of a run that does not end by itself; its claim is gone then, so it can commit nothing."""
        if self._store is not None and run.row is not None:
            counts = counts_of(run.row)
            self._finish(self._store, run.contract, run.row, judge(run.contract, TimedOut(), counts, self._redactor))

    def _run(
        self,
        contract: Contract,
        operation: Any,
        run_id: str,
        frame: Frame,
        recorder: Recorder | None,
        redactor: Redactor,
        attempt: int,
        stop: Stop,
    ) -> Outcome:
        return start.run(
            operation,
            contract,
            id=run_id,
            frame=frame,
            recorder=recorder,
            redactor=redactor,
            store=self._store_for_sessions,
            outer=None,
            attempt=attempt,
            stop=stop,
        )

    def _finish(self, store: Store, contract: Contract, row: Row[Any], verdict: Verdict) -> None:
        """The last word on the row, also if the database is away for a while."""
        facts = {"operation": contract.name, "run": row.id}
        insist("finish", lambda: self._write_end(store, contract, row, verdict), **facts)

    def _write_end(self, store: Store, contract: Contract, row: Row[Any], verdict: Verdict) -> None:
        """Row, message and attempt in one transaction."""
        values: dict[str, Any] = {**verdict.values, "claim_token": row.claim_token}
        if verdict.event == "retry":
            sent = self._dispatcher.transactional
            values |= {"retry_counts": dict(verdict.counts), "wait_s": verdict.wait_s, "sent": sent}
        with store.begin() as connection:
            event = verdict.event
            if event == "retry" and is_cancel_requested(connection, row.id):
                event = "abandon"
                values = {**CANCELLED, "claim_token": row.claim_token}
            after = apply(connection, event, row.id, **values)
            if after is not None:
                kept = {**facts_of(after), "claimed_by": row.claimed_by}
                store.keep_attempt(connection, kept, verdict.traceback)
                if event == "retry":
                    self._dispatcher.send(connection, after)
        if after is None:
            line(logging.WARNING, "claim.lost", operation=contract.name, run=row.id)
        elif event == "retry":
            line(logging.INFO, "retrying", operation=contract.name, run=row.id, seconds=verdict.wait_s)
            self._dispatcher.ring()

    def run_direct(self, class_name: str, params: Mapping[str, Any], trace: Mapping[str, Any], **_later: Any) -> None:
        """Run what a message carries.

        Args:
            class_name: The operation's stable name.
            params: The props as JSON.
            trace: The frame as JSON.
            _later: What a later form of the message may say besides.
        """
        message = CurrentMessage.get_current_message()
        facts: Mapping[str, Any] = message.options.get("dexpy", {}) if message is not None else {}
        queue = message.queue_name if message is not None else "default"
        payload = DirectPayload(
            class_name,
            params,
            trace,
            facts.get("id") or new_id("op"),
            int(facts.get("attempt", 1)),
            facts.get("counts") or {},
            getattr(message, "priority", 0),
        )
        contract = self._contract(class_name, payload.run_id)
        if contract is not None:
            Context().run(self._drive_direct, contract, payload, queue)

    def _drive_direct(self, contract: Contract, payload: DirectPayload, queue: str) -> None:
        redactor, frame = self._redactor, frame_of(payload.trace, None)
        recorder = self._direct_recorder(contract, None, payload, frame, redactor)
        try:
            operation = build(contract, payload.params, payload.run_id)
        except (Undecodable, PropsError) as error:
            self._finish_direct(contract, payload, queue, recorder, undecodable(error, contract, payload.run_id))
            return
        except Exception as error:  # noqa: BLE001 - as for a recorded run
            crashed_early(error, contract, payload.run_id, redactor)
            self._finish_direct(contract, payload, queue, recorder, judge(contract, error, payload.counts, redactor))
            return
        redactor = start.redactor_for(operation, contract, redactor)
        recorder = self._direct_recorder(contract, operation, payload, frame, redactor)
        ended: Err | Exception
        try:
            with self.watch.over(payload.run_id, contract, None) as run:
                outcome = self._run(
                    contract, operation, payload.run_id, frame, recorder, redactor, payload.attempt, run.stop
                )
        except Exception as error:  # noqa: BLE001 - whatever ends an attempt is judged by the class's rules
            ended = error
        except Shutdown:
            insist("give_back", lambda: self._dispatcher.send_direct(payload, queue, 0), run=payload.run_id)
            raise
        except BaseException as error:
            verdict = judge(contract, error, payload.counts, redactor)
            self._finish_direct(contract, payload, queue, recorder, verdict)
            if isinstance(error, FOR_OTHERS):
                raise
            return
        else:
            if not isinstance(outcome, Err):
                return
            ended = outcome
        self._finish_direct(
            contract, payload, queue, recorder, judge(contract, ended, payload.counts, redactor, never_opened(ended))
        )

    def _finish_direct(
        self,
        contract: Contract,
        payload: DirectPayload,
        queue: str,
        recorder: DirectRecorder | None,
        verdict: Verdict,
    ) -> None:
        """Sent again, or the one row of a run that failed for good."""
        if verdict.event == "retry" and verdict.wait_s is not None:
            again = attrs.evolve(payload, attempt=payload.attempt + 1, counts=verdict.counts)
            wait_s = verdict.wait_s
            facts = {"operation": contract.name, "run": payload.run_id}
            insist("retry", lambda: self._dispatcher.send_direct(again, queue, wait_s), **facts)
            line(logging.INFO, "retrying", operation=contract.name, run=payload.run_id, seconds=verdict.wait_s)
        elif recorder is not None:
            recorder.fail(verdict.values)

    def _direct_recorder(
        self, contract: Contract, operation: Any, payload: DirectPayload, frame: Frame, redactor: Redactor
    ) -> DirectRecorder | None:
        if self._store is None or contract.record is None:
            return None
        return DirectRecorder(
            self._store, contract, operation, payload.run_id, frame, redactor, attempt=payload.attempt
        )


class DirectRecorder(SyncRecorder):
    """Writes the one row of a direct run, when it is over for good; the job writes its failure.

    Its operation is None when the params that came no longer make one.
    """

    def _params(self) -> Any:
        return None if self.operation is None else super()._params()

    def ended(self, at_end: Callable[[Callable[[], None]], None], outcome: Outcome) -> None:
        """See `Recorder`."""
        if not isinstance(outcome, Err):
            super().ended(at_end, outcome)

    def crashed(self, at_end: Callable[[Callable[[], None]], None], error: BaseException) -> None:
        """Left to the job."""

    def fail(self, values: Mapping[str, Any]) -> None:
        """Write the row of a run that failed for good."""
        self.write(self.values("failed", **values))


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


def counts_of(row: Row[Any]) -> Mapping[str, int]:
    """Attempts so far for each retry rule; none where what is stored has a form that nobody knows."""
    stored: object = row.retry_counts
    return cast("dict[str, int]", stored) if isinstance(stored, dict) else {}


def frame_of(trace: Any, trace_id: str | None) -> Frame:
    """The frame that was stored; one of the same trace where its form is not known here: no run fails for that."""
    try:
        return Frame.from_dict(trace)
    except (KeyError, TypeError, ValueError):
        return Frame(trace_id or new_id("tr"))


def build(contract: Contract, params: Any, run_id: str) -> Any:
    """An operation from its stored params.

    Raises:
        Undecodable: They no longer fit.
        PropsError: They no longer are within the bounds.
    """
    values, ignored = decoded(contract.cls.__qualname__, contract.props, params)
    if ignored:
        line(logging.INFO, "params.ignored", operation=contract.name, run=run_id, keys=",".join(ignored))
    return contract.cls(**values)


def undecodable(error: Undecodable | PropsError, contract: Contract, run_id: str) -> Verdict:
    """Params that no longer fit: parked, with what does not fit and without its values."""
    problems = "; ".join(str(problem.hidden()) for problem in error.problems)
    message = f"The stored params no longer fit: {problems}"
    line(logging.ERROR, "undecodable", operation=contract.name, run=run_id, message=message)
    values = {
        "error": class_path(Undecodable),
        "failure": "undecodable",
        "error_message": message,
        "error_details": None,
    }
    return Verdict("crash", values, {})


def crashed_early(error: Exception, contract: Contract, run_id: str, redactor: Redactor) -> None:
    """Say of an exception that came before the pipeline what the pipeline would have said."""
    facts = {"operation": contract.name, "run": run_id, "error": class_path(error), "message": redactor.of(error)}
    line(logging.ERROR, "crashed", **facts)
