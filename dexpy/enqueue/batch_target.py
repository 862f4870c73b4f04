"""`BatchTarget`: what runs can be added to, a batch in its block or the ticket of a stored one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from dexpy.enqueue.current_dispatcher import Performs, PerformsAsync
from dexpy.foundation.errors import OptionsError
from dexpy.foundation.safe_text import is_plain_text, shortened
from dexpy.policies.options import AsyncOptions, Delay

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import Session

    from dexpy.recording.ticket import Ticket

R = TypeVar("R")


class BatchTarget:
    """Accepts runs for a batch."""

    if TYPE_CHECKING:

        @overload
        def add(
            self,
            operation: PerformsAsync[R],
            *,
            queue: str | Callable[[Any], str] | None = None,
            in_: Delay | None = None,
            at: dt.datetime | None = None,
            priority: int | None = None,
            expires_in: Delay | None = None,
            idempotence_token: str | None = None,
        ) -> Ticket[R]: ...
        @overload
        def add(
            self,
            operation: Performs[R],
            *,
            queue: str | Callable[[Any], str] | None = None,
            in_: Delay | None = None,
            at: dt.datetime | None = None,
            priority: int | None = None,
            expires_in: Delay | None = None,
            idempotence_token: str | None = None,
        ) -> Ticket[R]: ...
        def add(self, operation: Any, **options: Any) -> Any:
            """Add a run to the batch; the options are those of `Operation.async_`.

            Args:
                operation: The operation.
                options: As for `Operation.async_`, without ``session``.

            Returns:
                Its ticket.

            Raises:
                OptionsError: An option is invalid, or runs of the class have no record.
                BatchEnded: The batch has ended or is cancelled.
                NotSerializable: A prop has no JSON form; nothing was stored.
            """

    else:

        def add(self, operation: Any, **options: Any) -> Any:
            """Add a run to the batch; the options are those of `Operation.async_`."""
            token = check_token(options.pop("idempotence_token", None), "batch.add(...)")
            async_options = AsyncOptions.of("batch.add(...)", options, extra=("idempotence_token",))
            (ticket,) = self.enqueue(check_operations([operation], "batch.add(...)"), async_options, token)
            return ticket

    @overload
    def add_all(self, operations: Iterable[PerformsAsync[R]]) -> list[Ticket[R]]: ...
    @overload
    def add_all(self, operations: Iterable[Performs[R]]) -> list[Ticket[R]]: ...
    def add_all(self, operations: Iterable[Any]) -> list[Any]:
        """Add many runs to the batch: all of them, or none.

        Args:
            operations: Of one class or of several.

        Returns:
            Their tickets, in order.

        Raises:
            OptionsError: An item is not an operation, or runs of its class have no record.
            BatchEnded: The batch has ended or is cancelled.
            NotSerializable: A prop has no JSON form; nothing was stored.
        """
        return self.enqueue(check_operations(operations, "batch.add_all(...)"), AsyncOptions())

    def enqueue(
        self,
        operations: Sequence[Any],
        options: AsyncOptions,
        token: str | None = None,
        session: Session | Connection | None = None,
    ) -> list[Ticket[Any]]:
        """Add checked operations with checked options; see `add`.

        Args:
            operations: The operations.
            options: The options of the call.
            token: The caller's own id for the call of one operation.
            session: The session or connection whose transaction stores the runs.
        """
        raise NotImplementedError


def check_operations(operations: Iterable[Any], where: str) -> list[Any]:
    """Return operations as a list.

    Raises:
        OptionsError: An item is not an operation.
    """
    call = where.partition("(")[0]
    if hasattr(operations, "contract"):
        raise OptionsError(f"{where}: expected an iterable of operations, got one operation. Write: {call}([op]).")
    checked = list(operations)
    for number, operation in enumerate(checked):
        if not hasattr(operation, "contract") or isinstance(operation, type):
            raise OptionsError(
                f"{where}: item {number + 1}: expected an operation, got {operation!r}. Pass instances without "
                f"async_(): {call}([Greet(name='Ada'), Greet(name='Ben')])."
            )
    return checked


def check_batch(batch: object, where: str) -> BatchTarget:
    """Return a batch that accepts runs.

    Raises:
        OptionsError: The value is of another type.
    """
    if isinstance(batch, BatchTarget):
        return batch
    raise OptionsError(
        f"{where}: batch: expected the batch of `with dexpy.batch(...) as batch:` or its ticket, got "
        f"{shortened(batch)}."
    )


def check_token(token: object, where: str, kind: str = "str") -> str | None:
    """Check the caller's own id for a call.

    Raises:
        OptionsError: The token is not a str of 1 to 255 characters.
    """
    if token is None or (is_plain_text(token) and 0 < len(token) <= 255):
        return token
    raise OptionsError(
        f"{where}: idempotence_token: expected a {kind} of 1 to 255 characters without NUL and lone surrogates, "
        f"got {shortened(token)}."
    )
