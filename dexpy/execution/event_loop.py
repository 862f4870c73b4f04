"""The process's own event loop, for an ``async def perform`` that is called outside of an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
from typing import cast

from dexpy.foundation.forks import leave_if_forked
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.safe_text import class_path

_loop: asyncio.AbstractEventLoop | None = None
_lock = threading.Lock()
_pid = 0


def process_loop() -> asyncio.AbstractEventLoop:
    """Return the process's own event loop, which runs in its own thread; start it at the first use."""
    global _loop, _pid
    with _lock:
        if _loop is None or _pid != os.getpid() or _loop.is_closed():
            _loop = asyncio.new_event_loop()
            _pid = os.getpid()
            threading.Thread(target=_run_forever, args=(_loop,), name="dexpy-loop", daemon=True).start()
        return _loop


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    pid = os.getpid()
    try:
        while True:
            # A coroutine that raises these ends the loop; the run's thread gets the exception too.
            with contextlib.suppress(KeyboardInterrupt, SystemExit):
                loop.run_forever()
            leave_if_forked(pid)
    except Exception as error:  # noqa: BLE001 - its selector is broken, for example; the next run starts a new loop
        log_event(LogEvent.EVENT_LOOP_FAILED, error=class_path(error))
    finally:
        # A thread that waits for one of its coroutines checks that it is closed; a broken loop may fail to close.
        for close in (loop.close, functools.partial(asyncio.BaseEventLoop.close, cast("asyncio.BaseEventLoop", loop))):
            with contextlib.suppress(Exception):
                close()


def _stop_in_child() -> None:
    """Stop the loop's copy in a child process, after a fork by a coroutine."""
    if _loop is not None and getattr(_loop, "_thread_id", None) == threading.get_ident():
        _loop.stop()


os.register_at_fork(after_in_child=_stop_in_child)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread, if any."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
