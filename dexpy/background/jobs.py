"""`RecordJob`: from a message to a run, and the last word on its row.

A job never raises for an outcome that it has handled: to Dramatiq such a message is done.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any

from dramatiq.middleware.shutdown import Shutdown
from sqlalchemy.engine import Row
from sqlalchemy.exc import DBAPIError

from dexpy.background.claims import Claims
from dexpy.background.direct import DirectJob
from dexpy.background.dispatch import Dispatcher
from dexpy.background.heart import Heart
from dexpy.background.outages import insist, is_away, is_conflict
from dexpy.background.stored import build, counts_of, crashed_early, frame_of
from dexpy.background.unknown import Patience, Strangers
from dexpy.background.verdicts import (
    CANCELLED,
    CUT_OFF,
    FOR_OTHERS,
    Verdict,
    cancelled,
    in_few_words,
    judge,
    undecodable,
)
from dexpy.background.watch import Run, Watch
from dexpy.declaration import registry
from dexpy.declaration.contract import Contract
from dexpy.execution import start
from dexpy.foundation.checkpoint import checkpoint
from dexpy.foundation.errors import (
    Cancelled,
    Interrupted,
    LostClaim,
    NotRecorded,
    PropsError,
    TimedOut,
    Undecodable,
    UnknownOperation,
)
from dexpy.foundation.log import line
from dexpy.foundation.outcome import Err, Outcome
from dexpy.foundation.redaction import Redactor, class_path
from dexpy.recording.recorder import ClaimRecorder
from dexpy.recording.sealing import UNREADABLE
from dexpy.recording.signals import is_cancel_requested
from dexpy.recording.store import Store, facts_of
from dexpy.recording.transitions import apply

CONFLICTS = 3
"""So often a run gives way to another transaction before that counts as an attempt."""
YIELD_S = 0.02
"""The pause after the first time, in seconds, doubled each time; up to half of it less, at random."""


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
        direct = DirectJob(dispatcher, store, redactor, store_for_sessions, self._strangers, self.watch)
        self.run_direct = direct.run

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
        contract = self._strangers.contract_of(class_name, record_id)
        if contract is None:
            return
        insist("begin", lambda: heart.worker_id, operation=class_name, run=record_id)
        heart.await_soundness()
        with claims.taken(class_name, record_id) as row:
            if row is None:
                return
            checkpoint("after_claim")
            if row.name != class_name and registry.is_known(row.name):
                # It runs another row, or somebody has given the row another name since.
                contract = registry.find(row.name).contract
            # A context of its own: nothing of whoever feeds this thread is in force inside the run.
            with self.watch.over(row.id, contract, row) as run:
                if row.claim_token > 1:
                    # Called off in the very moment in which an earlier attempt ended, perhaps.
                    insist("look", lambda: self.watch.see_to_cancelled([run]), operation=contract.name, run=row.id)
                Context().run(self._drive, store, contract, row, run)
        checkpoint("before_ack")

    def run_now(self, record_id: str) -> bool:
        """Run a record in this thread, claimed as a worker would claim it, because somebody asks for it.

        Returns:
            False if it is not due yet, or its limit is reached: nothing was changed then.

        Raises:
            NotRecorded: Nothing is recorded here.
            RecordNotFound: There is no such record.
            UnknownOperation: Its class is not declared here.
            InvalidTransition: It is not pending.
        """
        store, claims, heart = self._store, self._claims, self._heart
        if store is None or claims is None or heart is None:
            raise NotRecorded(f"{record_id} cannot be run by hand: nothing is recorded in this process.")
        contract = registry.find(store.row(record_id).name).contract
        # Begins to beat in a process that is no worker: from now on it is seen among them, and serves no queue.
        insist("begin", lambda: heart.worker_id, run=record_id)
        heart.await_soundness()
        with claims.asked(record_id) as row:
            if row is None:
                return False
            with self.watch.looking(), self.watch.over(row.id, contract, row) as run:
                Context().run(self._drive, store, contract, row, run)
        return True

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

    def _drive(self, store: Store, contract: Contract, row: Row[Any], run: Run) -> None:
        redactor = self._redactor
        counts = counts_of(row)
        try:
            operation = build(contract, row.params, row.id)
        except (Undecodable, PropsError, *UNREADABLE) as error:
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
                lambda: start.run(
                    operation,
                    contract,
                    id=row.id,
                    frame=frame,
                    recorder=recorder,
                    redactor=redactor,
                    store=self._store_for_sessions,
                    outer=None,
                    attempt=row.num_attempts,
                    stop=run.stop,
                ),
            )
        except LostClaim as lost:
            line(logging.WARNING, "claim.lost", operation=contract.name, run=row.id, message=str(lost))
        except Cancelled as error:
            self._finish(store, contract, row, cancelled(error, counts))
        except Exception as error:  # noqa: BLE001 - whatever ends an attempt is judged by the class's rules
            # Safe even if the connection was lost during the commit: a row that is done is running no more.
            rule = CUT_OFF if is_away(error) else None
            self._finish(store, contract, row, judge(contract, error, counts, redactor, rule))
        except (Interrupted, Shutdown) as error:
            insist("give_back", lambda: self._give_back(store, row), operation=contract.name, run=row.id)
            if isinstance(error, Shutdown):
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
        """A transaction that had to give way to another one has left nothing: it begins anew, in the same attempt.

        After a moment: who gave way would else take the lock again before the other one has woken up, and meet it anew.
        """
        for number in range(CONFLICTS if contract.transactional else 0):
            try:
                return run()
            except DBAPIError as error:
                if not is_conflict(error):
                    raise
                line(logging.INFO, "run.conflict", operation=contract.name, error=class_path(error))
            time.sleep(YIELD_S * 2**number * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
        return run()

    def _give_up(self, run: Run) -> None:
        """End the attempt of a run that does not end by itself; its claim is gone then, so it can commit nothing."""
        if self._store is not None and run.row is not None:
            counts = counts_of(run.row)
            self._finish(self._store, run.contract, run.row, judge(run.contract, TimedOut(), counts, self._redactor))

    def _finish(self, store: Store, contract: Contract, row: Row[Any], verdict: Verdict) -> None:
        """The last word on the row, also if the database is away for a while, or does not take what there is to say."""
        facts = {"operation": contract.name, "run": row.id}
        try:
            insist("finish", lambda: self._write_end(store, contract, row, verdict), **facts)
        except Exception as error:  # noqa: BLE001 - a column too short, a trigger: the row must not stay running
            line(logging.ERROR, "end.not_written", **facts, error=class_path(error), advice="it is told in few words")
            insist("finish", lambda: self._write_end(store, contract, row, in_few_words(verdict)), **facts)

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
