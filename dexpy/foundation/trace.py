"""Who called whom: a frame that travels with the run, through threads of asyncio and to the worker.

Every run has a frame. A run inside another run carries on its trace; a run in a worker carries on that of its caller.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import attrs

from dexpy.foundation.context import travelling
from dexpy.foundation.errors import OptionsError
from dexpy.foundation.ids import new_id

MAX_LENGTH = 64
"""Characters of a trace's id, and of an actor's type, that a record keeps."""


@attrs.frozen
class Frame:
    """Where we are in the tree of runs.

    Attributes:
        trace_id: The tree's id, ``tr_...`` or one from outside.
        actor: Who set it off: a mapping with ``type`` and whatever else names them.
        stack: The runs from the outermost to this one, as (run id, operation name).
        context: The ambient values that travel with the run.
    """

    trace_id: str
    actor: Mapping[str, Any] | None = None
    stack: tuple[tuple[str, str], ...] = ()
    context: Mapping[str, Any] = attrs.field(factory=dict[str, Any])

    @property
    def run_id(self) -> str | None:
        """The innermost run, if any."""
        return self.stack[-1][0] if self.stack else None

    @property
    def operation(self) -> str | None:
        """The name of the innermost run's operation, if any."""
        return self.stack[-1][1] if self.stack else None

    def child(self, run_id: str, operation: str) -> Frame:
        """The frame of a run started here."""
        return Frame(self.trace_id, self.actor, (*self.stack, (run_id, operation)), travelling())

    def to_dict(self) -> dict[str, Any]:
        """The frame as JSON, for a message or a row."""
        written: dict[str, Any] = {
            "id": self.trace_id,
            "actor": dict(self.actor) if self.actor is not None else None,
            "stack": [list(entry) for entry in self.stack],
        }
        return {**written, "context": dict(self.context)} if self.context else written

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Frame:
        """The frame that `to_dict` wrote."""
        trace_id = data["id"]
        stack = tuple((run, name) for run, name in data.get("stack", ()))
        return cls(trace_id, data.get("actor"), stack, dict(data.get("context") or {}))


_current: ContextVar[Frame | None] = ContextVar("dexpy_frame", default=None)


def current_frame() -> Frame:
    """The frame in force, or a new one with a trace of its own."""
    return _current.get() or Frame(new_id("tr"))


def enter_frame(frame: Frame) -> Any:
    """Put a frame in force; the answer goes to `leave_frame`."""
    return _current.set(frame)


def leave_frame(token: Any) -> None:
    """Put the frame before it in force again."""
    _current.reset(token)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_LENGTH


def _checked(actor: object) -> dict[str, Any]:
    """An actor as a frame keeps it: a copy, fit for records and messages."""
    given = dict(cast("Mapping[str, Any]", actor)) if isinstance(actor, Mapping) else {}
    if not _is_text(given.get("type")):
        raise OptionsError(
            f'trace(actor={actor!r}) wants a mapping with a non-empty "type". '
            'Write trace(actor={"type": "user", "id": 7}).'
        )
    try:
        copy: dict[str, Any] = json.loads(json.dumps(given, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise OptionsError(f"trace(actor=...) wants JSON, to go into records and messages: {error}.") from None
    return copy


@contextmanager
def trace(*, actor: Mapping[str, Any] | None = None, trace_id: str | None = None) -> Generator[Frame, None, None]:
    """Name the actor and the trace of what is called inside the block.

    Args:
        actor: A JSON object with a non-empty ``type``: ``{"type": "user", "id": 7}``.
        trace_id: An id from outside, of a request for one; the one in force, or a new one, when left out.

    Raises:
        OptionsError: The actor has no type or is no JSON, the trace's id is no str or too long for a record.

    Example:
        >>> with trace(actor={"type": "user", "id": 7}, trace_id="req-1") as frame:
        ...     frame.trace_id
        'req-1'
    """
    if trace_id is not None and not _is_text(trace_id):
        raise OptionsError(f"trace(trace_id={trace_id!r}) wants a str of 1 to {MAX_LENGTH} characters.")
    outer = _current.get()
    frame = Frame(
        trace_id or (outer.trace_id if outer else new_id("tr")),
        _checked(actor) if actor is not None else (outer.actor if outer else None),
        outer.stack if outer else (),
    )
    token = _current.set(frame)
    try:
        yield frame
    finally:
        _current.reset(token)
