"""Exceptions that survive pickle and copy, whatever arguments their ``__init__`` has."""

from __future__ import annotations

import contextlib
from types import WrapperDescriptorType
from typing import Any, cast


class PicklableError:
    """Lets an exception survive pickle and copy unchanged, whatever arguments its ``__init__`` has.

    Pickle would call ``__init__`` with the text. This restores text and attributes without a call of it.
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
    """Return an exception with these args, by the ``__init__`` of the built-in class beneath it.

    Args:
        cls: Its class.
        args: The `args` of a `BaseException`.
        cause: Its ``__cause__``, pickled.
    """
    error = cls.__new__(cls, *args)
    constructors = [vars(base).get("__init__") for base in cls.__mro__]
    next(init for init in constructors if isinstance(init, WrapperDescriptorType))(error, *args)
    if cause is not None:
        import pickle

        # A class that the other process does not have takes only the cause with it.
        with contextlib.suppress(Exception):
            error.__cause__ = pickle.loads(cause)  # noqa: S301 - a part of what is unpickled already
    return error


def _pickled(cause: BaseException | None) -> bytes | None:
    """Return a cause on its own, so that one that does not pickle is left out and nothing else."""
    if cause is None:
        return None
    import pickle

    try:
        return pickle.dumps(cause)
    except Exception:  # noqa: BLE001 - pickle raises what the classes of others raise
        return None


def _state(error: BaseException) -> dict[str, Any]:
    """Attributes and notes, as `BaseException.__setstate__` takes them."""
    state: Any = object.__getstate__(error)
    # A pair where a class has slots.
    states = cast("tuple[dict[str, Any] | None, ...]", state if isinstance(state, tuple) else (state,))
    merged: dict[str, Any] = {"__suppress_context__": error.__suppress_context__}
    for state_part in states:
        merged |= state_part or {}
    return merged
