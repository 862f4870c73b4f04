"""Runs an ``async def perform``: the coroutine on an event loop, blocking work in the run's own thread.

While the coroutine runs, the run's thread waits at a `ThreadBridge` and executes the work submitted to it: functions
passed to ``self.in_session`` and nested operations.
So there is one session, one thread and one transaction, with any database driver.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import attrs

from dexpy.foundation.errors import NotRunning
from dexpy.foundation.forks import run_contained
from dexpy.foundation.futures import Answer, settle_with_error
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.safe_text import class_path

T = TypeVar("T")
WAKE_S = 0.5
"""The longest single wait of the thread, in seconds, so that an exception raised into it is delivered."""
FORKED = "The run of this coroutine is in the parent process, not in this fork. Await it in the parent process."
LOOP_CLOSED = (
    "The event loop was closed while it ran the coroutine of this run. Await the operation before closing the loop."
)
RUN_ENDED = (
    "The run of this coroutine has ended, and its session is closed. Await everything that perform starts before it "
    "returns."
)


@attrs.frozen
class Work:
    """A submitted function, and the answer that a coroutine awaits, if any."""

    function: Callable[[], Any]
    done: Future[Any]
    answer: Answer[Any] | None = None

    def do(self) -> None:
        """Call the function and settle the future."""
        if not self.done.set_running_or_notify_cancel():
            return
        try:
            self.done.set_result(run_contained(os.getpid(), self.function))
        except (KeyboardInterrupt, SystemExit):
            # Raised in this thread only: passed through a coroutine, they would end the event loop.
            self.refuse(asyncio.CancelledError())
            raise
        except BaseException as error:
            if self.done.done():
                # Raised into the thread after the function had ended.
                raise
            settle_with_error(self.done, error)
        finally:
            self.pass_on()
            # The error's traceback has this frame, and the future has the error.
            del self

    def refuse(self, error: BaseException) -> None:
        """Settle the future with an error, if it is not settled yet."""
        if self.done.running() or (not self.done.done() and self.done.set_running_or_notify_cancel()):
            settle_with_error(self.done, error)
        self.pass_on()

    def pass_on(self) -> None:
        """Settle the coroutine's answer if the work has ended; may be called again."""
        if self.answer is not None and self.done.done():
            self.answer.pass_on()


