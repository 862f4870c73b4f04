"""`Async`: the policy, and what ``op.async_`` is on an operation."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

import attrs

from dexpy.declaration.policies import AsyncOptions, Delay
from dexpy.execution.coroutines import off_loop
from dexpy.foundation.door import dispatcher_in_force
from dexpy.foundation.errors import OptionsError

if TYPE_CHECKING:
    from typing import Self

    from sqlalchemy.engine import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session

    from dexpy.recording.ticket import Ticket

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Performs(Protocol[R_co]):
    """An operation with a plain `perform`."""

    def perform(self) -> R_co:
        """Do the work."""
        ...


class PerformsAsync(Protocol[R_co]):
    """An operation with an ``async def perform``."""

    def perform(self) -> Coroutine[Any, Any, R_co]:
        """Do the work."""
        ...


class Enqueues(Protocol):
    """Sends operations to the background."""

    def enqueue(
        self, operation: Any, options: AsyncOptions, session: Session | Connection | None, token: str | None = None
    ) -> Ticket[Any]:
        """See `Dispatcher.enqueue`."""
        ...

    def enqueue_all(
        self, operations: Sequence[Any], options: AsyncOptions, session: Session | Connection | None
    ) -> list[Ticket[Any]]:
        """See `Dispatcher.enqueue_all`."""
        ...


_NO_SAFE = (
    "has no `safe`: nothing has run yet when the call returns. "
    "Ask the ticket: ticket.wait(timeout) gives Ok or Err, ticket.result(timeout) the value."
)


@attrs.frozen
class Enqueue(Generic[R]):
    """An operation on its way to the background; nothing happens before `call`."""

    _operation: Any
    _options: AsyncOptions
    _session: Any
    _token: str | None = None

    def call(self) -> Ticket[R]:
        """Store the record and send the message.

        Returns:
            The ticket, at once; the work runs in a worker.

        Raises:
            NotSerializable: A prop cannot travel; nothing was stored or sent.
            DatabaseUnavailable: The database cannot be opened.
        """
        if self._is_awaited:
            name = type(self._operation).__qualname__
            raise OptionsError(
                f"{name}.async_(session=...).call() got an {type(self._session).__name__}, which can only be awaited. "
                "Write: ticket = await op.async_(session=...).acall()."
            )
        return self._enqueue(self._session)

    async def acall(self) -> Ticket[R]:
        """`call` for asyncio: the event loop goes on meanwhile."""
        if self._is_awaited:
            ticket: Ticket[R] = await self._session.run_sync(self._enqueue)
            return ticket
        return await off_loop(self.call)

    @property
    def _is_awaited(self) -> bool:
        if self._session is None:
            return False
        from dexpy.recording.sessions import is_awaited

        return is_awaited(self._session)

    def _enqueue(self, session: Session | Connection | None) -> Ticket[R]:
        dispatcher: Enqueues = dispatcher_in_force()
        return dispatcher.enqueue(self._operation, self._options, session, self._token)

    if not TYPE_CHECKING:

        @property
        def safe(self) -> Any:
            """Refused, with what to do instead."""
            raise OptionsError(f"{type(self._operation).__qualname__}.async_(...) {_NO_SAFE}")


class BoundAsync(Generic[R]):
    """What ``op.async_`` is: call it with options."""

    def __init__(self, operation: Any) -> None:
        self._operation = operation

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
        ) -> Enqueue[R]:
            """Say how the operation goes to the background.

            Args:
                queue: A name, or a function of the operation.
                in_: Seconds or a timedelta from now on.
                at: An aware moment.
                priority: Higher runs sooner; 0 is usual.
                expires_in: Seconds or a timedelta from now on; not begun by then, it is ``expired``.
                idempotence_token: Your own name for this call, up to 255 characters; a second one of the operation
                    with it is not stored, and gives the first one's ticket.
                session: The SQLAlchemy session or connection whose transaction the record belongs to; with one of
                    asyncio, `acall`. A connection does not say when it commits, so the relay sends for it.

            Raises:
                OptionsError: An option that is unknown or cannot be.
            """
            ...

    else:

        def __call__(self, *arguments: Any, **given: Any) -> Enqueue[R]:
            """Say how the operation goes to the background."""
            where = f"{type(self._operation).__qualname__}.async_(...)"
            if arguments:
                raise OptionsError(f"{where} takes its options by name: async_(queue='mailers').")
            session = given.pop("session", None)
            token = check_token(given.pop("idempotence_token", None), where)
            options = AsyncOptions.of(where, given, extra=("idempotence_token", "session"))
            if session is not None:
                from dexpy.recording.sessions import check_place

                session = check_place(session, f"{where} session=")
            return Enqueue(self._operation, options, session, token)

        @property
        def call(self) -> Any:
            """Refused, with what to write instead."""
            raise OptionsError(
                f"{type(self._operation).__qualname__}.async_ is called before it is sent: write async_().call()."
            )

        acall = call

        @property
        def safe(self) -> Any:
            """Refused, with what to do instead."""
            raise OptionsError(f"{type(self._operation).__qualname__}.async_ {_NO_SAFE}")


def check_token(token: object, where: str) -> str | None:
    """The caller's own name for a call.

    Raises:
        OptionsError: It is no text of 1 to 255 characters.
    """
    if token is None or (isinstance(token, str) and 0 < len(token) <= 255 and "\0" not in token):
        return token
    raise OptionsError(f"{where}: idempotence_token={token!r} wants a text of 1 to 255 characters.")


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
) -> list[Ticket[R]]: ...
def enqueue_all(operations: Iterable[Any], *, session: Any = None, **given: Any) -> list[Ticket[Any]]:
    """Send many operations to the background at once: all of them, or none.

    Their records are stored by one statement, and their messages handed over in one round trip.
    Those that want keys are stored one after another, in the same transaction.

    Args:
        operations: Of one class or of several.
        queue: For all of them, as `Operation.async_` has it; what is left out comes from each class.
        in_: Seconds or a timedelta from now on.
        at: An aware moment.
        priority: Higher runs sooner; 0 is usual.
        expires_in: Seconds or a timedelta from now on; not begun by then, it is ``expired``.
        session: The SQLAlchemy session or connection whose transaction the records belong to. With an AsyncSession:
            ``await session.run_sync(lambda sync: enqueue_all(operations, session=sync))``.

    Returns:
        Their tickets, in order.

    Raises:
        OptionsError: An option that cannot be, or something that is no operation.
        NotSerializable: A prop of one of them cannot travel; a note on the exception says which. Nothing was stored.

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
    options = AsyncOptions.of(where, given, extra=("session",))
    if hasattr(operations, "contract"):
        raise OptionsError(f"{where} wants many operations, and got one. Write: enqueue_all([op]).")
    batch = list(operations)
    for number, operation in enumerate(batch):
        if not hasattr(operation, "contract") or isinstance(operation, type):
            raise OptionsError(
                f"{where} wants operations, and number {number + 1} is {operation!r}. Make each with its props, "
                "without async_(): enqueue_all([Greet(name='Ada'), Greet(name='Ben')])."
            )
    if session is not None:
        from dexpy.recording.sessions import check_place, is_awaited

        if is_awaited(session):
            raise OptionsError(
                f"{where} got an {type(session).__name__}, which can only be awaited. "
                "Write: await session.run_sync(lambda sync: enqueue_all(operations, session=sync))."
            )
        session = check_place(session, f"{where} session=")
    dispatcher: Enqueues = dispatcher_in_force()
    return dispatcher.enqueue_all(batch, options, session)


@attrs.frozen
class Async(AsyncOptions):
    """How an operation goes to the background, unless a call says otherwise.

    Attributes:
        queue: A name, or a function of the operation that gives one.
        priority: Higher runs sooner; 0 when nobody says otherwise.
        in_: Seconds or a timedelta from the call on.
        at: An aware moment.
        expires_in: Seconds or a timedelta from the call on, after which it is no longer begun, but ``expired``.

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
