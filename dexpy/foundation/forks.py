"""Forks of this process by a run: a child process exits where it would continue in the code of dexpy.

It has copies of the claim, the transaction and the connections of the run, which belong to the parent process.
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
    """Exit this process if it is a forked child.

    Args:
        pid: The id of the process in which the run started.
        error: The exception that leaves the code of the application in the child, if any.
    """
    if os.getpid() != pid:
        _leave(error)


def _leave(error: BaseException | None) -> NoReturn:
    """Exit at once, without flushing buffers, sending to servers, or running handlers of the parent."""
    status = 0
    try:
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif error is not None and not isinstance(error, StopIteration):
            # A coroutine returns by StopIteration.
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
    """Call a function of the application; only the process in which the run started returns.

    Args:
        pid: The id of that process.
        function: The function.
        arguments: Its arguments.
    """
    if os.getpid() != pid:
        _leave(None)
    try:
        result = function(*arguments)
    except BaseException as error:
        leave_if_forked(pid, error)
        raise
    finally:
        # Also for errors that are thrown into a coroutine, whose traceback contains this frame.
        del function, arguments
    if os.getpid() != pid:
        _leave(None)
    return result


def in_this_process(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function from which only the calling process returns, and no forked child."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_contained(os.getpid(), functools.partial(function, *args, **kwargs))

    return call


class ContainedCoroutine(collections.abc.Coroutine[Any, Any, T]):
    """A coroutine that continues in the process in which it started, and exits a forked child at the first await.

    Args:
        coroutine: The coroutine of the application.
        pid: The id of the process.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], pid: int) -> None:
        self._coroutine = coroutine
        self._pid = pid

    def send(self, value: Any) -> Any:
        """Continue to the next await."""
        return run_contained(self._pid, self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        """Raise an exception at its current await."""
        try:
            return run_contained(self._pid, self._coroutine.throw, *error)
        finally:
            del error

    def close(self) -> None:
        """Close it at its current await."""
        self._coroutine.close()

    def __getattr__(self, name: str) -> Any:
        # ``cr_frame``, ``cr_running`` and others, for tools that inspect a task.
        return getattr(self._coroutine, name)

    def __await__(self) -> Any:
        return self._coroutine.__await__()
