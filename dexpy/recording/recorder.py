"""Who writes the row of a run: nobody, a synchronous run, or the holder of a claim.

A recorder is told how the run came out. Success is written in the run's own transaction, before its commit;
everything else after that transaction has ended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs
from sqlalchemy.engine import Connection, Row

from dexpy.declaration.contract import Contract
from dexpy.declaration.values import encoded
from dexpy.foundation.checkpoint import checkpoint
from dexpy.foundation.errors import LostClaim, NotSerializable
from dexpy.foundation.log import line
from dexpy.foundation.outcome import Err, Outcome
from dexpy.foundation.redaction import Redactor, class_path, jsonable
from dexpy.foundation.trace import Frame
from dexpy.recording import steps
from dexpy.recording.metadata import after
from dexpy.recording.sealing import sealed, sealed_result
from dexpy.recording.steps import Milestone
from dexpy.recording.store import Store
from dexpy.recording.transitions import is_applied

AtEnd = Callable[[Callable[[], None]], None]
"""Runs an action once the outermost transaction has ended."""


class Recorder(Protocol):
    """Told how a run came out."""

    def succeed(self, connection: Connection | None, value: Any) -> None:
        """Write the success; in this transaction, or in one of its own."""

    def rolled_back(self) -> None:
        """What `succeed` wrote in the run's transaction is gone with it, by a failed commit for one."""

    def ended(self, at_end: AtEnd, outcome: Outcome) -> None:
        """The run's transaction has ended with this outcome; a success may have been written already."""

    def crashed(self, at_end: AtEnd, error: BaseException) -> None:
        """The run ended in an exception and its transaction was rolled back."""

    def undone(self) -> None:
        """The run's effects were rolled back by whoever owns the transaction that it joined."""


def failure_values(outcome: Err, redactor: Redactor) -> dict[str, Any]:
    """The error columns of a business error or a refusal."""
    return {
        "error": outcome.code[:255],
        "failure": "rejected" if outcome.rejected else "business",
        "error_message": redactor(outcome.message),
        "error_details": jsonable(outcome.details, redactor) if outcome.details else None,
    }


def crash_values(error: BaseException, failure: str, redactor: Redactor) -> dict[str, Any]:
    """The error columns of an exception."""
    return {
        "error": class_path(error)[:255],
        "failure": failure,
        "error_message": redactor.of(error),
        "error_details": None,
    }


def result_envelope(contract: Contract, value: Any) -> dict[str, Any] | None:
    """A result as it is stored: null, a dict and a scalar are told apart; what has no JSON form says why."""
    if contract.record is not None and not contract.record.result:
        return None
    from dexpy.declaration.forms import form_of

    form = contract.success if contract.success is not None else form_of(Any)
    try:
        envelope = {"value": form.encode(value)}
    except NotSerializable as error:
        return {"unstorable": str(error.under("result") if error.path else error)}
    return sealed_result(contract, envelope)


def identity(contract: Contract, id: str, frame: Frame) -> dict[str, Any]:
    """The columns that say which run a row is."""
    actor = dict(frame.actor) if frame.actor is not None else {}
    actor_id = actor.get("id")
    return {
        "id": id,
        "name": contract.name,
        "trace_id": frame.trace_id[:64],
        "trace": frame.to_dict(),
        "parent_id": frame.stack[-2][0] if len(frame.stack) > 1 else None,
        "actor_type": str(actor["type"])[:64] if actor else None,
        "actor_id": None if actor_id is None else str(actor_id)[:255],
    }


