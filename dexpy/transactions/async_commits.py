"""Awaited commits: the hooks of an `AsyncSession` are called on the event loop and must not block it.

SQLAlchemy runs hooks in a greenlet, which can wait for an awaitable.
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
    """Wrap an action that may block: after an awaited commit it runs in a thread, for which the commit waits."""

    @functools.wraps(action)
    def run() -> None:
        concurrency: Any = sys.modules.get("sqlalchemy.util.concurrency")
        # SQLAlchemy can check for a greenlet only if the package is installed.
        in_greenlet = "greenlet" in sys.modules and getattr(concurrency, "in_greenlet", bool)()
        if not in_greenlet:
            action()
            return
        try:
            future = asyncio.get_running_loop().run_in_executor(
                None, contextvars.copy_context().run, awaitable_errors(action)
            )
        except RuntimeError:
            # The loop is of another kind or is closing: run the action here, although it may block.
            action()
            return
        concurrency.await_only(_wait_uncancelled(future))
        future.result()

    return run


async def _wait_uncancelled(future: asyncio.Future[None]) -> None:
    """Wait for a future; a cancellation of the task takes effect after it."""
    is_cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            is_cancelled = True
    task = asyncio.current_task()
    if is_cancelled and task is not None:
        # Cancel again as often as before, so that the owner of a timeout recognizes its cancellation.
        task.uncancel()
        task.cancel()
