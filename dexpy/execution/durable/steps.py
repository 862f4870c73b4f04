"""Durable steps: a run as a chain of transactions, each exactly once; a retry continues after the last committed one.

A step's effects, its checkpoint and the check of the claim are one transaction. A synchronous call has no checkpoints:
its steps are parts of the call's single transaction.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from dexpy.codec.codecs import Codec, InvalidValue, codec_of
from dexpy.codec.hints import resolve_annotation
from dexpy.execution.call import Call, current
from dexpy.execution.durable.item_sources import Source, source_of
from dexpy.execution.durable.progress import claim_of
from dexpy.execution.durable.transaction_segments import Segments
from dexpy.execution.middleware import refs
from dexpy.foundation.errors import NotSerializable, OptionsError, ResultTypeError, StepError
from dexpy.foundation.failpoints import failpoint
from dexpy.foundation.safe_text import is_plain_text
from dexpy.recording.checkpoints import Checkpoint, is_envelope
from dexpy.recording.encryption import DECRYPT_ERRORS, decrypt, encrypt_result

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from dexpy.recording.recorder import ClaimRecorder
    from dexpy.recording.step_records import KeptStep

T = TypeVar("T")


def step(call: Call, method: Callable[..., T], arguments: tuple[Any, ...], named: Mapping[str, Any]) -> T:
    """Run a method as a step; see `Operation.step`."""
    name, codec = _step_method(call, method)
    return cast("T", _steps_of(call, name).step(name, codec, lambda: method(*arguments, **named)))


def each(call: Call, name: str, source: Any, batch: int) -> Iterator[Any]:
    """Iterate over items as a step; see `Operation.each`."""
    owner = call.contract.cls.__qualname__
    if not is_plain_text(name) or not 0 < len(name) <= 255:
        raise OptionsError(f"{owner}.each: name: expected a str of 1 to 255 characters, got {name!r}.")
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise OptionsError(f"{owner}.each({name!r}, ...): batch: expected an int >= 1, got {batch!r}.")
    return _steps_of(call, name).iterate(name, source_of(source, owner, name), batch)


class DurableSteps:
    """The steps of one attempt.

    Args:
        call: The run.
        claim: Writes the checkpoints; None for a synchronous call, which has none.
    """

    def __init__(self, call: Call, claim: ClaimRecorder | None) -> None:
        self._call = call
        self._claim = claim
        self._unit_of_work = call.unit_of_work
        self._segments = Segments(call.unit_of_work)
        self._owner = call.contract.cls.__qualname__
        self._record_name: str = call.contract.name if claim is None else claim.row.operation
        self._commits = claim is not None or not call.contract.transactional
        self._step_names: list[str] = []
        self._active: str | None = None
        self._unfinished: str | None = None
        self._stored_steps: list[KeptStep] = [] if claim is None else claim.load_steps()

    # ---------------------------------------------------------------------------------------- steps and loops

    def step(self, name: str, codec: Codec, method: Callable[[], Any]) -> Any:
        """Run a method once over all attempts, and return its result."""
        position, stored = self._enter(name)
        if stored is not None:
            if not stored.finished:
                raise self._error(
                    name,
                    "was a self.each loop in an earlier attempt. Keep it a loop, or start over with "
                    "ticket.retry(from_start=True).",
                )
            return self._decode_result(name, codec, stored)
        # In a synchronous call, a savepoint rolls back only the failed step.
        with self._track_step(name), self._segments.segment() if self._commits else self._segments.savepoint():
            self._reload_locked_refs()
            value = method()
            encoded = self._encode_result(name, codec, value)
            self._commit(name, position, stored, finished=True, value=encoded)
        return value

    def iterate(self, name: str, source: Source, batch: int) -> Iterator[Any]:
        """Yield the items after the last checkpoint; the items of a page are one transaction."""
        position, stored = self._enter(name)
        if stored is not None and stored.finished:
            return
        cursor = None if stored is None else self._decrypt(name, stored.cursor, "cursor")
        pages = source.pages(cursor, self._unit_of_work.session, batch)
        with self._track_step(name):
            is_last = False
            while not is_last:
                with self._segments.segment() if self._commits else nullcontext():
                    self._reload_locked_refs()
                    page = next(pages)
                    for item in page.items:
                        self._check_cancelled()
                        yield item
                    is_last = page.is_last
                    stored = self._commit(name, position, stored, finished=is_last, cursor=page.cursor)
                if not is_last:
                    self._check_interrupted()

    # --------------------------------------------------------------------------------------- checks

    def _enter(self, name: str) -> tuple[int, KeptStep | None]:
        """Return the position of a step, and its stored checkpoint."""
        unit_of_work, call = self._unit_of_work, self._call
        if self._active is not None:
            raise self._error(
                name,
                f"is inside the step {self._active!r}, whose transaction it would end. Call the method directly.",
            )
        if current.get() is not call:
            raise self._error(
                name, "was started inside the run of another operation, whose transaction its commit would end."
            )
        if not unit_of_work.performing:
            raise self._error(
                name, "was started outside of perform. Move it into perform: guards and callbacks run in every attempt."
            )
        if name in self._step_names:
            raise self._error(name, "was started twice in one attempt. Give each step its own name.")
        if self._unfinished is not None:
            raise self._error(
                name,
                f"follows {self._unfinished!r}, which did not finish in this attempt. Let the exception of a step "
                "propagate, or catch it inside the step; iterate a loop to its end.",
            )
        self._check_transaction(name)
        position = len(self._step_names)
        self._step_names.append(name)
        stored = self._stored_steps[position] if position < len(self._stored_steps) else None
        if stored is not None and stored.name != name:
            raise self._error(
                name,
                f"is in the place of {stored.name!r}, a step of an earlier attempt. Run the same steps in the same "
                "order in every attempt: put conditions inside the steps, append new steps at the end, "
                "or start over with ticket.retry(from_start=True).",
            )
        if stored is None or not stored.finished:
            self._check_cancelled()
            self._check_interrupted()
        return position, stored

    def _check_transaction(self, name: str) -> None:
        unit_of_work = self._unit_of_work
        if not self._commits:
            return
        if not self._call.contract.transactional:
            if unit_of_work.is_open:
                raise self._error(
                    name,
                    "is inside `with self.transaction():`, but has its own transaction. Move it out of that block.",
                )
            return
        if unit_of_work.is_nested:
            raise self._error(
                name,
                "is inside `with self.session.begin_nested():`, but commits the session. Move it out of that block.",
            )
        if unit_of_work.has_written():
            raise self._error(
                name,
                "follows a write or an after-commit action outside of a step, which every attempt would repeat. "
                "Move it into a step.",
            )

    def _error(self, name: str, why: str) -> StepError:
        return StepError(self._owner, name, why)

    def _check_cancelled(self) -> None:
        if self._call.cancel_token is not None:
            self._call.cancel_token.check()

    def _check_interrupted(self) -> None:
        if self._claim is not None and self._call.cancel_token is not None:
            self._call.cancel_token.check_interrupted()

    # ------------------------------------------------------------------------------------ its transaction

    @contextmanager
    def _track_step(self, name: str) -> Generator[None, None, None]:
        self._active = self._unfinished = name
        try:
            yield
            self._unfinished = None
        finally:
            self._active = None

    def _reload_locked_refs(self) -> None:
        """Load references with ``lock=True`` again: each transaction of the chain locks their rows."""
        contract = self._call.contract
        if self._commits and contract.transactional and any(reference.lock for reference in contract.references):
            refs.load(self._call, self._unit_of_work.session)

    def _commit(
        self,
        name: str,
        position: int,
        stored: KeptStep | None,
        *,
        finished: bool,
        cursor: Any = None,
        value: Any = None,
    ) -> Any:
        if not self._commits:
            return stored
        claim = self._claim
        if claim is None:
            self._segments.commit(_do_nothing)
            return stored
        checkpoint = Checkpoint(
            name,
            position,
            stored is None,
            finished,
            cursor=self._encrypt(cursor, f"cursor of {name}"),
            value=self._encrypt(value, f"value of {name}"),
        )
        self._check_size(claim, name, checkpoint)
        cancel_token = self._call.cancel_token
        with nullcontext() if cancel_token is None else cancel_token.shielded():
            self._unit_of_work.write_progress()
            self._segments.commit(lambda connection: self._settle(claim, connection, checkpoint))
        failpoint("after_step_commit")
        return checkpoint

    def _check_size(self, claim: ClaimRecorder, name: str, checkpoint: Checkpoint) -> None:
        why = claim.why_too_large(checkpoint)
        if why is not None:
            raise self._error(name, f"has a result or a cursor that is too large: {why}. Use an id or a path instead.")

    def _settle(self, claim: ClaimRecorder, connection: Connection | None, checkpoint: Checkpoint) -> None:
        claim.write_checkpoint(connection, checkpoint)
        if connection is not None:
            self._unit_of_work.settle_progress(connection)

    # ----------------------------------------------------------------------------------- stored results and cursors

    def _encode_result(self, name: str, codec: Codec, value: Any) -> Any:
        try:
            return codec.encode(codec.check(value))
        except InvalidValue as invalid:
            problems = "; ".join(str(problem.under("result").without_value()) for problem in invalid.problems)
            raise ResultTypeError(
                f"{self._owner}.{name}: expected to return {codec.label}, got {type(value).__name__} ({problems}). "
                "Change the return value or the annotation."
            ) from None
        except NotSerializable as error:
            reason = error.about(f"the return annotation of the step {self._owner}.{name}", is_result=True)
            raise self._error(
                name,
                f"returned a value that cannot be stored for the next attempt: {reason}. Return plain JSON, annotate "
                "the return type, or return None.",
            ) from None

    def _decode_result(self, name: str, codec: Codec, stored: KeptStep) -> Any:
        try:
            return codec.decode(self._decrypt(name, stored.value, "value"))
        except InvalidValue:
            raise self._error(
                name,
                f"has a stored result that does not match the return annotation {codec.label}. Restore the earlier "
                "annotation, or start over with ticket.retry(from_start=True).",
            ) from None

    def _encrypt(self, value: Any, column: str) -> Any:
        if value is None:
            return None
        return encrypt_result(self._call.contract, {"value": value}, self._record_name, self._call.id, column)

    def _decrypt(self, name: str, envelope: Any, column: Literal["cursor", "value"]) -> Any:
        if envelope is None:
            return None
        try:
            entry = decrypt(self._record_name, envelope, self._call.id, f"{column} of {name}")
            if not is_envelope(entry):
                raise self._error(
                    name,
                    f"has an unreadable stored {column}: expected JSON with the entry 'value'. Restore the "
                    "row in operation_steps and retry, or start over with ticket.retry(from_start=True).",
                )
            return entry["value"]
        except (StepError, *DECRYPT_ERRORS) as error:
            if self._claim is not None:
                self._claim.decryption_error = error
            raise


def _do_nothing(_connection: object) -> None:
    return None


def _steps_of(call: Call, name: str) -> DurableSteps:
    """Return the steps of a run; they are created at its first step."""
    owner = call.contract.cls.__qualname__
    if not call.unit_of_work.is_own_thread:
        raise StepError(
            owner,
            name,
            "was started on the event loop, which its commit would block. "
            "Write: await self.in_session(lambda session: self.step(self.method)).",
        )

    def begin() -> DurableSteps:
        record, claim = call.contract.record, claim_of(call)
        if record is None or not record.params:
            setting = "record = False" if record is None else "record = Recording(params=False)"
            raise StepError(
                owner, name, f"needs a record for its checkpoint, but the class declares {setting}. Remove that."
            )
        if claim is None and call.cancel_token is not None and call.outer is None:
            raise StepError(
                owner,
                name,
                "needs a record for its checkpoint, but this worker has no database. Configure one in its settings.",
            )
        return DurableSteps(call, claim)

    return call.once_per_run(DurableSteps, begin)


def _step_method(call: Call, method: Any) -> tuple[str, Codec]:
    """Return the name of a step, and the codec of its result.

    Raises:
        OptionsError: It is not a plain method of the operation.
    """
    owner = call.contract.cls.__qualname__
    name: str | None = getattr(method, "__name__", None)
    if not inspect.ismethod(method) or method.__self__ is not call.operation or name is None:
        raise OptionsError(
            f"{owner}.step: expected a method of the operation, which has a name, got {method!r}. "
            "Write: self.step(self.method)."
        )
    if inspect.iscoroutinefunction(method):
        raise OptionsError(f"{owner}.step(self.{name}): expected a plain method, got an async def. Write `def {name}`.")
    annotation = method.__func__.__annotations__.get("return", Any)
    base: type = next(base for base in call.contract.cls.__mro__ if name in vars(base))
    return name, codec_of(resolve_annotation(annotation, base, f"{base.__qualname__}.{name}"))