@attrs.define
class SyncRecorder:
    """Writes the one row of a synchronous run, when it is over.

    Attributes:
        store: Where.
        contract: Of the operation.
        operation: With the props as they were given.
        id: Of the run.
        frame: Of the run.
        redactor: Knows the run's secrets.
        attempt: Which attempt this is.
    """

    store: Store
    contract: Contract
    operation: Any
    id: str
    frame: Frame
    redactor: Redactor
    attempt: int = 1
    _began: float = attrs.field(factory=time.monotonic)
    _settled: bool = False
    _failed: bool = False
    _undone: bool = False

    def values(self, status: str, **rest: Any) -> dict[str, Any]:
        """The columns of the row."""
        elapsed = time.monotonic() - self._began
        return {
            **identity(self.contract, self.id, self.frame),
            "params": self._params(),
            "status": status,
            "num_attempts": self.attempt,
            "started_at": after(-elapsed),
            "completed_at": after(0),
            **rest,
        }

    def _params(self) -> Any:
        if self.contract.record is None or not self.contract.record.params:
            return None
        try:
            given: dict[str, Any] = self.operation.__dict__
            return sealed(self.contract, encoded(self.contract.cls.__qualname__, self.contract.props, given))
        except NotSerializable as error:
            line(logging.DEBUG, "record.params_left_out", operation=self.contract.name, run=self.id, path=error.path)
            return None

    def succeed(self, connection: Connection | None, value: Any) -> None:
        """See `Recorder`."""
        values = self.values("done", result=result_envelope(self.contract, value))
        if connection is None:
            self.write(values)
        else:
            self.store.prepare(connection)
            self.store.insert(connection, values)
        self._settled = True

    def rolled_back(self) -> None:
        """See `Recorder`."""
        self._settled = False

    def ended(self, at_end: AtEnd, outcome: Outcome) -> None:
        """See `Recorder`."""
        if isinstance(outcome, Err):
            self._failed = True
            values = self.values("failed", **failure_values(outcome, self.redactor))
        elif self._settled:
            return
        else:
            values = self.values("done", result=result_envelope(self.contract, outcome.value))

        def write() -> None:
            if not self._undone:
                self.write(values)

        at_end(write)

    def crashed(self, at_end: AtEnd, error: BaseException) -> None:
        """See `Recorder`."""
        self._failed = True
        cancelled = not isinstance(error, Exception)
        status, failure = ("expired", "cancelled") if cancelled else ("failed", "crash")
        values = self.values(status, **crash_values(error, failure, self.redactor))
        at_end(lambda: self.write(values))

    def undone(self) -> None:
        """See `Recorder`."""
        if self._failed:
            return
        self._undone = True
        message = "The run that called this one rolled its transaction back, and its effects with it."
        self.write(self.values("failed", error="dexpy.RolledBack", failure="discarded", error_message=message))

    def write(self, values: Mapping[str, Any]) -> None:
        """Write the row in a transaction of its own; a record that cannot be written must not break a call."""
        try:
            with self.store.begin() as connection:
                self.store.insert(connection, values)
        except Exception as error:  # noqa: BLE001 - whatever it is, the call has had its outcome
            line(
                logging.ERROR,
                "record.not_written",
                operation=self.contract.name,
                run=self.id,
                error=class_path(error),
                message=self.redactor.of(error),
            )


@attrs.define
class ClaimRecorder:
    """Writes the success of a claimed run, fenced by its claim token; the job that drives the run writes the rest.

    Attributes:
        store: Where.
        contract: Of the operation.
        row: As the claim left it.
    """

    store: Store
    contract: Contract
    row: Row[Any]
    _settled: bool = False

    def succeed(self, connection: Connection | None, value: Any) -> None:
        """See `Recorder`.

        Raises:
            LostClaim: The row is no longer this worker's; the transaction must not commit.
        """
        envelope = result_envelope(self.contract, value)
        if connection is not None:
            self._apply(connection, envelope)
        else:
            with self.store.at_once() as own:
                self._apply(own, envelope)
        self._settled = True

    def keep(self, connection: Connection | None, milestone: Milestone) -> None:
        """Write what the run has behind it; in the transaction that it stands for, or in one of its own.

        Raises:
            LostClaim: The row is no longer this worker's; the transaction must not commit.
        """
        if connection is None:
            with self.store.begin() as own:
                self._keep(own, milestone)
        else:
            self._keep(connection, milestone)

    def _keep(self, connection: Connection, milestone: Milestone) -> None:
        row = self.row
        if not steps.holds_claim(connection, row.id, row.claim_token):
            raise LostClaim(f"{self.contract.name} {row.id}: its claim {row.claim_token} went to another worker.")
        steps.keep(connection, row.id, row.claim_token, milestone)
        checkpoint("before_step_commit")

    def _apply(self, connection: Connection, envelope: Any) -> None:
        token = self.row.claim_token
        is_done = is_applied(connection, "succeed", self.row.id, claim_token=token, result=envelope)
        checkpoint("before_commit")
        if not is_done:
            raise LostClaim(f"{self.contract.name} {self.row.id}: its claim {token} went to another worker.")

    def rolled_back(self) -> None:
        """See `Recorder`."""
        self._settled = False

    def ended(self, at_end: AtEnd, outcome: Outcome) -> None:
        """See `Recorder`."""
        if not isinstance(outcome, Err) and not self._settled:
            self.succeed(None, outcome.value)

    def crashed(self, at_end: AtEnd, error: BaseException) -> None:
        """Left to the job, which has the last word."""

    def undone(self) -> None:
        """A claimed run is never inside another one."""
