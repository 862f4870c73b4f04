"""Awaited commits: the hooks of an `AsyncSession` are called on the event loop, and must not block it.

SQLAlchemy runs them in a greenlet, which can wait for an awaitable.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sys
from collections.abc import Callable
from typing import Any

from dexpy.foundation.futures import awaitable_errors


def run_off_loop(action: Callable[[], None]) -> Callable[[], None]:
    """Wrap an action that may block: after an awaited commit it runs in a thread, and the commit waits for it."""

    @functools.wraps(action)
    def run() -> None:
        concurrency: Any = sys.modules.get("sqlalchemy.util.concurrency")
        # SQLAlchemy needs greenlet to check for one.
        in_greenlet = "greenlet" in sys.modules and getattr(concurrency, "in_greenlet", bool)()
        if not in_greenlet:
            action()
            return
        try:
            future = asyncio.get_running_loop().run_in_executor(
                None, contextvars.copy_context().run, awaitable_errors(action)
            )
        except RuntimeError:
            # Another kind of loop, or one that is closing: run it here, although it may block.
            action()
            return
        concurrency.await_only(_wait_uncancelled(future))
        future.result()

    return run


async def _wait_uncancelled(future: asyncio.Future[None]) -> None:
    """Wait for a future, even if the task is cancelled meanwhile: the cancellation follows afterwards."""
    is_cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            is_cancelled = True
    task = asyncio.current_task()
    if is_cancelled and task is not None:
        # Cancel again with the original count, so that the owner of a time-out recognizes it.
        task.uncancel()
        task.cancel()
