"""Exceptions that pickle and copy restore, with any signature of ``__init__``."""

from __future__ import annotations

import contextlib
from types import WrapperDescriptorType
from typing import Any, cast


class PicklableError:
    """A mixin of exceptions that pickle and copy restore unchanged, with any signature of ``__init__``.

    By default, pickle calls ``__init__`` with the text. The mixin restores the text and attributes without that call.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        error = cast("BaseException", self)
        return rebuild, (type(error), error.args, _pickled(error.__cause__)), _state(error)

    def __copy__(self) -> Any:
        error = cast("BaseException", self)
        copied = rebuild(type(error), error.args)
        copied.__cause__ = error.__cause__
        copied.__setstate__(_state(error))
        return copied


def rebuild(cls: type[BaseException], args: tuple[Any, ...], cause: bytes | None = None) -> Any:
    """Return an exception with these args, initialized by its built-in base class.

    Args:
        cls: The class of the exception.
        args: The `args` of a `BaseException`.
        cause: Its ``__cause__``, pickled.
    """
    error = cls.__new__(cls, *args)
    constructors = [vars(base).get("__init__") for base in cls.__mro__]
    next(init for init in constructors if isinstance(init, WrapperDescriptorType))(error, *args)
    if cause is not None:
        import pickle

        # If the other process does not have a class of the cause, only the cause is lost.
        with contextlib.suppress(Exception):
            error.__cause__ = pickle.loads(cause)  # noqa: S301 - a part of what is unpickled already
    return error


def _pickled(cause: BaseException | None) -> bytes | None:
    """Return a pickled cause; None for a cause that does not pickle."""
    if cause is None:
        return None
    import pickle

    try:
        return pickle.dumps(cause)
    except Exception:  # noqa: BLE001 - pickle raises what the classes of others raise
        return None


def _state(error: BaseException) -> dict[str, Any]:
    """Return attributes and notes for `BaseException.__setstate__`."""
    state: Any = object.__getstate__(error)
    # The state is a pair if a class has slots.
    states = cast("tuple[dict[str, Any] | None, ...]", state if isinstance(state, tuple) else (state,))
    merged: dict[str, Any] = {"__suppress_context__": error.__suppress_context__}
    for state_part in states:
        merged |= state_part or {}
    return merged
