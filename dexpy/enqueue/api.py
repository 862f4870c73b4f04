"""`Async`: the policy of background runs, and ``op.async_``."""

from __future__ import annotations

import datetime as dt
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import attrs

from dexpy.enqueue.batch_target import BatchTarget, check_batch, check_operations, check_token
from dexpy.enqueue.current_dispatcher import Performs, PerformsAsync, current_dispatcher
from dexpy.execution.blocking_work import off_loop
from dexpy.foundation.errors import OptionsError
from dexpy.policies.options import AsyncOptions, Delay
from dexpy.transactions.sessions import check_session_or_connection, is_async

if TYPE_CHECKING:
    from typing import Self

    from sqlalchemy.engine import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session

    from dexpy.recording.ticket import Ticket

R = TypeVar("R")


_NO_SAFE = (
    "no attribute `safe`, because the operation has not run yet when the call returns. "
    "Use the ticket: ticket.wait(timeout) returns Ok or Err, ticket.result(timeout) the value."
)


def _signature(*extra: str, first: str | None = None) -> inspect.Signature:
    """Build the signature of a function that takes the options of `AsyncOptions` by name, for tools."""
    names = ("queue", "in_", "at", "priority", "expires_in", *extra)
    named = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
    positional = [] if first is None else [inspect.Parameter(first, inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    return inspect.Signature([*positional, *named])


@attrs.define
class Enqueue(Generic[R]):
    """An operation to enqueue with `call`; without the call nothing happens, and Python warns."""

    _operation: Any
    _options: AsyncOptions
    _session: Any
    _token: str | None = None
    _batch: BatchTarget | None = None
    _was_called: bool = attrs.field(default=False, init=False, eq=False, repr=False)

    def __del__(self) -> None:
        # Like the warning about a coroutine that was never awaited. Without a complete __init__ there is no attribute.
        if getattr(self, "_was_called", True) or sys.is_finalizing():
            return
        expression = f"{type(self._operation).__qualname__}(...).async_(...)"
        warnings.warn(
            f"{expression} was never called: nothing was stored or sent. Write {expression}.call()",
            RuntimeWarning,
            stacklevel=2,
            source=self,
        )

    def call(self) -> Ticket[R]:
        """Store the record and send the message.

        Returns:
            The ticket, at once; a worker runs the operation.

        Raises:
            NotSerializable: A prop has no JSON form; nothing was stored or published.
            DatabaseUnavailable: The database is unreachable, or its tables are missing.
        """
        self._was_called = True
        if self._session is not None and self._is_awaited:
            name = type(self._operation).__qualname__
            raise OptionsError(
                f"{name}.async_(session=...).call(): expected a Session or Connection, got an "
                f"{type(self._session).__name__}. Write: ticket = await op.async_(session=...).acall()."
            )
        return self._enqueue(self._session)

    async def acall(self) -> Ticket[R]:
        """`call` for asyncio; does not block the event loop."""
        self._was_called = True
        if self._session is not None and self._is_awaited:
            ticket: Ticket[R] = await self._session.run_sync(self._enqueue)
            return ticket
        return await off_loop(self.call)

    @property
    def _is_awaited(self) -> bool:
        return is_async(self._session)

    def _enqueue(self, session: Session | Connection | None) -> Ticket[R]:
        if self._batch is not None:
            return self._batch.enqueue([self._operation], self._options, self._token, session)[0]
        dispatcher = current_dispatcher.get()
        return dispatcher.enqueue(self._operation, self._options, session, self._token)

    if not TYPE_CHECKING:

        @property
        def safe(self) -> Any:
            """Raise an error with the alternative."""
            self._was_called = True
            raise OptionsError(f"{type(self._operation).__qualname__}.async_(...): {_NO_SAFE}")


@attrs.frozen(eq=False, repr=False)
class BoundAsync(Generic[R]):
    """The value of ``op.async_``: call it with options."""

    _operation: Any

    if TYPE_CHECKING:

        def __call__(
            self,
            *,
            queue: str | Callable[[Any], str] | None = None,
            in_: Delay | None = None,
            at: dt.datetime | None = None,
            priority: int | None = None,
            expires_in: Delay | None = None,
            idempotence_token: str | None = None,
            session: Session | Connection | AsyncSession | AsyncConnection | None = None,
            batch: BatchTarget | None = None,
        ) -> Enqueue[R]:
            """Set the options of the enqueue.

            Args:
                queue: A name, or a function of the operation.
                in_: Seconds or a timedelta from now on.
                at: An aware datetime.
                priority: Higher runs sooner; the default is 0.
                expires_in: Seconds or a timedelta from now on; a run that has not started by then is ``expired``.
                idempotence_token: Your own id for this call, up to 255 characters; a second call of the operation
                    with it stores nothing, and returns the ticket of the first.
                session: The SQLAlchemy session or connection whose transaction the record belongs to; for an
                    async one, use `acall`. A connection has no commit event, so the relay publishes its messages.
                batch: The batch that the run belongs to, or its ticket; see `dexpy.batch`.

            Raises:
                OptionsError: An option is unknown or invalid.
            """
            ...

    else:
        __signature__ = _signature("idempotence_token", "session", "batch")

        def __call__(self, *arguments: Any, **options: Any) -> Enqueue[R]:
            """Set the options of the enqueue."""
            where = f"{type(self._operation).__qualname__}.async_(...)"
            if arguments:
                raise OptionsError(f"{where}: expected options by name, for example async_(queue='mailers').")
            session = options.pop("session", None)
            token = options.pop("idempotence_token", None)
            if token is not None:
                token = check_token(token, where)
            batch = options.pop("batch", None)
            if batch is not None:
                batch = check_batch(batch, where)
            async_options = AsyncOptions.of(where, options, extra=("idempotence_token", "session", "batch"))
            if session is not None:
                session = check_session_or_connection(session, f"{where} session=")
            return Enqueue(self._operation, async_options, session, token, batch)

        @property
        def call(self) -> Any:
            """Raise an error with the alternative."""
            raise OptionsError(
                f"{type(self._operation).__qualname__}.async_: parentheses are missing. Write async_().call()."
            )

        acall = call

        @property
        def safe(self) -> Any:
            """Raise an error with the alternative."""
            raise OptionsError(f"{type(self._operation).__qualname__}.async_: {_NO_SAFE}")


@overload
def enqueue_all(
    operations: Iterable[PerformsAsync[R]],
    *,
    queue: str | Callable[[Any], str] | None = None,
    in_: Delay | None = None,
    at: dt.datetime | None = None,
    priority: int | None = None,
    expires_in: Delay | None = None,
    session: Session | Connection | None = None,
    batch: BatchTarget | None = None,
) -> list[Ticket[R]]: ...
@overload
def enqueue_all(
    operations: Iterable[Performs[R]],
    *,
    queue: str | Callable[[Any], str] | None = None,
    in_: Delay | None = None,
    at: dt.datetime | None = None,
    priority: int | None = None,
    expires_in: Delay | None = None,
    session: Session | Connection | None = None,
    batch: BatchTarget | None = None,
) -> list[Ticket[R]]: ...
def enqueue_all(
    operations: Iterable[Any], *, session: Any = None, batch: BatchTarget | None = None, **options: Any
) -> list[Ticket[Any]]:
    """Enqueue many operations at once: all of them, or none.

    One statement stores their records, and one round trip publishes their messages.
    Operations with keys are stored one after another, in the same transaction.

    Args:
        operations: Of one class or of several.
        queue: For all of them, as in `Operation.async_`; options that are left out come from each class.
        in_: Seconds or a timedelta from now on.
        at: An aware datetime.
        priority: Higher runs sooner; the default is 0.
        expires_in: Seconds or a timedelta from now on; a run that has not started by then is ``expired``.
        session: The SQLAlchemy session or connection whose transaction the records belong to. With an AsyncSession:
            ``await session.run_sync(lambda sync: enqueue_all(operations, session=sync))``.
        batch: The batch that the runs belong to, or its ticket; see `dexpy.batch`.

    Returns:
        Their tickets, in order.

    Raises:
        OptionsError: An option is invalid, or an item is not an operation.
        NotSerializable: A prop has no JSON form; a note on the exception states which. Nothing was stored.

    Example:
        >>> from dexpy import Operation, enqueue_all
        >>> from dexpy.testing import isolated
        >>> class Greet(Operation, name="docs.greet_all"):
        ...     name: str
        ...     def perform(self) -> str:
        ...         return f"Hello {self.name}"
        >>> with isolated() as test:
        ...     tickets = enqueue_all(Greet(name=name) for name in ("Ada", "Ben"))
        ...     _ = test.run_pending()
        ...     [ticket.result(timeout=5) for ticket in tickets]
        ['Hello Ada', 'Hello Ben']
    """
    where = "enqueue_all(...)"
    async_options = AsyncOptions.of(where, options, extra=("session", "batch"))
    checked = check_operations(operations, where)
    if session is not None:
        if is_async(session):
            raise OptionsError(
                f"{where}: session: expected a Session or Connection, got an {type(session).__name__}. "
                "Write: await session.run_sync(lambda sync: enqueue_all(operations, session=sync))."
            )
        session = check_session_or_connection(session, f"{where} session=")
    if batch is not None:
        return check_batch(batch, where).enqueue(checked, async_options, session=session)
    return current_dispatcher.get().enqueue_all(checked, async_options, session)


enqueue_all.__dict__["__signature__"] = _signature("session", "batch", first="operations")


@attrs.frozen
class Async(AsyncOptions):
    """The default options of background runs of an operation; a call can override them.

    Attributes:
        queue: A name, or a function of the operation that returns one.
        priority: Higher runs sooner; the default is 0.
        in_: Seconds or a timedelta from the call on.
        at: An aware datetime.
        expires_in: Seconds or a timedelta from the call on, after which a run that has not started is ``expired``.

    Example:
        >>> from dexpy import Async, Operation
        >>> class SendMail(Operation):
        ...     to: str
        ...     async_ = Async(queue="mailers", priority=5)
        ...     def perform(self) -> None: ...
    """

    if TYPE_CHECKING:

        @overload
        def __get__(self, obj: None, owner: Any) -> Self: ...
        @overload
        def __get__(self, obj: PerformsAsync[R], owner: Any) -> BoundAsync[R]: ...
        @overload
        def __get__(self, obj: Performs[R], owner: Any) -> BoundAsync[R]: ...
        def __get__(self, obj: Any, owner: Any) -> Any: ...

    else:

        def __get__(self, obj: Any, owner: Any) -> Any:
            return self if obj is None else BoundAsync(obj)
