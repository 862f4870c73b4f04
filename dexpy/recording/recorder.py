"""The recorders, which write the outcome of a run to its row.

A success is written in the run's transaction, before its commit; any other outcome after that transaction has ended.
The module is long because it has one recorder for each kind of run.
"""

from __future__ import annotations

import contextvars
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Protocol, cast

import attrs
from sqlalchemy.engine import Connection, Row

from dexpy.codec.codecs import codec_of
from dexpy.database.column_types import FromNow
from dexpy.database.engine import Database
from dexpy.declaration.contract import Contract
from dexpy.declaration.props import encode_props
from dexpy.foundation.error_details import to_json
from dexpy.foundation.errors import DatabaseUnavailable, LostClaim, NotSerializable
from dexpy.foundation.failpoints import failpoint
from dexpy.foundation.forks import leave_if_forked
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.outcome import Err, Outcome
from dexpy.foundation.redaction import Redactor, class_path
from dexpy.foundation.trace import Frame
from dexpy.recording import durable_steps, run_signals
from dexpy.recording.checkpoints import Checkpoint
from dexpy.recording.encryption import encrypt_params, encrypt_result
from dexpy.recording.installed_hooks import SUCCESS, installed_hooks
from dexpy.recording.progress import Progress
from dexpy.recording.step_records import KeptStep, stored_steps
from dexpy.recording.store import Store, insert_record
from dexpy.recording.transitions import is_applied

AtEnd = Callable[[Callable[[], None]], None]
"""Runs an action after the outermost transaction has ended."""


class Recorder(Protocol):
    """Writes the outcome of a run."""

    claims_key: ClassVar[bool]
    """Whether this is an `IdempotentRecorder`, whose run first claims a key."""

    @property
    def worker_claim(self) -> ClaimRecorder | None:
        """This recorder, if the run is under a worker's claim."""
        ...

    def succeed(self, connection: Connection | None, value: Any) -> None:
        """Write the success in this transaction, or in a separate one."""

    def rolled_back(self) -> None:
        """Handle a rollback after `succeed`, for example because the commit failed."""

    def ended(self, at_end: AtEnd, outcome: Outcome) -> None:
        """Write the outcome after the run's transaction; a success may have been written already."""

    def crashed(self, at_end: AtEnd, error: BaseException) -> None:
        """Write the exception that ended the run, whose transaction was rolled back."""

    def effects_rolled_back(self) -> None:
        """Handle the rollback of the run's effects with the transaction that it joined."""


def failure_values(outcome: Err, redactor: Redactor) -> dict[str, Any]:
    """Return the error columns of a business error or a rejection."""
    return {
        "error": redactor(outcome.code)[:255],
        "failure": "rejected" if outcome.rejected else "business",
        "error_message": redactor(outcome.message),
        "error_details": to_json(outcome.details, redactor, _encoded) or None,
    }


def _encoded(value: Any) -> Any:
    """Encode a value whose type the application has registered; raise an error for any other."""
    return codec_of(cast("type[object]", type(value))).encode(value)


def crash_values(error: BaseException, failure: str, redactor: Redactor) -> dict[str, Any]:
    """Return the error columns of an exception."""
    return {
        "error": redactor(class_path(error))[:255],
        "failure": failure,
        "error_message": redactor.of(error),
        "error_details": None,
    }


NOT_STORED = "The database refused the text of the error. See the log of the worker."


