"""`RecordJob`: runs one attempt of a recorded run for a message, and writes its end.

The stages of an attempt, in the order of `RecordJob.run`: resolve the class (the registry, or `UnknownRecords`),
claim a record (`Claims`), decode its params and run the operation (`pipeline`), decide about a failure
(`retry_decisions`), finish the record (`EndWriter`), and release the claim.

The job raises no exception for an outcome that it has handled, so Dramatiq acknowledges the message.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from functools import partial
from typing import Any

import sqlalchemy as sa
from dramatiq.middleware.shutdown import Shutdown
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import DBAPIError

from dexpy.database.errors import is_away, is_conflict, retry_while_away
from dexpy.database.tables import records
from dexpy.declaration import registry
from dexpy.declaration.contract import Contract
from dexpy.enqueue.dispatcher import Dispatcher
from dexpy.enqueue.rate_limiter import RateLimiter
from dexpy.execution import pipeline
from dexpy.foundation.backoff import Backoff
from dexpy.foundation.errors import (
    Cancelled,
    Interrupted,
    LostClaim,
    PropsError,
    TimedOut,
    Undecodable,
)
from dexpy.foundation.failpoints import failpoint
from dexpy.foundation.forks import in_this_process, run_contained
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event, run_redactor
from dexpy.foundation.outcome import Err, Outcome
from dexpy.foundation.redaction import Redactor, class_path
from dexpy.foundation.trace import Frame
from dexpy.liveness.heartbeat import Heartbeat
from dexpy.recording.encryption import DECRYPT_ERRORS, redactor_of
from dexpy.recording.end_writer import EndWriter
from dexpy.recording.outcome_logging import log_end, run_facts
from dexpy.recording.recorder import ClaimRecorder
from dexpy.recording.run_signals import is_cancel_requested
from dexpy.recording.store import Store, row_dict
from dexpy.recording.transitions import apply
from dexpy.worker.claims import Claims, why_version_unsupported
from dexpy.worker.retry_decisions import (
    CANCELLED,
    DISCONNECT_RETRY,
    WORKER_INTERRUPTS,
    Decision,
    cancelled_decision,
    crash_decision,
    decide,
    lost_claim_decision,
    shorter_decisions,
    undecodable_decision,
)
from dexpy.worker.unknown_operations import UnknownRecords
from dexpy.worker.watchdog import Run, Watchdog

MAX_CONFLICT_RERUNS = 3
"""How often a run is rerun after a serialization failure or deadlock within one attempt."""
CONFLICT_BACKOFF = Backoff(first_s=0.02, longest_s=0.08, jitter=0.5)
"""The pauses before these reruns."""


class RecordJob:
    """The body of the actor ``dexpy.RecordJob``, where runs are recorded.

    Args:
        dispatcher: Publishes retries.
        store: The store of records.
        redactor: Redacts the stored texts of failures.
        heartbeat: The heartbeat of this process.
        end_writer: Writes the ends of attempts.
        unknown_operations: Defers messages of unknown classes.
        watchdog: Tracks the runs of this process.
        rates: Publishes the runs that wait for a rate limit.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        store: Store,
        redactor: Redactor,
        heartbeat: Heartbeat,
        end_writer: EndWriter,
        unknown_operations: UnknownRecords,
        watchdog: Watchdog,
        rates: RateLimiter | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._store = store
        self._redactor = redactor
        self._heartbeat = heartbeat
        self._held_records = heartbeat.held_records
        self._end_writer = end_writer
        self._unknown_operations = unknown_operations
        self._watchdog = watchdog
        self._claims = Claims(store, dispatcher, heartbeat.start, heartbeat.held_records, rates)

    @in_this_process
    def run(self, class_name: str, record_id: str, trace: Mapping[str, Any], **_later: Any) -> None:
        """Run a record, if it is still pending.

        Args:
            class_name: The operation's stable name.
            record_id: The id of the record.
            trace: The trace's id; the record has the rest.
            _later: Keyword arguments of later message versions.
        """
        # The message's class name is used without reading the row: the claim succeeds only if it is right.
        if why_version_unsupported() is not None or not registry.is_known(class_name):
            resolved_name = self._unknown_operations.resolve_class_name(class_name, record_id)
            if resolved_name is None:
                return
            class_name = resolved_name
        self._heartbeat.require_lease(operation=class_name, run_id=record_id)
        with self._claims.claim_for_message(class_name, record_id) as row:
            if row is None:
                return
            failpoint("after_claim")
            # The claimed row may be another one than the message's, or of another class.
            contract = registry.find(row.operation).contract
            # A new context: context variables of this thread must not be visible in the run.
            with self._watchdog.track(row.id, contract, row) as run:
                if row.claim_token > 1:
                    # The run may have been cancelled at the moment when an earlier attempt ended.
                    retry_while_away(
                        "check_cancellation",
                        lambda: self._watchdog.deliver_cancellations([run]),
                        operation=contract.name,
                        run_id=row.id,
                    )
                Context().run(self._execute, contract, row, run)
        failpoint("before_ack")

    def run_now(self, record_id: str) -> bool:
        """Claim and run a record in this thread, as a worker does.

        Returns:
            Whether it ran; False if it is not due yet or a limit is reached.

        Raises:
            RecordNotFound: No record has this id.
            UnknownOperation: Its class is not declared here.
            InvalidTransition: It is not pending.
        """
        contract = registry.find(self._store.row(record_id).operation).contract
        # Outside of a worker this starts the heartbeat: the process is listed as a worker that serves no queue.
        self._heartbeat.require_lease(run_id=record_id)
        with self._claims.claim_by_id(record_id) as row:
            if row is None:
                return False
            with self._watchdog.run_periodically(), self._watchdog.track(row.id, contract, row) as run:
                Context().run(self._execute, contract, row, run)
        return True

    def release_runs(self) -> None:
        """Release the runs that have not ended when the worker stops; their attempts do not count."""
        for run in self._watchdog.runs:
            if run.row is not None:
                try:
                    self._release(run.row)
                except Exception as error:  # noqa: BLE001 - the other runs must be released all the same
                    log_event(LogEvent.RUN_RELEASE_FAILED, run_id=run.id, error=class_path(error))

    def _release(self, row: Row[Any]) -> None:
        with self._store.begin() as connection:
            if is_cancel_requested(connection, row.id):
                ended = apply(connection, "cancel_running", row.id, claim_token=row.claim_token, **CANCELLED)
                if ended is not None:
                    self._store.insert_attempt(connection, {**row_dict(ended), "claimed_by": row.claimed_by}, None)
                return
            sent = self._dispatcher.transactional
            updated = apply(connection, "release", row.id, claim_token=row.claim_token, sent=sent)
            if updated is not None:
                self._dispatcher.publish_with(connection, updated)
                log_event(LogEvent.RUN_RELEASED, **run_facts(row))

    def _execute(self, contract: Contract, row: Row[Any], run: Run) -> None:
        """Run the attempt and write its end, whatever is raised."""
        self._held_records.begin(row.id)
        try:
            self._attempt(contract, row, run)
        except BaseException as error:
            if self._held_records.has_begun(row.id) and not self._end_writer.is_pending(row.id):
                # Raised before or after the run: `_attempt` handles all exceptions of the run itself.
                if isinstance(error, WORKER_INTERRUPTS):
                    self._write(contract, row, [lambda: self._release(row)])
                else:
                    self._finish(run, row, crash_decision(error))
            if isinstance(error, WORKER_INTERRUPTS):
                raise

    def _attempt(self, contract: Contract, row: Row[Any], run: Run) -> None:
        redactor = self._redactor
        counts = row.retry_counts
        try:
            operation = run_contained(run.pid, pipeline.decode_operation, contract, row.params, row.id)
        except (Undecodable, PropsError, *DECRYPT_ERRORS) as error:
            self._finish(run, row, undecodable_decision(error))
            return
        except Exception as error:  # noqa: BLE001 - from a default's factory, for example; the row must not stay running
            redactor = redactor_of(contract, row.params, row.id, redactor)
            run_redactor.set(redactor)
            self._finish(run, row, decide(contract, error, counts, redactor))
            return
        redactor = pipeline.redactor_for(operation, contract, redactor)
        # This context is the run's own.
        run_redactor.set(redactor)
        frame = Frame.restored(row.trace, row.trace_id)
        recorder = ClaimRecorder(self._store, contract, row, redactor)
        try:
            run.cancel_token.check()
            with self._store.run_context():
                outcome = self._run_again_on_conflict(
                    contract,
                    partial(
                        pipeline.run,
                        operation,
                        contract,
                        id=row.id,
                        frame=frame,
                        recorder=recorder,
                        redactor=redactor,
                        store=lambda: self._store,
                        outer=None,
                        attempt=row.num_attempts,
                        cancel_token=run.cancel_token,
                    ),
                )
        except LostClaim as lost:
            # Written only if the run has changed its own row; otherwise another worker has the claim.
            self._finish(run, row, lost_claim_decision(lost))
        except Cancelled as error:
            self._finish(run, row, cancelled_decision(error, counts))
        except Exception as error:  # noqa: BLE001 - the class's rules decide about every exception
            if error is recorder.decryption_error:
                # As for params that do not decrypt: no retry can succeed before the key or the row is restored.
                self._finish(run, row, undecodable_decision(error))
                return
            # Safe even if the connection was lost during the commit: the event requires a row that is running.
            rule = DISCONNECT_RETRY if is_away(error) else None
            self._finish(run, row, decide(contract, error, counts, redactor, rule))
        except Shutdown:
            self._write(contract, row, [lambda: self._release(row)])
            raise
        except BaseException as error:
            if issubclass(type(error), Interrupted) and run.cancel_token.is_interrupted:
                # Not if the application raised it: the run would be released again and again.
                self._write(contract, row, [lambda: self._release(row)])
                return
            # A coroutine gets CancelledError when its run is cancelled.
            is_cancelled = isinstance(error, asyncio.CancelledError) and run.cancel_token.is_cancelled
            decision = cancelled_decision(error, counts) if is_cancelled else decide(contract, error, counts, redactor)
            self._finish(run, row, decision)
            if isinstance(error, WORKER_INTERRUPTS):
                raise
        else:
            if isinstance(outcome, Err):
                self._finish(run, row, decide(contract, outcome, counts, redactor))
            else:
                self._held_records.end(row.id)
                if row.batch_id is not None:
                    self._dispatcher.check_batch(row.batch_id, "done")

    def _run_again_on_conflict(self, contract: Contract, run: Callable[[], Outcome]) -> Outcome:
        """Rerun a transaction that failed because of a conflict and left nothing, in the same attempt.

        After a pause: otherwise the rerun would take the lock before the other transaction and conflict again.
        """
        for number in range(MAX_CONFLICT_RERUNS if contract.transactional else 0):
            try:
                return run()
            except (DBAPIError, ExceptionGroup) as error:
                if not is_conflict(error):
                    raise
                log_event(LogEvent.ATTEMPT_RESTARTED, operation=contract.name, error=class_path(error))
            time.sleep(CONFLICT_BACKOFF.pause_s(number))
        return run()

    def give_up(self, run: Run) -> None:
        """End the attempt of a run that does not stop; it loses its claim, so it can commit nothing."""
        if run.row is not None:
            counts = run.row.retry_counts
            self._finish(run, run.row, decide(run.contract, TimedOut(), counts, self._redactor))

    def _finish(self, run: Run, row: Row[Any], decision: Decision) -> None:
        """Write the end of an attempt, with retries if the database is unreachable, and shorter if it refuses it."""
        variants = (decision, *shorter_decisions(decision))
        if self._store.database.why_too_large(decision.values.get("error_details")) is not None:
            variants = variants[1:]
        facts = {
            "duration_ms": run.duration_ms,
            "error": decision.values.get("error"),
            "error_message": decision.logged_message or decision.values.get("error_message"),
        }
        writes = [partial(self._write_end, run.contract, row, variant, facts) for variant in variants]
        self._write(run.contract, row, writes, run_error=facts["error"])

    def _write(self, contract: Contract, row: Row[Any], writes: Sequence[Callable[[], object]], **facts: Any) -> None:
        self._end_writer.write(row.id, writes, lambda: self._held_records.end(row.id), operation=contract.name, **facts)

    def _write_end(self, contract: Contract, row: Row[Any], decision: Decision, facts: Mapping[str, Any]) -> None:
        """Write record, message and attempt in one transaction, and log the end with these facts."""
        with self._store.begin() as connection:
            updated = self._end(connection, row, decision)
        if updated is None and (changed := self._row_changed_by_run(row)) is not None:
            with self._store.begin() as connection:
                updated = self._end(connection, changed, decision)
        if updated is None:
            log_event(LogEvent.CLAIM_LOST, operation=contract.name, run_id=row.id, **facts)
            return
        log_end(updated, **facts, retry_in_s=decision.wait_s if updated.status == "pending" else None)
        if updated.status == "pending":
            self._dispatcher.wake_workers()
        elif updated.batch_id is not None:
            self._dispatcher.check_batch(updated.batch_id, updated.status)

    def _end(self, connection: Connection, row: Row[Any], decision: Decision) -> Row[Any] | None:
        event, values = decision.event, {**decision.values, "claim_token": row.claim_token}
        if event == "retry":
            is_sent = self._dispatcher.transactional and not decision.is_bare
            values |= {"retry_counts": dict(decision.counts), "wait_s": decision.wait_s, "sent": is_sent}
            if is_cancel_requested(connection, row.id):
                event = "cancel_running"
                values = {**CANCELLED, "claim_token": row.claim_token}
        updated = apply(connection, event, row.id, **values)
        if updated is not None and not decision.is_bare:
            self._store.insert_attempt(
                connection, {**row_dict(updated), "claimed_by": row.claimed_by}, decision.traceback
            )
            if event == "retry":
                self._dispatcher.publish_with(connection, updated)
        return updated

    def _row_changed_by_run(self, row: Row[Any]) -> Row[Any] | None:
        """Return the current row if the run itself changed it: it is running, and no other worker has its claim."""
        current_row = next(iter(self._store.rows(sa.select(records).where(records.c.id == row.id))), None)
        if current_row is None or current_row.status != "running" or current_row.claim_token == row.claim_token:
            return None
        is_claimed_here = current_row.claimed_by is None or current_row.claimed_by in self._heartbeat.worker_ids
        # Another thread may have claimed it since.
        is_held_elsewhere = self._held_records.is_shared(row.id) or self._claims.holds(current_row)
        return current_row if is_claimed_here and not is_held_elsewhere else None
