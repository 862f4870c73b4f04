"""`DirectJob`: runs one attempt of a run without a record, whose message has all its data.

A retry is a new message; if the class is recorded, a single row is written when the run has ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any, Literal, cast

import attrs
import dramatiq
from dramatiq.middleware import CurrentMessage
from dramatiq.middleware.shutdown import Shutdown

from dexpy.brokers.message_validation import mark_dead
from dexpy.database.errors import retry_while_away
from dexpy.declaration.contract import Contract
from dexpy.enqueue.dispatcher import Dispatcher
from dexpy.enqueue.held_runs import DIRECT_WAIT_S
from dexpy.enqueue.jobs import DirectPayload, is_direct
from dexpy.execution import pipeline
from dexpy.foundation.errors import DecryptionFailed, EncryptorMissing, PropsError, Undecodable
from dexpy.foundation.forks import in_this_process, run_contained
from dexpy.foundation.ids import new_id
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event, run_redactor
from dexpy.foundation.outcome import Err, Outcome
from dexpy.foundation.redaction import Redactor, class_path
from dexpy.foundation.run_end import RunEnd
from dexpy.foundation.throttle import LogThrottle
from dexpy.foundation.trace import Frame
from dexpy.recording.encryption import is_encrypted_for, redactor_of
from dexpy.recording.outcome_logging import event_of_failure
from dexpy.recording.own_columns import values_or_null
from dexpy.recording.recorder import SyncRecorder
from dexpy.recording.store import Store
from dexpy.worker.hook_runner import ReportEnd
from dexpy.worker.retry_decisions import (
    WORKER_INTERRUPTS,
    Decision,
    crash_decision,
    decide,
    undecodable_decision,
    unreachable_database_rule,
)
from dexpy.worker.unknown_operations import UnknownOperations
from dexpy.worker.watchdog import Watchdog


@attrs.define(eq=False)
class _Run:
    """One delivery of a direct run.

    Attributes:
        contract: The operation's contract.
        payload: The data in the message.
        queue: The queue of the message.
        state: "finished" once its row is written or its next message is published.
        why: Why it is deferred or dead, for the log.
        started_at: When the attempt began, by the monotonic clock.
    """

    contract: Contract
    payload: DirectPayload
    queue: str
    state: Literal["open", "finished", "deferred", "dead"] = "open"
    why: str = ""
    started_at: float = attrs.field(factory=time.monotonic)

    @property
    def facts(self) -> dict[str, Any]:
        """The fields that name it in the log."""
        trace_id = self.payload.trace.get("id")
        names = {"operation": self.contract.name, "run_id": self.payload.run_id, "trace_id": trace_id}
        return {**names, "attempt": self.payload.attempt, "queue": self.queue}


class DirectJob:
    """The body of the actor for runs without a record.

    Args:
        dispatcher: Publishes retries.
        store: The store of the row that is written at the end; None when nothing is recorded.
        redactor: Redacts the stored texts of failures.
        store_for_sessions: Returns the store for the sessions of runs.
        unknown_operations: Defers messages of unknown classes.
        watchdog: Tracks the runs of this process.
        report_end: Makes the calls of hooks due for the end of a run; None without hooks.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        store: Store | None,
        redactor: Redactor,
        store_for_sessions: Callable[[], Store],
        unknown_operations: UnknownOperations,
        watchdog: Watchdog,
        report_end: ReportEnd | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        # Optional: without records a direct run leaves no row at its end.
        self._store = store
        self._redactor = redactor
        self._store_for_sessions = store_for_sessions
        self._unknown_operations = unknown_operations
        self._watchdog = watchdog
        self._report_end = report_end
        self._throttled_log = LogThrottle()

    @in_this_process
    def run(self, class_name: str, params: Mapping[str, Any], trace: Mapping[str, Any], **_later: Any) -> None:
        """Run the operation of a message.

        Args:
            class_name: The operation's stable name.
            params: The props as JSON.
            trace: The frame as JSON.
            _later: Keyword arguments of later message versions.
        """
        message = CurrentMessage.get_current_message()
        message_options: Mapping[str, Any] = message.options.get("dexpy", {}) if message is not None else {}
        queue = message.queue_name if message is not None else "default"
        payload = DirectPayload(
            class_name,
            params,
            trace,
            message_options.get("id") or new_id("op"),
            int(message_options.get("attempt", 1)),
            message_options.get("counts") or {},
            getattr(message, "priority", 0),
        )
        contract = self._unknown_operations.contract_of(class_name, payload.run_id)
        if contract is None:
            return
        if (why := self._refusal(contract, payload)) is not None:
            facts = {"operation": contract.name, "run_id": payload.run_id, "reason": why}
            self._throttled_log.log(LogEvent.MESSAGE_REFUSED, f"{contract.name} {why}", **facts, dead=True)
            mark_dead(message, why)
            return
        if message is not None and self._is_paused(queue, contract.name):
            retry_while_away("hold_message", lambda: self._hold_back(message, payload), run_id=payload.run_id)
            return
        run = _Run(contract, payload, queue)
        Context().run(self._execute, run)
        if run.state == "deferred":
            # The message has all data of the run: it is deferred for a worker with the key, like an unknown operation.
            why = run.why
            retry_while_away(
                "defer_message",
                lambda: self._unknown_operations.defer_unknown(class_name, payload.run_id, why),
                run_id=payload.run_id,
            )
        elif run.state == "dead" and message is not None:
            log_event(
                LogEvent.MESSAGE_REFUSED, operation=contract.name, run_id=payload.run_id, reason=run.why, dead=True
            )
            mark_dead(message, run.why)

    def _refusal(self, contract: Contract, payload: DirectPayload) -> str | None:
        """Return why a message must not run this class: everyone with access to the broker can write messages."""
        if self._store is not None and not is_direct(contract):
            return "its class is recorded: a run of it needs a record"
        if not is_encrypted_for(contract, payload.params):
            return "its class is encrypted, but the params in the message are plain text"
        return None

    def _is_paused(self, queue: str, operation: str) -> bool:
        if self._store is None:
            return False
        paused = self._store.pauses.current()
        return paused.exist and paused.key_for(queue, operation) is not None

    def _hold_back(self, message: dramatiq.Message[Any], payload: DirectPayload) -> None:
        """Store the message in the database until the next check, or until the pause is over."""
        options = {**message.options, "dexpy": {**message.options.get("dexpy", {}), "paused": True}}
        message_copy: dramatiq.Message[Any] = cast(Any, message).copy(options=options)
        self._dispatcher.republish_later(message_copy, DIRECT_WAIT_S, payload.priority)
        log_event(LogEvent.RUN_HELD, operation=payload.class_name, run_id=payload.run_id, queue=message.queue_name)

    def _execute(self, run: _Run) -> None:
        """Run the attempt and finish it, whatever is raised; raises only interrupts of the worker."""
        try:
            self._attempt(run)
        except BaseException as error:
            if run.state == "open":
                # Raised before the run, or while its end was written.
                self._finish_after_error(run, error)
            if isinstance(error, WORKER_INTERRUPTS):
                raise

    def _finish_after_error(self, run: _Run, error: BaseException) -> None:
        try:
            if isinstance(error, WORKER_INTERRUPTS):
                self._republish(run, run.payload, 0, "release")
                return
            recorder = self._recorder(run.contract, None, run.payload, Frame(new_id("tr")), self._redactor)
            self._finish(run, recorder, crash_decision(error))
        except Exception as write_error:  # noqa: BLE001 - the dead message keeps the run's data
            self._log_end(run, crash_decision(error))
            run.state, run.why = "dead", f"its end could not be written: {class_path(write_error)}"

    def _attempt(self, run: _Run) -> None:
        contract, payload = run.contract, run.payload
        redactor, frame = self._redactor, Frame.restored(payload.trace, None)
        recorder = self._recorder(contract, None, payload, frame, redactor)
        try:
            operation = run_contained(os.getpid(), pipeline.decode_operation, contract, payload.params, payload.run_id)
        except EncryptorMissing as error:
            run.state, run.why = "deferred", str(error)
            return
        except (Undecodable, PropsError, DecryptionFailed) as error:
            self._finish(run, recorder, undecodable_decision(error))
            if isinstance(error, DecryptionFailed):
                run.state, run.why = "dead", str(error)
            return
        except Exception as error:  # noqa: BLE001 - as for a recorded run
            redactor = redactor_of(contract, payload.params, payload.run_id, redactor)
            run_redactor.set(redactor)
            self._finish(run, recorder, decide(contract, error, payload.counts, redactor))
            return
        redactor = pipeline.redactor_for(operation, contract, redactor)
        # The context belongs to this run only.
        run_redactor.set(redactor)
        recorder = self._recorder(contract, operation, payload, frame, redactor)
        ended: Err | Exception
        try:
            with (
                self._watchdog.track(payload.run_id, contract, None) as watched,
                self._store_for_sessions().run_context(),
            ):
                outcome = pipeline.run(
                    operation,
                    contract,
                    id=payload.run_id,
                    frame=frame,
                    recorder=recorder,
                    redactor=redactor,
                    store=self._store_for_sessions,
                    outer=None,
                    attempt=payload.attempt,
                    cancel_token=watched.cancel_token,
                )
        except Exception as error:  # noqa: BLE001 - the class's rules decide about every exception
            ended = error
        except Shutdown:
            self._republish(run, payload, 0, "release")
            raise
        except BaseException as error:
            self._finish(run, recorder, decide(contract, error, payload.counts, redactor))
            if isinstance(error, WORKER_INTERRUPTS):
                raise
            return
        else:
            if not isinstance(outcome, Err):
                run.state = "finished"
                self._call_hooks(run, "done", {})
                return
            ended = outcome
        self._finish(run, recorder, decide(contract, ended, payload.counts, redactor, unreachable_database_rule(ended)))

    def _finish(self, run: _Run, recorder: DirectRecorder | None, decision: Decision) -> None:
        """Publish a retry, or write the row of a run that has finally failed."""
        if decision.event == "retry" and decision.wait_s is not None:
            next_attempt = attrs.evolve(run.payload, attempt=run.payload.attempt + 1, counts=decision.counts)
            self._republish(run, next_attempt, decision.wait_s, "retry")
        elif recorder is not None:
            recorder.fail(decision.values)
        self._log_end(run, decision)
        run.state = "finished"
        if decision.event != "retry":
            self._call_hooks(run, "failed", decision.values)

    def _call_hooks(self, run: _Run, status: str, values: Mapping[str, Any]) -> None:
        """Make the calls of hooks due; an error is logged, because the run has ended."""
        if self._report_end is None:
            return
        payload = run.payload
        frame = Frame.restored(payload.trace, None)
        end = RunEnd(
            operation=run.contract.name,
            run_id=payload.run_id,
            status=status,
            failure=values.get("failure"),
            error=values.get("error"),
            error_message=values.get("error_message"),
            queue=run.queue,
            attempts=payload.attempt,
            trace_id=frame.trace_id,
        )
        try:
            self._report_end(end)
        except Exception as error:  # noqa: BLE001 - the run has ended, whatever the database does
            facts = {"hook": "on_failure" if values else "on_finish", "error": class_path(error)}
            log_event(LogEvent.HOOK_FAILED, operation=end.operation, run_id=end.run_id, **facts)

    def _log_end(self, run: _Run, decision: Decision) -> None:
        failure = decision.values.get("failure")
        facts = {
            **run.facts,
            "duration_ms": (time.monotonic() - run.started_at) * 1000,
            "error": decision.values.get("error"),
            "error_message": decision.logged_message or decision.values.get("error_message"),
        }
        if decision.event == "retry":
            log_event(LogEvent.RUN_RETRY_SCHEDULED, **facts, retry_in_s=decision.wait_s)
        else:
            log_event(event_of_failure(failure), **facts, failure=failure)

    def _republish(self, run: _Run, payload: DirectPayload, wait_s: float, what: str) -> None:
        facts = {"operation": run.contract.name, "run_id": payload.run_id}
        retry_while_away(what, lambda: self._dispatcher.republish_direct(payload, run.queue, wait_s), **facts)
        run.state = "finished"

    def _recorder(
        self, contract: Contract, operation: Any, payload: DirectPayload, frame: Frame, redactor: Redactor
    ) -> DirectRecorder | None:
        if self._store is None or contract.record is None:
            return None
        columns = self._store.record_columns
        own_values = values_or_null(columns, contract, payload.params, frame.context) if columns else {}
        return DirectRecorder(
            self._store,
            contract,
            operation,
            payload.run_id,
            frame,
            redactor,
            attempt=payload.attempt,
            own_values=own_values,
        )


class DirectRecorder(SyncRecorder):
    """Writes the row of a direct run when the run has ended; the job writes a failure.

    Its operation is None when the params do not decode.
    """

    def _params(self) -> Any:
        return None if self.operation is None else super()._params()

    def ended(self, at_end: Callable[[Callable[[], None]], None], outcome: Outcome) -> None:
        """See `Recorder`."""
        if not isinstance(outcome, Err):
            super().ended(at_end, outcome)

    def crashed(self, at_end: Callable[[Callable[[], None]], None], error: BaseException) -> None:
        """Do nothing: the job writes the failure."""

    def fail(self, values: Mapping[str, Any]) -> None:
        """Write the row of a run that has finally failed."""
        self.write(self.values("failed", **values))
