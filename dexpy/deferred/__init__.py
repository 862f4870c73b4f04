"""Deferred calls: calls of functions and methods, stored in the database and run later by a worker.

Each function has an operation whose props are its parameters, so that a deferred call is recorded, claimed,
retried, redacted and explained like every other run.
"""

from __future__ import annotations

from typing import Any

from dexpy.foundation.errors import DeclarationError
from dexpy.operation import Operation

NO_HANDLER = "__dexpy_no_handler__"


class DeferredCall(Operation):
    """The base class of the operations of deferred calls; subclass it for policies and hooks that many targets share.

    Example:
        >>> import functools
        >>> from dexpy import DeferredCall, Retry, deferrable
        >>> class ShopCall(DeferredCall):
        ...     retry_on = (Retry(ConnectionError, attempts=5),)
        ...     def handle_error(self, error: Exception) -> None:
        ...         print(f"{self.run_id}: {error}")
        >>> shop_deferrable = functools.partial(deferrable, base=ShopCall)
        >>> @shop_deferrable
        ... def fulfill(order_number: int) -> str:
        ...     return f"order {order_number}"
        >>> fulfill(7)
        'order 7'
    """

    def perform(self) -> Any:
        """Make the call."""
        raise DeclarationError(f"{type(self).__qualname__} is a base class. Pass it to @deferrable(base=...).")

    def handle_error(self, error: Exception) -> None:
        """Handle an exception that ends an attempt; it does not decide whether to retry.

        The exception is recorded in any case, and the rules decide whether there is another attempt.
        """

    setattr(handle_error, NO_HANDLER, True)
