"""Traces: a frame is propagated with each run, across asyncio threads and to the worker.

Each run has a frame. A nested run continues the trace of the enclosing run; a run in a worker, that of its caller.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, TypeGuard, cast

import attrs

from dexpy.foundation.context import check_no_secrets, context_scope
from dexpy.foundation.errors import OptionsError
from dexpy.foundation.ids import new_id
from dexpy.foundation.safe_text import CONTROL_CHARACTERS, is_plain_text, storable, text_of
from dexpy.foundation.scoped_values import ScopedValue

MAX_LENGTH = 64
"""The maximum length of the id of a trace and the type of an actor, in characters."""
MAX_NAME_LENGTH = 255
"""The maximum length of names of operations, actors and queues, and of ids of actors and messages."""
MAX_ACTOR_LENGTH = 64_000
"""The maximum length of an actor as JSON, which is stored with each run of the trace."""
MAX_ACTOR_LEVELS = 16
"""The maximum levels of nesting of an actor."""

MAX_ANCESTORS = 200
"""The maximum number of enclosing runs in a frame; tasks that start each other have longer stacks."""
PARENT_LENGTH = 2
"""The length of a stack of a run and its parent."""


@attrs.frozen
class Frame:
    """The position in the tree of runs.

    Attributes:
        trace_id: The tree's id, ``tr_...`` or one from outside.
        actor: The user or service that started the tree: a mapping with ``type`` and other fields.
        stack: The enclosing runs and this one, the outermost first, as (run id, operation name). In a worker it has
            only the run and its parent.
        context: The context values that are propagated with the run.
    """

    trace_id: str
    actor: Mapping[str, Any] | None = None
    stack: tuple[tuple[str, str], ...] = ()
    context: Mapping[str, Any] = attrs.field(factory=dict[str, Any])

    @property
    def run_id(self) -> str | None:
        """The id of the innermost run, if any."""
        return self.stack[-1][0] if self.stack else None

    @property
    def operation(self) -> str | None:
        """The name of the operation of the innermost run, if any."""
        return self.stack[-1][1] if self.stack else None

    def child(self, run_id: str, operation: str) -> Frame:
        """Return the frame of a run started here.

        Raises:
            SensitiveInTransit: A propagated context value belongs to a sensitive prop.
        """
        ancestors = self.stack if len(self.stack) < MAX_ANCESTORS else self.stack[1 - MAX_ANCESTORS :]
        propagated = context_scope.innermost().value.propagated
        if propagated:
            check_no_secrets(propagated)
        return Frame(self.trace_id, self.actor, (*ancestors, (run_id, operation)), propagated)

    def in_background(self) -> Frame:
        """Return the frame for a worker, with the parent run instead of all ancestors.

        Otherwise the stack of runs that enqueue their successor would grow without limit.
        """
        return self if len(self.stack) <= PARENT_LENGTH else attrs.evolve(self, stack=self.stack[-PARENT_LENGTH:])

    def to_dict(self) -> dict[str, Any]:
        """Return the frame as JSON, for a message or a row."""
        written: dict[str, Any] = {
            "id": self.trace_id,
            "actor": dict(self.actor) if self.actor is not None else None,
            "stack": list(map(list, self.stack)),
        }
        return {**written, "context": dict(self.context)} if self.context else written

    def columns(self) -> dict[str, Any]:
        """Return the columns of a record that store the position of its run in the tree."""
        actor = dict(self.actor) if self.actor is not None else {}
        actor_id = actor.get("id")
        return {
            "trace_id": self.trace_id[:MAX_LENGTH],
            "trace": self.to_dict(),
            "parent_id": self.stack[-2][0] if len(self.stack) > 1 else None,
            "actor_type": str(actor["type"])[:MAX_LENGTH] if actor else None,
            "actor_id": None if actor_id is None else str(actor_id)[:MAX_NAME_LENGTH],
        }

    @classmethod
    def restored(cls, data: Any, trace_id: str | None) -> Frame:
        """Restore the frame of a run in a worker; for invalid data a new frame of the same trace.

        Args:
            data: The result of `to_dict`; an invalid value does not fail the run.
            trace_id: The id of the trace, if it is stored separately.
        """
        try:
            frame = cls._from_dict(data)
        except (KeyError, TypeError, ValueError, AttributeError):
            frame = None
        return frame.in_background() if frame is not None and frame._is_valid() else cls(trace_id or new_id("tr"))

    def _is_valid(self) -> bool:
        """Return whether records of nested runs can store the frame."""
        if not is_name(self.trace_id, MAX_LENGTH):
            return False
        for run_id, name in self.stack:
            if not (is_name(run_id, MAX_NAME_LENGTH) and is_name(name, MAX_NAME_LENGTH)):
                return False
        actor: object = self.actor
        type_ = self.actor.get("type") if isinstance(self.actor, dict) else None
        return actor is None or is_name(type_, MAX_LENGTH)

    @classmethod
    def _from_dict(cls, data: Mapping[str, Any]) -> Frame:
        trace_id = data["id"]
        stack: list[tuple[str, str]] = []
        for run, name in data.get("stack", ()):
            stack.append((run, name))
        return cls(trace_id, data.get("actor"), tuple(stack), dict(data.get("context") or {}))


def is_name(value: object, max_length: int) -> TypeGuard[str]:
    """Return whether a value is a valid id or name: 1 to `max_length` characters that databases and logs accept."""
    return isinstance(value, str) and 0 < len(value) <= max_length and CONTROL_CHARACTERS.search(value) is None


frame_scope: ScopedValue[Frame | None] = ScopedValue("dexpy_frame", None)
"""The current frame; None outside of all runs and traces."""


def current_frame() -> Frame:
    """Return the current frame, or a new one with a new trace."""
    return frame_scope.innermost().value or Frame(new_id("tr"))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_LENGTH and is_plain_text(text_of(value))


def _validated_actor(actor: Any) -> dict[str, Any]:
    """Return a copy of an actor that records and messages can store."""
    try:
        text = repr(actor)
        values = dict(cast("Mapping[str, Any]", actor)) if isinstance(actor, Mapping) else {}
        has_type = _is_text(values.get("type"))
        written = json.dumps(values, allow_nan=False) if has_type else "{}"
        copy: dict[str, Any] = json.loads(written)
    except Exception as error:  # noqa: BLE001 - an application's mapping may raise anything
        raise OptionsError(f"trace(actor=...): expected JSON: {storable(text_of(error), 200)}.") from None
    if not has_type:
        raise OptionsError(
            f'trace(actor={text}): expected a mapping with a non-empty "type". '
            'Write trace(actor={"type": "user", "id": 7}).'
        )
    if len(written) > MAX_ACTOR_LENGTH or not _is_storable(copy, MAX_ACTOR_LEVELS):
        raise OptionsError(
            f"trace(actor=...): invalid for a record; expected at most {MAX_ACTOR_LENGTH} characters of JSON "
            f"and {MAX_ACTOR_LEVELS} levels, without NUL and lone surrogates. Pass the ids that identify the actor."
        )
    return copy


def _is_storable(value: Any, levels: int) -> bool:
    if isinstance(value, str):
        return is_plain_text(value)
    if isinstance(value, (dict, list)):
        container = cast("dict[str, Any] | list[Any]", value)
        items = [*container, *container.values()] if isinstance(container, dict) else container
        return levels > 0 and all(_is_storable(item, levels - 1) for item in items)
    return True


@contextmanager
def trace(*, actor: Mapping[str, Any] | None = None, trace_id: str | None = None) -> Generator[Frame, None, None]:
    """Set the actor and the trace of the runs inside the block.

    Args:
        actor: A JSON object with a non-empty ``type``: ``{"type": "user", "id": 7}``.
        trace_id: An external id, for example of a request. Default: the current id, or a new one.

    Raises:
        OptionsError: The actor has no type or is not JSON, or the id of the trace is invalid.

    Example:
        >>> with trace(actor={"type": "user", "id": 7}, trace_id="req-1") as frame:
        ...     frame.trace_id
        'req-1'
    """
    if trace_id is not None and not _is_text(trace_id):
        raise OptionsError(f"trace(trace_id={trace_id!r}): expected a str of 1 to {MAX_LENGTH} characters.")
    outer = frame_scope.innermost().value
    frame = Frame(
        trace_id or (outer.trace_id if outer else new_id("tr")),
        _validated_actor(actor) if actor is not None else (outer.actor if outer else None),
        outer.stack if outer else (),
    )
    block = frame_scope.enter(frame)
    try:
        yield frame
    finally:
        frame_scope.leave(block)
