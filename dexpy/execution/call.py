"""`Call`: the one value that travels inwards, and how a running operation finds its own."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import attrs

from dexpy.declaration.contract import Contract
from dexpy.foundation.errors import NotRunning
from dexpy.foundation.redaction import Redactor
from dexpy.foundation.trace import Frame

if TYPE_CHECKING:
    import asyncio

    from sqlalchemy.orm import Session

    from dexpy.execution.coroutines import Desk
    from dexpy.execution.scope import Scope
    from dexpy.execution.stop import Stop
    from dexpy.recording.recorder import Recorder


@attrs.frozen(eq=False)
class Call:
    """One run of one operation.

    Attributes:
        operation: The run's own copy of the operation.
        contract: What its class says.
        id: Of the run.
        frame: Where it is in the tree of runs.
        scope: Its session and transaction.
        recorder: Writes its row; None when it is not recorded.
        redactor: Knows its secrets.
        attempt: Which attempt this is, from 1.
        loop: The event loop for an ``async def perform``; the process's own when None.
        desk: Where coroutines of the run hand in work for the run's thread.
        outer: The run that this one is inside of, if any.
        stop: How somebody else ends the run; None where nobody can.
        is_rehearsal: Whether nothing of it is to be kept, not even a record.
    """

    operation: Any
    contract: Contract
    id: str
    frame: Frame
    scope: Scope
    recorder: Recorder | None
    redactor: Redactor
    attempt: int = 1
    loop: asyncio.AbstractEventLoop | None = None
    desk: Desk | None = None
    outer: Call | None = None
    stop: Stop | None = None
    is_rehearsal: bool = False

    @property
    def session(self) -> Session:
        """The run's session, begun at the first use; for steps inside of ``transaction``.

        Raises:
            NotRunning: There is no transaction at this point.
        """
        return self.scope.session()


current: ContextVar[Call | None] = ContextVar("dexpy_call", default=None)
"""The innermost run."""


def call_of(operation: Any, wanted: str) -> Call:
    """The run of this very operation object.

    Raises:
        NotRunning: It is not running here.
    """
    call = current.get()
    while call is not None and call.operation is not operation:
        call = call.outer
    if call is None:
        raise NotRunning(
            f"{type(operation).__qualname__}.{wanted} exists only inside a run of this operation: in perform, a guard "
            "or a callback. Call the operation, and use it there."
        )
    return call
