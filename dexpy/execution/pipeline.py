"""The pipeline: runs an operation through the middleware of its class, which is composed once per class."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

from dexpy.declaration.contract import Contract
from dexpy.declaration.props import copy_props, decode_props
from dexpy.execution.async_bridge import ThreadBridge
from dexpy.execution.call import Call, current
from dexpy.execution.middleware import (
    callbacks,
    guard,
    lock,
    once,
    perform,
    record,
    refs,
    rescue,
    result,
    trace,
    transaction,
)
from dexpy.execution.pipeline_edits import INNERMOST, Middleware, Pipeline, Proceed, apply_edits, validated
from dexpy.execution.unit_of_work import UnitOfWork
from dexpy.foundation.forks import run_contained
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event, run_redactor
from dexpy.foundation.outcome import Err, Outcome
from dexpy.foundation.redaction import Redactor
from dexpy.foundation.trace import Frame
from dexpy.recording.encryption import ENCRYPTED, check_encryptable, decrypt

if TYPE_CHECKING:
    from dexpy.database.current_transaction import CurrentTransaction
    from dexpy.execution.cancellation import CancelToken
    from dexpy.recording.recorder import Recorder
    from dexpy.recording.store import Store

DEFAULT_PIPELINE: tuple[Middleware, ...] = (
    Middleware("trace", trace.run, in_dry_run=True),
    Middleware("result", result.run),
    Middleware("once", once.run, once.needed, once.explain),
    Middleware("lock", lock.run, lock.needed, lock.explain),
    Middleware("record", record.run, explain=record.explain),
    Middleware("rescue", rescue.run, rescue.needed, rescue.explain),
    Middleware("transaction", transaction.run, explain=transaction.explain),
    Middleware("refs", refs.run, refs.needed, in_dry_run=True),
    Middleware("guard", guard.run, guard.needed, guard.explain, in_dry_run=True),
    Middleware("callbacks", callbacks.run, callbacks.needed, callbacks.explain),
)
"""trace > result > once > lock > record > rescue > transaction > refs > guard > callbacks, and `perform` inside."""

_pipelines: WeakKeyDictionary[Any, Pipeline] = WeakKeyDictionary()
_composed: WeakKeyDictionary[Any, Proceed] = WeakKeyDictionary()


def run(
    operation: Any,
    contract: Contract,
    *,
    id: str,
    frame: Frame,
    recorder: Recorder | None,
    redactor: Redactor,
    store: Callable[[], Store],
    outer: CurrentTransaction | None,
    attempt: int = 1,
    loop: asyncio.AbstractEventLoop | None = None,
    bridge: ThreadBridge | None = None,
    on_unit_of_work: Callable[[UnitOfWork], None] | None = None,
    cancel_token: CancelToken | None = None,
) -> Outcome:
    """Run an operation in this thread.

    Args:
        operation: The operation; the run gets a copy.
        contract: The contract of its class.
        id: The run's id.
        frame: The run's frame.
        recorder: Writes its record; None when it is not recorded.
        redactor: Redacts its secrets.
        store: Returns the store when a session is needed.
        outer: The transaction to join, if any.
        attempt: The number of the attempt.
        loop: The event loop for an ``async def perform``; the process's own when None.
        bridge: The bridge of an ``async def perform``, if the caller may cancel it.
        on_unit_of_work: Called with the unit of work before the run begins.
        cancel_token: Cancels, interrupts or times out the run; that of the outer run when None.

    Returns:
        The outcome. Exceptions other than business errors are raised.
    """
    outer_call = current.get()
    is_dry_run = outer_call is not None and outer_call.is_dry_run
    if is_dry_run:
        recorder = None
    on_rollback = None if recorder is None else recorder.effects_rolled_back
    if cancel_token is None and outer_call is not None:
        cancel_token = outer_call.cancel_token
    unit_of_work = UnitOfWork(
        contract.cls.__qualname__, store, outer, contract.transactional, on_rollback, cancel_token
    )
    if on_unit_of_work is not None:
        on_unit_of_work(unit_of_work)
    if bridge is None and contract.is_async:
        bridge = ThreadBridge()
    copy = copy_operation(operation, contract)
    call = Call(
        copy,
        contract,
        id,
        frame,
        unit_of_work,
        recorder,
        redactor,
        attempt,
        loop,
        bridge,
        outer_call,
        cancel_token,
        is_dry_run,
    )
    if cancel_token is not None and bridge is not None:
        cancel_token.on_cancel(bridge.cancel)
    token = run_redactor.set(redactor)
    try:
        outcome = run_contained(call.pid, _run_pipeline, call)
    except BaseException:
        if outer_call is not None:
            outer_call.redactor.learn(redactor)
        raise
    finally:
        run_redactor.reset(token)
    if outer_call is not None and isinstance(outcome, Err):
        outer_call.redactor.learn(redactor)
    return outcome


def _run_pipeline(call: Call) -> Outcome:
    """Run a call through the pipeline of its class.

    Returns:
        The outcome. Exceptions other than business errors are raised.
    """
    proceed = _composed.get(call.contract)
    if proceed is None:
        pipeline = pipeline_of(call.contract)
        proceed = _composed[call.contract] = compose(pipeline, pipeline.active, call.contract, perform.run)
    return proceed(call)


def copy_operation(operation: Any, contract: Contract) -> Any:
    """Return a copy of an operation for one run, so that the run does not change the original."""
    copy: Any = object.__new__(operation.__class__)
    source_values: dict[str, Any] = operation.__dict__
    values: dict[str, Any] = copy.__dict__
    for prop in contract.props:
        values[prop.name] = source_values[prop.name]
    if contract.mutable_props:
        values.update(copy_props(contract.cls.__qualname__, contract.mutable_props, source_values))
    return copy


def decode_operation(contract: Contract, params: Any, run_id: str) -> Any:
    """Return the operation of stored params.

    Raises:
        EncryptorMissing: The params or the result are encrypted, and this process has no encryptor for them.
        DecryptionFailed: The decryption of the params failed.
        Undecodable: The params no longer match the props of the class.
        PropsError: The params violate a constraint.
    """
    if contract.encrypted_props or (isinstance(params, Mapping) and ENCRYPTED in params):
        params = _decrypt_params(contract, cast("Mapping[str, Any]", params), run_id)
    values, ignored = decode_props(contract.cls.__qualname__, contract.props, params)
    if ignored:
        log_event(LogEvent.PARAMS_IGNORED, operation=contract.name, run_id=run_id, keys=",".join(ignored))
    return contract.cls(**values)


def _decrypt_params(contract: Contract, params: Mapping[str, Any], run_id: str) -> Any:
    if contract.encrypted_props:
        # The result must be encrypted too: a missing encryptor must raise before the run.
        check_encryptable(contract)
    return decrypt(contract.name, params, run_id, "params") if ENCRYPTED in params else params


def redactor_for(operation: Any, contract: Contract, base: Redactor) -> Redactor:
    """Return a redactor for one run, with the sensitive values of the operation and of the outer run."""
    outer = current.get()
    base = base if outer is None else outer.redactor
    if not contract.sensitive_props:
        return Redactor(base.secrets, base.custom)
    source_values: dict[str, Any] = operation.__dict__
    return base.knowing(source_values[name] for name in contract.sensitive_props)


def pipeline_of(contract: Contract) -> Pipeline:
    """Return the pipeline of a class.

    Raises:
        DeclarationError: Its `pipeline` is invalid.
    """
    pipeline = _pipelines.get(contract)
    if pipeline is None:
        pipeline = _pipelines[contract] = apply_edits(DEFAULT_PIPELINE, contract)
    return pipeline


def middleware_of(contract: Contract) -> dict[str, bool]:
    """Return the names in the pipeline of a class, outermost first, and whether each is active."""
    pipeline = pipeline_of(contract)
    is_active = {
        middleware.name: middleware.name not in pipeline.removed and middleware.needed(contract)
        for middleware in pipeline.middleware
    }
    return {**is_active, INNERMOST: True}


def dry_run_pipeline(call: Call, innermost: Proceed, *, without: str | None = None) -> Outcome:
    """Run a call through the middleware that a dry run needs, and roll back its effects.

    Args:
        call: A call of a dry run.
        innermost: Called instead of `perform`.
        without: The name of a middleware that is left out.

    Returns:
        What *innermost* returned, or the `Err` that a run would be refused with.
    """
    pipeline = pipeline_of(call.contract)
    layers = tuple(middleware for middleware in pipeline.active if middleware.in_dry_run and middleware.name != without)
    with call.unit_of_work.entered():
        try:
            return compose(pipeline, layers, call.contract, innermost)(call)
        finally:
            call.unit_of_work.rollback()


def compose(pipeline: Pipeline, layers: tuple[Middleware, ...], contract: Contract, innermost: Proceed) -> Proceed:
    """Compose the middleware of a class around the innermost function; the first one is outermost."""
    transaction_index = pipeline.names.index("transaction")

    def around(middleware: Middleware, inner: Proceed) -> Proceed:
        run: Callable[..., Outcome] = middleware.run
        if middleware.name in pipeline.custom:
            run = validated(middleware, is_outside=pipeline.names.index(middleware.name) < transaction_index)
        return partial(run, proceed=inner)

    for middleware in reversed(layers):
        if middleware.needed(contract):
            innermost = around(middleware, innermost)
    return innermost
