"""`DirectJob`: a run that has no record, and whose message carries all there is of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any

import attrs
from dramatiq.middleware import CurrentMessage
from dramatiq.middleware.shutdown import Shutdown

from dexpy.background.dispatch import Dispatcher
from dexpy.background.outages import insist
from dexpy.background.payload import DirectPayload
from dexpy.background.stored import build, crashed_early, frame_of
from dexpy.background.unknown import Strangers
from dexpy.background.verdicts import FOR_OTHERS, Verdict, judge, never_opened, undecodable
from dexpy.background.watch import Watch
from dexpy.declaration.contract import Contract
from dexpy.execution import start
from dexpy.foundation.errors import PropsError, Undecodable
from dexpy.foundation.ids import new_id
from dexpy.foundation.log import line
from dexpy.foundation.outcome import Err, Outcome
from dexpy.foundation.redaction import Redactor
from dexpy.foundation.trace import Frame
from dexpy.recording.recorder import SyncRecorder
from dexpy.recording.sealing import UNREADABLE
from dexpy.recording.store import Store


class DirectJob:
    """The body of the actor for runs without a record.

    Args:
        dispatcher: Sends what has to run again.
        store: Where the one row goes at the end; None when nothing is recorded.
        redactor: For what is kept of failures.
        store_for_sessions: Gives the store, for the sessions of runs.
        strangers: Takes in messages of unknown classes.
        watch: Over what runs here.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        store: Store | None,
        redactor: Redactor,
        store_for_sessions: Callable[[], Store],
        strangers: Strangers,
        watch: Watch,
    ) -> None:
        self._dispatcher = dispatcher
        self._store = store
        self._redactor = redactor
        self._store_for_sessions = store_for_sessions
        self._strangers = strangers
        self._watch = watch

    def run(self, class_name: str, params: Mapping[str, Any], trace: Mapping[str, Any], **_later: Any) -> None:
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
        contract = self._strangers.contract_of(class_name, payload.run_id)
        if contract is None:
            return
        try:
            Context().run(self._drive, contract, payload, queue)
        except UNREADABLE as error:
            # The message is all there is of it: it waits for a worker with the key, as for one that knows its class.
            why = str(error)
            insist("look", lambda: self._strangers.take_in(class_name, payload.run_id, why), run=payload.run_id)

    def _drive(self, contract: Contract, payload: DirectPayload, queue: str) -> None:
        """Run it, and see to its end; raises only where its params cannot be decrypted."""
        redactor, frame = self._redactor, frame_of(payload.trace, None)
        recorder = self._recorder(contract, None, payload, frame, redactor)
        try:
            operation = build(contract, payload.params, payload.run_id)
        except UNREADABLE:
            raise
        except (Undecodable, PropsError) as error:
            self._finish(contract, payload, queue, recorder, undecodable(error, contract, payload.run_id))
            return
        except Exception as error:  # noqa: BLE001 - as for a recorded run
            crashed_early(error, contract, payload.run_id, redactor)
            self._finish(contract, payload, queue, recorder, judge(contract, error, payload.counts, redactor))
            return
        redactor = start.redactor_for(operation, contract, redactor)
        recorder = self._recorder(contract, operation, payload, frame, redactor)
        ended: Err | Exception
        try:
            with self._watch.over(payload.run_id, contract, None) as run:
                outcome = start.run(
                    operation,
                    contract,
                    id=payload.run_id,
                    frame=frame,
                    recorder=recorder,
                    redactor=redactor,
                    store=self._store_for_sessions,
                    outer=None,
                    attempt=payload.attempt,
                    stop=run.stop,
                )
        except Exception as error:  # noqa: BLE001 - whatever ends an attempt is judged by the class's rules
            ended = error
        except Shutdown:
            insist("give_back", lambda: self._dispatcher.send_direct(payload, queue, 0), run=payload.run_id)
            raise
        except BaseException as error:
            verdict = judge(contract, error, payload.counts, redactor)
            self._finish(contract, payload, queue, recorder, verdict)
            if isinstance(error, FOR_OTHERS):
                raise
            return
        else:
            if not isinstance(outcome, Err):
                return
            ended = outcome
        self._finish(
            contract, payload, queue, recorder, judge(contract, ended, payload.counts, redactor, never_opened(ended))
        )

    def _finish(
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

    def _recorder(
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
