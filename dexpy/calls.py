"""Calls in place: how `call`, `acall` and `safe` begin a run here, and what they give back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from dexpy.background.enqueue import Performs, PerformsAsync
from dexpy.declaration.contract import Contract
from dexpy.execution import start
from dexpy.execution.call import current as current_call
from dexpy.execution.coroutines import Desk, alone, in_thread, running_loop
from dexpy.foundation.errors import Error, NotRunning, OptionsError
from dexpy.foundation.ids import new_id
from dexpy.foundation.outcome import Err, Ok, Outcome
from dexpy.foundation.trace import current_frame
from dexpy.recording.ambient import ambient
from dexpy.runtime import current_runtime

if TYPE_CHECKING:
    from typing import Self

    from dexpy.execution.scope import Scope

R = TypeVar("R")


def run(operation: Any) -> Outcome:
    """Run an operation in this thread.

    Raises:
        NotRunning: It would block the running event loop, which its `perform` needs.
    """
    contract: Contract = operation.contract
    if contract.is_async and running_loop() is not None:
        raise NotRunning(
            f"{contract.cls.__qualname__}().call() would block the running event loop, on which its perform has to "
            "run. Write: await op.acall()."
        )
    return _start(operation, contract)


async def run_async(operation: Any) -> Outcome:
    """Run an operation beside the running event loop: an ``async def perform`` on it, everything else in a thread."""
    contract: Contract = operation.contract
    loop = asyncio.get_running_loop()
    desk = Desk() if contract.is_async else None
    scopes: list[Scope] = []

    def begin() -> Outcome:
        return _start(operation, contract, loop, desk, scopes.append)

    def cancel() -> None:
        for scope in scopes:
            scope.cancel()
        if desk is not None:
            desk.cancel()

    outer = current_call.get()
    if outer is not None and outer.desk is not None:
        # Inside another run: in its thread and transaction.
        return await outer.desk.hand_in(begin, cancel)
    return await in_thread(alone(begin), cancel)


def _start(
    operation: Any,
    contract: Contract,
    loop: asyncio.AbstractEventLoop | None = None,
    desk: Desk | None = None,
    on_scope: Callable[[Scope], None] | None = None,
) -> Outcome:
    runtime = current_runtime()
    run_id = new_id("op")
    frame = current_frame().child(run_id, contract.name)
    redactor = start.redactor_for(operation, contract, runtime.redactor)
    return start.run(
        operation,
        contract,
        id=run_id,
        frame=frame,
        recorder=runtime.recorder(operation, contract, run_id, frame, redactor),
        redactor=redactor,
        store=runtime.session_store,
        outer=ambient(),
        loop=loop,
        desk=desk,
        on_scope=on_scope,
    )


def value_of(operation: Any, outcome: Outcome) -> Any:
    """The value of an `Ok`.

    Raises:
        Error: It is an `Err`.
    """
    if isinstance(outcome, Ok):
        return outcome.value
    name: str = outcome.operation or operation.contract.name
    raise Error(outcome.code, outcome.message, details=outcome.details, operation=name)


class BoundSafe(Generic[R]):
    """What ``op.safe`` is: the same call, with `Ok` or `Err` for an answer."""

    def __init__(self, operation: Any) -> None:
        self._operation = operation

    def call(self) -> Ok[R] | Err:
        """Run the operation.

        Returns:
            `Ok` with the result, or `Err` with the business error or refusal. Crashes are raised.
        """
        return run(self._operation)

    async def acall(self) -> Ok[R] | Err:
        """`call` for asyncio."""
        return await run_async(self._operation)

    if not TYPE_CHECKING:

        @property
        def async_(self) -> Any:
            """Refused, with what to do instead."""
            raise OptionsError(
                f"{type(self._operation).__qualname__}.safe has no async_: nothing has run yet when an enqueue "
                "returns. Write async_().call() and ask the ticket: ticket.wait(timeout) gives Ok or Err."
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
