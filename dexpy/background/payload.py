"""What a broker message carries: a record's id, or the params themselves.

The keyword arguments of the two actors are exactly these; everything else is in ``options["dexpy"]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import dramatiq

VERSION = 1
"""Of the form of messages."""

RECORD_JOB = "dexpy.RecordJob"
DIRECT_JOB = "dexpy.DirectJob"


@attrs.frozen
class RecordPayload:
    """Points to a record, which has everything else.

    Attributes:
        class_name: The operation's stable name.
        record_id: Of its row.
        trace_id: For the logs of whoever looks at the broker.
    """

    class_name: str
    record_id: str
    trace_id: str

    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments of the message."""
        return {"class_name": self.class_name, "record_id": self.record_id, "trace": {"id": self.trace_id}}


@attrs.frozen
class DirectPayload:
    """Carries the params, because there is no record that does.

    A direct run is lost when its message is lost: with a crash between a commit and the send, for one.

    Attributes:
        class_name: The operation's stable name.
        params: The props as JSON.
        trace: The frame as JSON.
        run_id: Of the run, the same in every attempt.
        attempt: Which attempt this will be, from 1.
        counts: Attempts so far for each retry rule.
        priority: Of its message: beside the payload, not in it.
    """

    class_name: str
    params: Mapping[str, Any]
    trace: Mapping[str, Any]
    run_id: str
    attempt: int = 1
    counts: Mapping[str, int] = attrs.field(factory=dict[str, int])
    priority: int = 0

    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments of the message."""
        return {"class_name": self.class_name, "params": dict(self.params), "trace": dict(self.trace)}

    def options(self) -> dict[str, Any]:
        """What ``options["dexpy"]`` says beside the version."""
        return {"id": self.run_id, "attempt": self.attempt, "counts": dict(self.counts)}


def record_message(payload: RecordPayload, queue: str, priority: int) -> dramatiq.Message[Any]:
    """The message of a recorded run."""
    return _message(RECORD_JOB, payload.kwargs(), queue, {"priority": priority} if priority else {})


def direct_message(payload: DirectPayload, queue: str) -> dramatiq.Message[Any]:
    """The message of a direct run."""
    return _message(DIRECT_JOB, payload.kwargs(), queue, payload.options())


def _message(actor: str, kwargs: dict[str, Any], queue: str, extra: dict[str, Any]) -> dramatiq.Message[Any]:
    options = {"dexpy": {"v": VERSION, **extra}}
    return dramatiq.Message(queue_name=queue, actor_name=actor, args=(), kwargs=kwargs, options=options)
