"""Runs blocking work outside of the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from dexpy.database.current_transaction import current_transaction
from dexpy.execution.async_bridge import in_thread
from dexpy.execution.call import current
from dexpy.transactions.sessions import ExternalSession

T = TypeVar("T")


async def off_loop(function: Callable[[], T]) -> T:
    """Run blocking work outside of the event loop: in the thread of the coroutine's run, if it has one."""
    call = current.get()
    if call is not None and call.bridge is not None and call.bridge.is_in_process:
        return await call.bridge.submit(function)
    return await in_thread(exclusive(function), lambda: None)


def exclusive(function: Callable[[], T]) -> Callable[[], T]:
    """Return a function that holds the lock of the application's session that it joins, if any.

    Several awaited calls run in different threads, and a session must be used by one thread at a time.
    """
    external_session = current_transaction()
    if current.get() is not None or not isinstance(external_session, ExternalSession):
        return function

    def locked() -> T:
        with external_session.lock:
            return function()

    return locked