class ThreadBridge:
    """Passes work from the coroutines of a run to its thread."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._cancelled = False
        self._is_open = False
        self._pid = os.getpid()

    @property
    def is_in_process(self) -> bool:
        """Whether the run's thread is in this process; a fork has only the thread that forked."""
        return os.getpid() == self._pid

    async def submit(self, function: Callable[[], T], cancel: Callable[[], None] | None = None) -> T:
        """Call a function in the run's thread, with this coroutine's context, and await its result.

        A cancelled await calls *cancel*, waits until the function has ended, and is cancelled then.

        Raises:
            NotRunning: The run has ended, or is in another process.
        """
        if not self.is_in_process:
            raise NotRunning(FORKED)
        context = contextvars.copy_context()
        done: Future[T] = Future()
        answer = Answer(done, asyncio.get_running_loop())
        work = Work(lambda: context.run(function), done, answer)
        with self._lock:
            if not self._is_open:
                raise NotRunning(RUN_ENDED)
            self._work.put(work)
        try:
            return await asyncio.shield(answer.future)
        except asyncio.CancelledError:
            if not work.done.cancel() and not work.done.done():
                if cancel is not None:
                    cancel()
                await _wait_until_done(answer.future)
            raise
        finally:
            # The traceback of an error has this frame, and these have the error.
            del work, answer, done

    def post(self, function: Callable[[], None]) -> None:
        """Call a function in the run's thread without waiting; does nothing when the run has ended."""
        context = contextvars.copy_context()
        with self._lock:
            if self._is_open:
                self._work.put(Work(lambda: context.run(function), Future()))

    def cancel(self) -> None:
        """Cancel the coroutine, or cancel it as soon as it begins."""
        with self._lock:
            self._cancelled = True
            task, loop = self._task, self._loop
        if task is not None and loop is not None:
            loop.call_soon_threadsafe(task.cancel)

    def serve(self, coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
        """Run a coroutine on a loop of another thread, and execute submitted work until it has ended.

        Raises:
            asyncio.CancelledError: The coroutine was cancelled.
        """
        ended: Future[T] = Future()
        # Open before the coroutine begins, which may be at once.
        self._is_open = True
        try:
            loop.call_soon_threadsafe(self._begin, coroutine, loop, ended)
        except RuntimeError:
            # The loop is closed.
            self._close()
            coroutine.close()
            raise
        try:
            while (work := self._next(loop)) is not None:
                work.do()
        except BaseException:
            # An exception was raised into this thread: the coroutine must end before the transaction.
            self._close()
            self._cancel_and_await(ended, loop)
            raise
        finally:
            self._close()
        try:
            return ended.result()
        finally:
            # The traceback of an error has this frame, and the future has the error.
            del ended

    def _cancel_and_await(self, ended: Future[Any], loop: asyncio.AbstractEventLoop) -> None:
        is_requested = False
        while not (ended.done() or loop.is_closed()):
            if not is_requested:
                with contextlib.suppress(RuntimeError):
                    # Only once: a second cancellation would interrupt the coroutine's cleanup.
                    self.cancel()
                    is_requested = True
            # In short waits: if the loop is closed meanwhile, the coroutine never ends.
            wait([ended], WAKE_S)

    def _begin(self, coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop, ended: Future[T]) -> None:
        try:
            task = loop.create_task(coroutine)
        except BaseException as error:  # noqa: BLE001 - from the application's task factory; the run's thread waits
            coroutine.close()
            self._end(ended, error)
            return

        # By the task's callback: a future chained by asyncio is cancelled before the coroutine has cleaned up.
        def settle(task: asyncio.Task[T]) -> None:
            if task.cancelled():
                self._end(ended, asyncio.CancelledError("the run was cancelled"))
            elif (error := task.exception()) is not None:
                self._end(ended, error)
            else:
                ended.set_result(task.result())
                self._end(ended)

        with self._lock:
            self._task, self._loop = task, loop
            if self._cancelled:
                task.cancel()
        task.add_done_callback(settle)

    def _end(self, ended: Future[Any], error: BaseException | None = None) -> None:
        with self._lock:
            # Breaks a reference cycle: the task has the error, whose traceback refers to this bridge.
            self._task = None
        if error is not None:
            settle_with_error(ended, error)
        self._work.put(None)

    def _next(self, loop: asyncio.AbstractEventLoop) -> Work | None:
        while True:
            try:
                return self._work.get(timeout=WAKE_S)
            except queue.Empty:
                if loop.is_closed() and self._work.empty():
                    raise NotRunning(LOOP_CLOSED) from None

    def _close(self) -> None:
        with self._lock:
            self._is_open = False
            remaining: list[Work] = []
            while not self._work.empty():
                work = self._work.get()
                if work is not None:
                    remaining.append(work)
        failed: BaseException | None = None
        for work in remaining:
            try:
                work.refuse(NotRunning(RUN_ENDED))
            except BaseException as error:  # noqa: BLE001 - each of them is awaited; raised after the last one
                failed = error
                work.refuse(NotRunning(RUN_ENDED))
        if failed is not None:
            raise failed


async def in_thread(function: Callable[[], T], cancel: Callable[[], None]) -> T:
    """Run a function in a new thread, with this context, and await its result.

    A cancelled await calls *cancel*, waits until the function has ended, and is cancelled then.
    """
    loop = asyncio.get_running_loop()
    done: Future[T] = Future()
    answer = Answer(done, loop)
    # A new thread instead of a pool: a run may wait for nested runs, and a full pool would deadlock.
    arguments = answer, contextvars.copy_context(), function
    threading.Thread(target=_work, args=arguments, name="dexpy-run", daemon=True).start()
    del arguments
    try:
        return await asyncio.shield(answer.future)
    except asyncio.CancelledError:
        cancel()
        await _wait_until_done(answer.future)
        raise
    finally:
        # The traceback of an error has this frame, and both have the error.
        del done, answer


def _work(answer: Answer[Any], context: contextvars.Context, function: Callable[[], Any]) -> None:
    try:
        answer.done.set_result(context.run(function))
    except BaseException as error:  # noqa: BLE001 - the awaiting coroutine gets it
        settle_with_error(answer.done, error)
    while not _try_pass_on(answer):
        time.sleep(WAKE_S)
    # The error's traceback has this frame, and the answer has the error.
    del answer


def _try_pass_on(answer: Answer[Any]) -> bool:
    try:
        answer.pass_on()
    except Exception as error:  # noqa: BLE001 - for example out of memory, or from the application's loop; retried
        log_event(LogEvent.RESULT_NOT_DELIVERED, error=class_path(error))
        return False
    return True


async def _wait_until_done(done: asyncio.Future[Any]) -> None:
    while not done.done():
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError:
            continue
    if not done.cancelled():
        done.exception()
