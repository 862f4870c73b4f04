"""Futures that pass a value or an error from a thread to a coroutine, and are always settled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from dexpy.foundation.safe_text import class_name

T = TypeVar("T")
RAISED = "StopIteration was raised; a coroutine cannot raise it"
NOT_ACCEPTED = "was raised; a future does not accept it"


def awaitable_errors(function: Callable[[], T]) -> Callable[[], T]:
    """Return a function for an executor that raises only errors that a future accepts."""

    def call() -> T:
        try:
            return function()
        except BaseException as error:
            accepted = _accepted(error)
            if accepted is error:
                raise
            raise accepted from error

    return call


def settle_with_error(future: Future[Any] | asyncio.Future[Any], error: BaseException) -> None:
    """Settle a future with an error; if the future does not accept it, with a `RuntimeError` that it caused.

    Args:
        future: A future that is not settled.
        error: The exception.
    """
    try:
        future.set_exception(_accepted(error) if asyncio.isfuture(future) else _no_stop_iteration(error))
    except BaseException:  # noqa: BLE001 - a class of the application's; the awaiting coroutine must get an error
        try:
            future.set_exception(_caused_by(error, f"{class_name(error)} {NOT_ACCEPTED}"))
        except BaseException:  # noqa: BLE001 - no memory or stack is left, for example: an error that needs neither
            if not future.done():
                future.set_exception(RuntimeError(f"An exception {NOT_ACCEPTED}"))


def _no_stop_iteration(error: BaseException) -> BaseException:
    # By type(): isinstance() reads __class__, which may raise for a class of the application.
    if issubclass(type(error), StopIteration):
        # In a coroutine StopIteration means that it has returned.
        return _caused_by(error, RAISED)
    return error


def _accepted(error: BaseException) -> BaseException:
    """Return an error that a coroutine can raise: with some exceptions of a task asyncio does not stop its loop."""
    if not _has_plain_class(error):
        return _caused_by(error, f"{class_name(error)} {NOT_ACCEPTED}")
    return _no_stop_iteration(error)


def _has_plain_class(error: BaseException) -> bool:
    """Return whether isinstance() works for an error: asyncio calls it in the callback that stops the loop."""
    for kind in type.__dict__["__mro__"].__get__(type(error)):
        if kind is not object and "__class__" in type.__dict__["__dict__"].__get__(kind):
            return False
    try:
        return error.__class__ is type(error)
    except BaseException:  # noqa: BLE001 - an application's __getattribute__ may raise anything
        return False


def _caused_by(error: BaseException, text: str) -> RuntimeError:
    wrapper = RuntimeError(text)
    with contextlib.suppress(BaseException):
        wrapper.__cause__ = error
    return wrapper


class Answer(Generic[T]):
    """A future of an event loop that copies the result of another future, which a thread settles.

    Call `pass_on` after that one is settled; repeated calls are allowed. No callback connects the two: asyncio only
    logs the errors of a callback, and the coroutine would never continue.

    Args:
        done: The future that another thread settles.
        loop: The event loop of the awaiting coroutine.
    """

    def __init__(self, done: Future[T], loop: asyncio.AbstractEventLoop) -> None:
        self.done = done
        self.future: asyncio.Future[T] = loop.create_future()
        self._loop = loop

    def pass_on(self) -> None:
        """Settle the future on its loop like the other one; do nothing if the loop is closed."""
        try:
            self._loop.call_soon_threadsafe(_settle_as, self.future, self.done)
        except RuntimeError:
            # RecursionError is a RuntimeError too.
            if not self._loop.is_closed():
                raise


def _settle_as(answer: asyncio.Future[T], done: Future[T]) -> None:
    if answer.done() or not done.done():
        return
    if done.cancelled():
        answer.cancel()
    elif (error := done.exception()) is not None:
        settle_with_error(answer, error)
    else:
        answer.set_result(done.result())