def shorter_values(values: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return ever shorter error columns for a database that refuses them; the last ones have no text of the run."""
    without_details = {**values, "error_details": None}
    in_few_words = {**without_details, "error": ascii(values.get("error"))[1:-1][:255], "error_message": NOT_STORED}
    return without_details, in_few_words, {**in_few_words, "error": "dexpy.NotStored"}


def result_envelope(
    contract: Contract, value: Any, run: tuple[str, str], database: Database, redactor: Redactor
) -> dict[str, Any] | None:
    """Return the stored envelope of a result, or of the reason why it is not stored.

    Args:
        contract: The contract of the operation.
        value: The result of the operation.
        run: The operation and the id in the run's row.
        database: The database that stores it; a result that is too large for it is left out.
        redactor: Redacts the reason: a key or the name of a class may contain a secret.
    """
    if contract.record is not None and not contract.record.result:
        return None
    codec = contract.success if contract.success is not None else codec_of(Any)
    try:
        envelope = {"value": codec.encode(value)}
    except NotSerializable as error:
        not_serializable = error.about(f"the return annotation of {contract.cls.__qualname__}.perform", is_result=True)
        reason = redactor(not_serializable.under("result") if not_serializable.path else not_serializable)
        # The path may contain keys of the result.
        return encrypt_result(contract, {"unstorable": reason}, *run)
    except Exception as error:  # noqa: BLE001 - a registered type's own function; the run has succeeded all the same
        return {"unstorable": redactor(f"it has no JSON form ({class_path(error)})")}
    stored = envelope if contract.encryptor is None else encrypt_result(contract, envelope, *run)
    why_not = database.why_too_large(stored)
    return stored if why_not is None else {"unstorable": why_not}


def _fit_to_row(database: Database, values: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a row without params, result or details that make it too large."""
    if not database.dialect.closes_on_large_statement:
        return values
    stored_values: list[Any] = []
    columns = dict(values)
    for column in ("error_details", "params", "result"):
        why_not = database.why_too_large(*stored_values, columns.get(column))
        if why_not is not None:
            columns[column] = {"unstorable": why_not} if column == "result" else None
            log_event(LogEvent.RECORD_COLUMN_OMITTED, operation=values.get("operation"), column=column, reason=why_not)
        stored_values.append(columns.get(column))
    return columns


@attrs.define
class SyncRecorder:
    """Inserts the row of a synchronous run after its end.

    Attributes:
        store: The store of the records.
        contract: The contract of the operation.
        operation: The instance with its props.
        id: The id of the run.
        frame: The frame of the run.
        redactor: The redactor of the run's secrets.
        attempt: The number of this attempt.
        own_values: The values of the application's columns.
    """

    claims_key: ClassVar[bool] = False

    store: Store
    contract: Contract
    operation: Any
    id: str
    frame: Frame
    redactor: Redactor
    attempt: int = 1
    own_values: Mapping[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True)
    _started_at: float = attrs.field(factory=time.monotonic)
    _is_written: bool = False
    _is_failed: bool = False
    _is_rolled_back: bool = False
    _pid: int = attrs.field(factory=os.getpid)

    @property
    def worker_claim(self) -> ClaimRecorder | None:
        """See `Recorder`."""
        return None

    def values(self, status: str, **rest: Any) -> dict[str, Any]:
        """Return the columns of the row."""
        elapsed = time.monotonic() - self._started_at
        values = {
            "id": self.id,
            "operation": self.contract.name,
            **self.frame.columns(),
            "params": self._params(),
            "status": status,
            "num_attempts": self.attempt,
            "started_at": FromNow(-elapsed),
            "completed_at": FromNow(),
            **self.own_values,
            **rest,
        }
        database = self.store.database
        return _fit_to_row(database, values) if database.dialect.closes_on_large_statement else values

    def _params(self) -> Any:
        if self.contract.record is None or not self.contract.record.params:
            return None
        try:
            values: dict[str, Any] = self.operation.__dict__
            params = encode_props(self.contract.cls.__qualname__, self.contract.props, values)
            stored = encrypt_params(self.contract, params, self.id) if self.contract.encrypted_props else params
        except NotSerializable as error:
            log_event(
                LogEvent.RECORD_PARAMS_OMITTED,
                logging.DEBUG,
                operation=self.contract.name,
                run_id=self.id,
                params_path=error.path,
            )
            return None
        if self.store.database.dialect.closes_on_large_statement and (
            why_not := self.store.database.why_too_large(stored)
        ):
            log_event(LogEvent.RECORD_PARAMS_OMITTED, operation=self.contract.name, run_id=self.id, reason=why_not)
            return None
        return stored

    def _result(self, value: Any) -> dict[str, Any] | None:
        run = self.contract.name, self.id
        return result_envelope(self.contract, value, run, self.store.database, self.redactor)

    def succeed(self, connection: Connection | None, value: Any) -> None:
        """See `Recorder`."""
        values = self.values("done", result=self._result(value))
        if connection is None:
            self.write(values)
        else:
            self.store.prepare(connection)
            insert_record(connection, values)
        self._is_written = True

    def rolled_back(self) -> None:
        """See `Recorder`."""
        self._is_written = False

    def ended(self, at_end: AtEnd, outcome: Outcome) -> None:
        """See `Recorder`."""
        if isinstance(outcome, Err):
            self._is_failed = True
            values = self.values("failed", **failure_values(outcome, self.redactor))
        elif self._is_written:
            return
        else:
            result = self._result(outcome.value)
            values = self.values("done", result=result)

        def write() -> None:
            if not self._is_rolled_back:
                self.write(values)

        at_end(write)

    def crashed(self, at_end: AtEnd, error: BaseException) -> None:
        """See `Recorder`."""
        self._is_failed = True
        cancelled = not isinstance(error, Exception)
        status, failure = ("cancelled", "cancelled") if cancelled else ("failed", "crash")
        values = self.values(status, **crash_values(error, failure, self.redactor))
        at_end(lambda: self.write(values))

    def effects_rolled_back(self) -> None:
        """See `Recorder`."""
        if self._is_failed:
            return
        self._is_rolled_back = True
        message = "The enclosing run rolled back its transaction, with the effects of this run."
        self.write(self.values("failed", error="dexpy.errors.RolledBack", failure="discarded", error_message=message))

    def write(self, values: Mapping[str, Any]) -> None:
        """Write the row in its own transaction; an error is logged, because it must not fail the call."""
        if os.getpid() != self._pid:
            leave_if_forked(self._pid)
        try:
            self._write(values, RecursionError)
        except RecursionError:
            # The call is near the recursion limit: a new thread has an empty stack.
            arguments = self._write, values, ()
            thread = threading.Thread(target=contextvars.copy_context().run, args=arguments, name="dexpy-record")
            thread.start()
            thread.join()

    def _write(self, values: Mapping[str, Any], reraised: Any) -> None:
        shorter: Iterator[Mapping[str, Any]] | None = None
        columns: Mapping[str, Any] | None = values
        while columns is not None:
            try:
                with self.store.begin() as connection:
                    insert_record(connection, columns)
            except reraised:
                raise
            except Exception as error:  # noqa: BLE001 - the call has its outcome, whatever the error is
                facts = {"operation": self.contract.name, "run_id": self.id, "error": class_path(error)}
                log_event(LogEvent.RECORD_NOT_WRITTEN, **facts, error_message=self.redactor.of(error))
                if isinstance(error, DatabaseUnavailable):
                    return
            else:
                return
            shorter = shorter or self._shorter(values)
            columns = next(shorter, None)

    def _shorter(self, values: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        if values.get("error") is not None:
            yield from shorter_values(values)
            shortest = shorter_values(values)[-1]
        else:
            shortest = {**values, "result": {"unstorable": "the database refused it"}}
            yield shortest
        yield {**shortest, "params": None}


@attrs.define
class ClaimRecorder:
    """Writes the success of a claimed run, fenced by its claim token; the worker's job writes every other end.

    Attributes:
        store: The store of the records.
        contract: The contract of the operation.
        row: The row that the claim returned.
        decryption_error: The error of a stored step that does not decrypt, or None.
        redactor: The redactor of the run's secrets.
    """

    claims_key: ClassVar[bool] = False

    store: Store
    contract: Contract
    row: Row[Any]
    redactor: Redactor
    _is_written: bool = False
    decryption_error: Exception | None = attrs.field(default=None, init=False)

    @property
    def worker_claim(self) -> ClaimRecorder:
        """See `Recorder`."""
        return self

    def succeed(self, connection: Connection | None, value: Any) -> None:
        """See `Recorder`.

        Raises:
            LostClaim: The claim is no longer in force; the transaction must not commit.
        """
        run = self.row.operation, self.row.id
        envelope = result_envelope(self.contract, value, run, self.store.database, self.redactor)
        if connection is not None:
            self._succeed(connection, envelope)
        else:
            # The calls of hooks are written with the end, in one transaction.
            has_hooks = bool(installed_hooks.names) and bool(installed_hooks.called_for(SUCCESS))
            begin = self.store.begin if has_hooks else self.store.autocommit
            with begin() as new_connection:
                self._succeed(new_connection, envelope)
        self._is_written = True

    def load_steps(self) -> list[KeptStep]:
        """Return the stored steps of the run, in order; cursors and values are in their envelopes."""
        return stored_steps(self.store, self.row.id)

    def why_too_large(self, checkpoint: Checkpoint) -> str | None:
        """Return why a checkpoint is too large to be stored, or None."""
        return self.store.database.why_too_large(checkpoint.cursor, checkpoint.value)

    def write_progress(self, connection: Connection, progress: Progress) -> None:
        """Write the progress of the run, while its claim is in force."""
        run_signals.write_progress(connection, self.row.id, self.row.claim_token, progress.to_json())

    def write_checkpoint(self, connection: Connection | None, checkpoint: Checkpoint) -> None:
        """Write the state of a step, in the transaction of its effects or in its own.

        Raises:
            LostClaim: The claim is no longer in force; the transaction must not commit.
        """
        if connection is None:
            with self.store.begin() as new_connection:
                self._write_checkpoint(new_connection, checkpoint)
        else:
            self._write_checkpoint(connection, checkpoint)

    def _write_checkpoint(self, connection: Connection, checkpoint: Checkpoint) -> None:
        row = self.row
        if not durable_steps.holds_claim(connection, row.id, row.claim_token):
            raise LostClaim(f"{self.contract.name} {row.id}: the claim {row.claim_token} is no longer in force.")
        durable_steps.write_checkpoint(connection, row.id, row.claim_token, checkpoint)
        failpoint("before_step_commit")

    def _succeed(self, connection: Connection, envelope: Any) -> None:
        token = self.row.claim_token
        is_done = is_applied(connection, "succeed", self.row.id, claim_token=token, result=envelope)
        failpoint("before_commit")
        if not is_done:
            raise LostClaim(f"{self.contract.name} {self.row.id}: the claim {token} is no longer in force.")

    def rolled_back(self) -> None:
        """See `Recorder`."""
        self._is_written = False

    def ended(self, at_end: AtEnd, outcome: Outcome) -> None:
        """See `Recorder`."""
        if not isinstance(outcome, Err) and not self._is_written:
            self.succeed(None, outcome.value)

    def crashed(self, at_end: AtEnd, error: BaseException) -> None:
        """Do nothing: the worker's job writes this end."""

    def effects_rolled_back(self) -> None:
        """Do nothing: a claimed run never joins another transaction."""
