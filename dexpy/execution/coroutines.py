"""How an ``async def perform`` runs: the coroutine on an event loop, everything that blocks in the run's own thread.

The run's thread sits at a `Desk` while the coroutine is under way, and does the work handed in there:
functions given to ``self.in_session`` and operations called inside.
So there is one session, one thread and one transaction, with any database driver.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import queue
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import attrs

from dexpy.execution.call import current
from dexpy.foundation.errors import NotRunning
from dexpy.recording.ambient import ambient
from dexpy.recording.sessions import Given

T = TypeVar("T")
WAKE_S = 0.5
"""How long the thread waits in one go, in seconds, so that an exception sent to it gets through."""
OVER = (
    "The run that this coroutine belonged to is over, and its session with it. "
    "Await what perform starts before it returns."
)


@attrs.frozen
class Work:
    """A function handed in, and the future of its answer."""

    function: Callable[[], Any]
    done: Future[Any]

    def do(self) -> None:
        """Call the function and settle the future."""
        if not self.done.set_running_or_notify_cancel():
            return
        try:
            self.done.set_result(self.function())
        except (KeyboardInterrupt, SystemExit):
            # These are the thread's own; on its way through a coroutine one would end the event loop.
            self.refuse(asyncio.CancelledError())
            raise
        except BaseException as error:
            if self.done.done():
                # It came too late for the work: it was sent to the thread itself.
                raise
            self.done.set_exception(error)

    def refuse(self, error: BaseException) -> None:
        """Settle the future with an error, if it is not settled yet."""
        if self.done.running() or (not self.done.done() and self.done.set_running_or_notify_cancel()):
            self.done.set_exception(error)


class Desk:
    """Where the coroutines of a run hand work to its thread."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._cancelled = False
        self._is_open = False

    async def hand_in(self, function: Callable[[], T], cancel: Callable[[], None] | None = None) -> T:
        """Have a function called in the run's thread, with this coroutine's context, and await its answer.

        A cancelled await calls *cancel*, waits until the function has come to its end, and is cancelled then.

        Raises:
            NotRunning: The run is over.
        """
        context = contextvars.copy_context()
        work = Work(lambda: context.run(function), Future())
        with self._lock:
            if not self._is_open:
                raise NotRunning(OVER)
            self._work.put(work)
        answer: asyncio.Future[T] = asyncio.wrap_future(work.done)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            if not work.done.cancel() and not work.done.done():
                if cancel is not None:
                    cancel()
                await _outlast(answer)
            raise

    def post(self, function: Callable[[], None]) -> None:
        """Have a function called in the run's thread, and wait for nothing; left out when the run is over."""
        context = contextvars.copy_context()
        with self._lock:
            if self._is_open:
                self._work.put(Work(lambda: context.run(function), Future()))

    def cancel(self) -> None:
        """Cancel the coroutine, now or as soon as it begins."""
        with self._lock:
            self._cancelled = True
            task, loop = self._task, self._loop
        if task is not None and loop is not None:
            loop.call_soon_threadsafe(task.cancel)

    def serve(self, coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
        """Run a coroutine on a loop of another thread, doing what is handed in until it has ended.

        Raises:
            asyncio.CancelledError: The coroutine was cancelled.
        """
        ended: Future[T] = Future()
        # Open before the coroutine begins, which may be at once.
        self._is_open = True
        loop.call_soon_threadsafe(self._begin, coroutine, loop, ended)
        try:
            while (work := self._next()) is not None:
                work.do()
        except BaseException:
            # Something was raised into this thread: the coroutine must be over before the transaction is.
            self._close()
            self.cancel()
            ended.exception()
            raise
        finally:
            self._close()
        return ended.result()

    def _begin(self, coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop, ended: Future[T]) -> None:
        task = loop.create_task(coroutine)

        # Told by the task itself: a future that asyncio chains to it is cancelled before the coroutine has cleaned up.
        def settle(_: asyncio.Task[T]) -> None:
            if task.cancelled():
                ended.set_exception(asyncio.CancelledError("the run was cancelled"))
            elif (error := task.exception()) is not None:
                ended.set_exception(error)
            else:
                ended.set_result(task.result())
            self._work.put(None)

        task.add_done_callback(settle)
        with self._lock:
            self._task, self._loop = task, loop
            if self._cancelled:
                task.cancel()

    def _next(self) -> Work | None:
        while True:
            try:
                return self._work.get(timeout=WAKE_S)
            except queue.Empty:
                continue

    def _close(self) -> None:
        with self._lock:
            self._is_open = False
            while not self._work.empty():
                work = self._work.get()
                if work is not None:
                    work.refuse(NotRunning(OVER))


_loop: asyncio.AbstractEventLoop | None = None
_lock = threading.Lock()
_pid = 0


def process_loop() -> asyncio.AbstractEventLoop:
    """The event loop that this process keeps in a thread of its own, for performs that are called from no loop."""
    global _loop, _pid
    with _lock:
        if _loop is None or _pid != os.getpid():
            _loop = asyncio.new_event_loop()
            _pid = os.getpid()
            threading.Thread(target=_run_for_ever, args=(_loop,), name="dexpy-loop", daemon=True).start()
        return _loop


def _run_for_ever(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        # A coroutine that raises these ends its loop, and has told the run's thread, whose they are.
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            loop.run_forever()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread, if any."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def in_thread(function: Callable[[], T], cancel: Callable[[], None]) -> T:
    """Run a function in a thread of its own, with this context, and await its answer.

    A cancelled await calls *cancel*, waits until the function has come to its end, and is cancelled then.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(set_it: Callable[[Any], None], value: Any) -> None:
        if not done.done():
            set_it(value)

    def work() -> None:
        try:
            value = context.run(function)
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever awaits
            loop.call_soon_threadsafe(settle, done.set_exception, error)
        else:
            loop.call_soon_threadsafe(settle, done.set_result, value)

    # A thread of its own, not one of a pool: a run may wait for runs inside it, and a full pool would never end.
    threading.Thread(target=work, name="dexpy-run", daemon=True).start()
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        cancel()
        await _outlast(done)
        raise


async def _outlast(done: asyncio.Future[Any]) -> None:
    while not done.done():
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError:
            continue
    if not done.cancelled():
        done.exception()


async def off_loop(function: Callable[[], T]) -> T:
    """Run blocking work away from the event loop: at the desk of the run that this coroutine belongs to, if any."""
    call = current.get()
    if call is not None and call.desk is not None:
        return await call.desk.hand_in(function)
    return await in_thread(alone(function), lambda: None)


def alone(function: Callable[[], T]) -> Callable[[], T]:
    """A function that waits its turn for the application's session that it is going to join, if any.

    Awaited side by side, each would use the session in a thread of its own, and a session is for one thread at a time.
    """
    place = ambient()
    if current.get() is not None or not isinstance(place, Given):
        return function

    def in_turn() -> T:
        with place.turn:
            return function()

    return in_turn
