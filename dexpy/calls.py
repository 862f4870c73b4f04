"""Calls in place: `call`, `acall` and `safe`, which run an operation in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from dexpy.database.current_transaction import current_transaction, transaction_scope
from dexpy.declaration import key_digests
from dexpy.declaration.contract import Contract
from dexpy.enqueue.current_dispatcher import Performs, PerformsAsync
from dexpy.enqueue.loaded_rows import copy_with_rows
from dexpy.execution import pipeline
from dexpy.execution.async_bridge import ThreadBridge, in_thread
from dexpy.execution.blocking_work import exclusive
from dexpy.execution.call import current as current_call
from dexpy.execution.event_loop import running_loop
from dexpy.foundation.errors import Error, NotRunning, OptionsError, RefNotFound
from dexpy.foundation.ids import new_id
from dexpy.foundation.outcome import Err, Ok, Outcome
from dexpy.foundation.stack_depth import require_stack
from dexpy.foundation.trace import current_frame
from dexpy.runtime import Runtime, current_runtime

if TYPE_CHECKING:
    from typing import Self

    from dexpy.execution.unit_of_work import UnitOfWork

R = TypeVar("R")


def run(operation: Any) -> Outcome:
    """Run an operation in this thread.

    Raises:
        NotRunning: It would block the running event loop, on which its `perform` must run.
    """
    contract: Contract = operation.contract
    if contract.is_async and running_loop() is not None:
        raise NotRunning(
            f"{contract.cls.__qualname__}().call() would block the running event loop, on which its perform must run. "
            "Write: await op.acall()."
        )
    return _start(operation, contract)


async def run_async(operation: Any) -> Outcome:
    """Run an operation from a running event loop: an ``async def perform`` on it, everything else in a thread."""
    contract: Contract = operation.contract
    require_stack(contract.cls.__qualname__)
    loop = asyncio.get_running_loop()
    bridge = ThreadBridge() if contract.is_async else None
    units_of_work: list[UnitOfWork] = []

    def begin() -> Outcome:
        return _start(operation, contract, loop, bridge, units_of_work.append)

    def cancel() -> None:
        for unit_of_work in units_of_work:
            unit_of_work.cancel()
        if bridge is not None:
            bridge.cancel()

    outer = current_call.get()
    if outer is not None and outer.bridge is not None and outer.bridge.is_in_process:
        # Inside another run it uses the thread and transaction of that run.
        return await outer.bridge.submit(begin, cancel)
    return await in_thread(exclusive(begin), cancel)


def _start(
    operation: Any,
    contract: Contract,
    loop: asyncio.AbstractEventLoop | None = None,
    bridge: ThreadBridge | None = None,
    on_unit_of_work: Callable[[UnitOfWork], None] | None = None,
) -> Outcome:
    runtime = current_runtime()
    if contract.has_background_key_functions:
        _check_background_keys(operation, contract, runtime)
    run_id = new_id("op")
    frame = current_frame().child(run_id, contract.name)
    redactor = pipeline.redactor_for(operation, contract, runtime.redactor)
    return pipeline.run(
        operation,
        contract,
        id=run_id,
        frame=frame,
        recorder=runtime.recorder(operation, contract, run_id, frame, redactor),
        redactor=redactor,
        store=runtime.open_store,
        outer=transaction_scope.innermost().value,
        loop=loop,
        bridge=bridge,
        on_unit_of_work=on_unit_of_work,
    )


def _check_background_keys(operation: Any, contract: Contract, runtime: Runtime) -> None:
    """Refuse an invalid key, although a call in place does not use it: a background run must not be the first to fail.

    Raises:
        OptionsError: A function of the class returned an invalid key.
    """
    for make in key_digests.background_keys(contract):
        try:
            make(operation, contract)
        except NotRunning:
            if not contract.references:
                raise
            # The run itself raises this error, so that `rescue_from` may handle it.
            with contextlib.suppress(RefNotFound):
                make(copy_with_rows(operation, contract, runtime.open_store(), current_transaction()), contract)


def value_of(operation: Any, outcome: Outcome) -> Any:
    """Return the value of an `Ok`.

    Raises:
        Error: The outcome is an `Err`.
    """
    if isinstance(outcome, Ok):
        return outcome.value
    name: str = outcome.operation or operation.contract.name
    raise Error(outcome.code, outcome.message, details=outcome.details, operation=name)


class BoundSafe(Generic[R]):
    """The value of ``op.safe``: the same call, which returns `Ok` or `Err`."""

    def __init__(self, operation: Any) -> None:
        self._operation = operation

    def call(self) -> Ok[R] | Err:
        """Run the operation.

        Returns:
            `Ok` with the result, or `Err` with the business error or refusal. Crashes are raised.
        """
        return run(self._operation)

    async def acall(self) -> Ok[R] | Err:
        """Run the operation from asyncio; see `call`."""
        return await run_async(self._operation)

    if not TYPE_CHECKING:

        @property
        def async_(self) -> Any:
            """Raise an error with the alternative."""
            raise OptionsError(
                f"{type(self._operation).__qualname__}.safe has no async_, because an enqueue returns before the run. "
                "Write async_().call() and use its ticket: ticket.wait(timeout) returns Ok or Err."
            )


class Safe:
    """The descriptor behind ``op.safe``."""

    if TYPE_CHECKING:

        @overload
        def __get__(self, obj: None, owner: Any) -> Self: ...
        @overload
        def __get__(self, obj: PerformsAsync[R], owner: Any) -> BoundSafe[R]: ...
        @overload
        def __get__(self, obj: Performs[R], owner: Any) -> BoundSafe[R]: ...
        def __get__(self, obj: Any, owner: Any) -> Any: ...

    else:

        def __get__(self, obj: Any, owner: Any) -> Any:
            return self if obj is None else BoundSafe(obj)
