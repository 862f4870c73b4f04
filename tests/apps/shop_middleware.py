"""An operation of the shop with a middleware of the application, for tests with workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from apps.shop import ShopOperation, create_tables
from dexpy import Call, Err, Insert, Middleware, Ok
from dexpy.foundation.failpoints import failpoint

__all__ = ["Counted", "create_tables"]


def count(call: Call, proceed: Callable[[Call], Ok[Any] | Err]) -> Ok[Any] | Err:
    """Write a row for each run, in its transaction."""
    call.operation.note(f"entered {call.operation.number}")
    call.operation.session.flush()
    failpoint("in_middleware")
    return proceed(call)


class Counted(ShopOperation):
    """An operation with a middleware inside the transaction."""

    number: int
    pipeline = (Insert(Middleware("count", count), after="transaction"),)

    def perform(self) -> int:
        self.note(f"counted {self.number}")
        return self.number
