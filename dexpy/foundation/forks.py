"""Copies of this process that a run has forked: one ends where it would go on in dexpy's own code.

It has the run's claim, its transaction and its connections, which belong to the process that was forked.
"""

from __future__ import annotations

import collections.abc
import functools
import os
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, ParamSpec, TypeVar

from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event

P = ParamSpec("P")
T = TypeVar("T")


def leave_if_forked(pid: int, error: BaseException | None = None) -> None:
    """End this process if it is a copy.

    Args:
        pid: Of the process in which the run began.
        error: With which the copy comes out of the application's code.
    """
    if os.getpid() != pid:
        _leave(error)


def _leave(error: BaseException | None) -> NoReturn:
    """Exit at once: no buffer is flushed, nothing is sent to a server, and no handler of the parent runs."""
    status = 0
    try:
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif error is not None and not isinstance(error, StopIteration):
            # StopIteration is how a coroutine returns.
            status = 1
            facts = {"pid": os.getpid(), "error": type(error).__name__}
            log_event(
                LogEvent.FORK_FAILED,
                **facts,
                advice="a forked child ends where it leaves perform; start a new interpreter instead",
            )
    finally:
        os._exit(status & 0xFF)


def run_contained(pid: int, function: Callable[..., T], *arguments: Any) -> T:
    """Call a piece of user code; only the process in which the run began comes back.

    Args:
        pid: Of that process.
        function: The user code.
        arguments: For it.
    """
    if os.getpid() != pid:
        _leave(None)
    try:
        result = function(*arguments)
    except BaseException as error:
        leave_if_forked(pid, error)
        raise
    finally:
        # An error that is thrown into a coroutine is among them, and its traceback has this frame.
        del function, arguments
    if os.getpid() != pid:
        _leave(None)
    return result


def in_this_process(function: Callable[P, T]) -> Callable[P, T]:
    """Have only the process that calls a function come out of it."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_contained(os.getpid(), functools.partial(function, *args, **kwargs))

    return call


class ContainedCoroutine(collections.abc.Coroutine[Any, Any, T]):
    """A coroutine that continues in the process in which it began, and exits a copy at the first await.

    Args:
        coroutine: The user's.
        pid: Of the process.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], pid: int) -> None:
        self._coroutine = coroutine
        self._pid = pid

    def send(self, value: Any) -> Any:
        """Go on to the next await."""
        return run_contained(self._pid, self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        """Raise something where it waits."""
        try:
            return run_contained(self._pid, self._coroutine.throw, *error)
        finally:
            del error

    def close(self) -> None:
        """End it where it waits."""
        self._coroutine.close()

    def __getattr__(self, name: str) -> Any:
        # ``cr_frame``, ``cr_running`` and others, for tools that inspect a task.
        return getattr(self._coroutine, name)

    def __await__(self) -> Any:
        return self._coroutine.__await__()
