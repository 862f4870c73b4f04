"""`Call`: the data of one run, passed through the pipeline, and the current run of an operation."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from dexpy.declaration.contract import Contract
from dexpy.foundation.errors import NotRunning
from dexpy.foundation.redaction import Redactor
from dexpy.foundation.trace import Frame

if TYPE_CHECKING:
    import asyncio

    from sqlalchemy.orm import Session

    from dexpy.execution.async_bridge import ThreadBridge
    from dexpy.execution.cancellation import CancelToken
    from dexpy.execution.unit_of_work import UnitOfWork
    from dexpy.recording.recorder import Recorder


T = TypeVar("T")


@attrs.frozen(eq=False)
class Call:
    """One run of one operation.

    Attributes:
        operation: The run's own copy of the operation.
        contract: The contract of its class.
        id: The run's id.
        frame: Its position in the tree of runs.
        unit_of_work: Its session and transaction.
        recorder: Writes its record; None when it is not recorded.
        redactor: Redacts its secrets.
        attempt: The number of the attempt, from 1.
        loop: The event loop for an ``async def perform``; the process's own when None.
        bridge: Runs blocking work of the run's coroutines in the run's thread.
        outer: The run around this one, if any.
        cancel_token: Cancels, interrupts or times out the run; None if that is not possible.
        is_dry_run: Whether the call has no side effects, not even a record.
        pid: The process in which it began.
        objects: Objects that exist once for the run, by class; see `once_per_run`.
    """

    operation: Any
    contract: Contract
    id: str
    frame: Frame
    unit_of_work: UnitOfWork
    recorder: Recorder | None
    redactor: Redactor
    attempt: int = 1
    loop: asyncio.AbstractEventLoop | None = None
    bridge: ThreadBridge | None = None
    outer: Call | None = None
    cancel_token: CancelToken | None = None
    is_dry_run: bool = False
    pid: int = attrs.field(factory=os.getpid)
    objects: dict[type[Any], Any] = attrs.field(factory=dict[type[Any], Any], repr=False)

    @property
    def is_attempt(self) -> bool:
        """Whether a job runs it; the job decides what happens after a failure, and logs it."""
        return self.outer is None and self.cancel_token is not None

    @property
    def session(self) -> Session:
        """The run's session, begun at the first use; for middleware inside of ``transaction``.

        Raises:
            NotRunning: There is no transaction at this point.
        """
        return self.unit_of_work.session()

    def once_per_run(self, kind: type[T], make: Callable[[], T]) -> T:
        """Return the run's one object of a class, made at the first use."""
        instance: T | None = self.objects.get(kind)
        if instance is None:
            instance = self.objects[kind] = make()
        return instance


current: ContextVar[Call | None] = ContextVar("dexpy_call", default=None)
"""The innermost run."""


def call_of(operation: Any, member: str) -> Call:
    """Return the run of this operation object.

    Raises:
        NotRunning: The operation is not running in this context.
    """
    call = current.get()
    while call is not None and call.operation is not operation:
        call = call.outer
    if call is None:
        raise NotRunning(
            f"{type(operation).__qualname__}.{member}: available only during a run of this operation, in perform, a "
            "guard or a callback. Call the operation and use it there."
        )
    return call
