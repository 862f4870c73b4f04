"""Commits that are awaited: what follows one of an `AsyncSession` is called on the event loop, and must not block it.

SQLAlchemy runs a session's plain code in a greenlet there, which can wait for something that is awaited.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sys
from collections.abc import Callable
from typing import Any


def off_the_loop(action: Callable[[], None]) -> Callable[[], None]:
    """An action that may block: after a commit that is awaited it runs in a thread, and the commit waits for it."""

    @functools.wraps(action)
    def run() -> None:
        concurrency: Any = sys.modules.get("sqlalchemy.util.concurrency")
        # Without greenlets SQLAlchemy cannot be asked whether this is one.
        in_greenlet = "greenlet" in sys.modules and getattr(concurrency, "in_greenlet", bool)()
        if not in_greenlet:
            action()
            return
        try:
            done = asyncio.get_running_loop().run_in_executor(None, contextvars.copy_context().run, action)
        except RuntimeError:
            # Another kind of loop, or one that is closing: better late than never.
            action()
            return
        concurrency.await_only(_outlast(done))
        done.result()

    return run


async def _outlast(done: asyncio.Future[None]) -> None:
    """Wait for the end, also of an await that is cancelled meanwhile: it is cancelled at its next step."""
    is_cancelled = False
    while not done.done():
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError:
            is_cancelled = True
    task = asyncio.current_task()
    if is_cancelled and task is not None:
        # Counted once, as it came, so that whoever set a time limit knows it for his own.
        task.uncancel()
        task.cancel()
