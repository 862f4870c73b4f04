"""`defer`: stores a call of a registered function or method in the database."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

import attrs

from dexpy.declaration import deferred_targets
from dexpy.declaration.deferred_targets import Target
from dexpy.deferred import DeferredCall
from dexpy.deferred.registration import operation_of_target
from dexpy.enqueue.api import Enqueue, check_token
from dexpy.foundation.errors import OptionsError, Problem, PropsError, did_you_mean
from dexpy.policies.options import AsyncOptions, Delay, QueueChoice
from dexpy.transactions.sessions import check_session_or_connection

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session

    from dexpy.recording.ticket import Ticket

    AnySession = Session | Connection | AsyncSession | AsyncConnection

P = ParamSpec("P")
R = TypeVar("R")


@attrs.frozen
class DeferOptions:
    """Options of a deferred call; see `Defer.with_options`."""

    idempotence_token: str | None = None
    at: datetime | None = None
    in_: Delay | None = None
    session: Any = None
    queue: QueueChoice | None = None
    priority: int | None = None
    expires_in: Delay | None = None

    def enqueue(self, target: Any, arguments: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Enqueue[Any]:
        """Return the call, ready to be enqueued; nothing is stored yet.

        Raises:
            OptionsError: The target was never registered, or an option cannot be.
            PropsError: The arguments do not fit its signature.
        """
        registered = deferred_targets.target_of(target)
        where = f"defer({registered.label})"
        _check_names(registered, kwargs, where)
        operation = operation_of_target(registered)(**_kwargs_of(registered, arguments, kwargs))
        options = AsyncOptions(self.queue, self.priority, self.in_, self.at, self.expires_in)
        options.check(where)
        token = check_token(self.idempotence_token, where, "str")
        session = self.session
        if session is not None:
            session = check_session_or_connection(session, f"{where} session=")
        return Enqueue(operation, options, session, token)


MAX_COMPARED = 100
"""So many names of arguments are compared with those of the options."""
OPTIONS = tuple(field.name for field in attrs.fields(DeferOptions))


def _check_names(target: Target, kwargs: Mapping[str, Any], where: str) -> None:
    """Refuse a name that is close to an option's: as an argument it would be refused with another message."""
    parameters = {parameter.name for parameter in target.parameters}
    for name in list(kwargs)[:MAX_COMPARED]:
        if name not in parameters and (hint := did_you_mean(name, OPTIONS)):
            raise OptionsError(f"{where}: {name!r} is neither an argument of it nor an option.{hint}")


def _kwargs_of(target: Target, arguments: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments by name."""
    if not arguments:
        return dict(kwargs)
    names = [parameter.name for parameter in target.parameters if parameter.kind is not parameter.KEYWORD_ONLY]
    if len(arguments) > len(names):
        raise PropsError(
            target.label, (), advice=f"it takes {len(names)} arguments by position, and got {len(arguments)}."
        )
    by_position = dict(zip(names, arguments, strict=False))
    duplicates = [Problem("." + name, "to be given once") for name in by_position if name in kwargs]
    if duplicates:
        raise PropsError(target.label, duplicates)
    return {**by_position, **kwargs}


class Deferral:
    """`defer` with its options given beforehand: what is given now are the target's own arguments alone.

    Checkers hold them against its signature, and a parameter may be called like an option.
    """

    def __init__(self, options: DeferOptions) -> None:
        self._options = options

    @overload
    def __call__(
        self, target: Callable[P, Coroutine[Any, Any, R]], /, *arguments: P.args, **kwargs: P.kwargs
    ) -> Ticket[R]: ...
    @overload
    def __call__(self, target: Callable[P, R], /, *arguments: P.args, **kwargs: P.kwargs) -> Ticket[R]: ...
    def __call__(self, target: Any, /, *arguments: Any, **kwargs: Any) -> Ticket[Any]:
        """Store the call; see `defer`."""
        return self._options.enqueue(target, arguments, kwargs).call()

    @overload
    async def acall(
        self, target: Callable[P, Coroutine[Any, Any, R]], /, *arguments: P.args, **kwargs: P.kwargs
    ) -> Ticket[R]: ...
    @overload
    async def acall(self, target: Callable[P, R], /, *arguments: P.args, **kwargs: P.kwargs) -> Ticket[R]: ...
    async def acall(self, target: Any, /, *arguments: Any, **kwargs: Any) -> Ticket[Any]:
        """Return the same from asyncio, without blocking the event loop."""
        return await self._options.enqueue(target, arguments, kwargs).acall()


class Defer:
    """Have a function or method called later, by a worker: ``defer(OrderClient.fulfill, order_number=7)``.

    The call is a row of the records, in the transaction of the session that is given or current; rolled back with it
    it will never be made. Its arguments are held against the signature at once.

    Args:
        target: Registered with `deferrable`.
        arguments: Its arguments, by position.
        kwargs: Its arguments by name, and the options of `with_options`.

    Returns:
        The ticket of the call; with an ``idempotence_token`` that an earlier call of this target had, of that one,
        and ``ticket.duplicate`` is true.

    Raises:
        OptionsError: The target was never registered, or an option cannot be.
        PropsError: The arguments do not fit the signature.
        NotSerializable: An argument cannot travel; nothing was stored.

    Example:
        >>> from dexpy import defer, deferrable
        >>> @deferrable
        ... def fulfill(order_number: int) -> str:
        ...     return f"order {order_number} is on its way"
        >>> defer(fulfill, order_number="7")
        Traceback (most recent call last):
        ...
        dexpy.errors.PropsError: fulfill cannot be made, its props have 1 problem:
          order_number: wants int, got str '7'
    """

    if TYPE_CHECKING:
        # Without an option, the last two, the arguments are held against the signature. Beside options a checker cannot
        # do that: PEP 612 allows no other keyword next to P.kwargs, and `with_options` is there for it.
        _Later = Callable[..., Coroutine[Any, Any, R]]

        @overload
        def __call__(self, target: _Later[R], /, *, idempotence_token: str | None, **kwargs: Any) -> Ticket[R]: ...
        @overload
        def __call__(
            self, target: Callable[..., R], /, *, idempotence_token: str | None, **kwargs: Any
        ) -> Ticket[R]: ...
        @overload
        def __call__(self, target: _Later[R], /, *, at: datetime | None, **kwargs: Any) -> Ticket[R]: ...
        @overload
        def __call__(self, target: Callable[..., R], /, *, at: datetime | None, **kwargs: Any) -> Ticket[R]: ...
        @overload
        def __call__(self, target: _Later[R], /, *, in_: Delay | None, **kwargs: Any) -> Ticket[R]: ...
        @overload
        def __call__(self, target: Callable[..., R], /, *, in_: Delay | None, **kwargs: Any) -> Ticket[R]: ...
        @overload
        def __call__(self, target: _Later[R], /, *, session: AnySession | None, **kwargs: Any) -> Ticket[R]: ...
        @overload
        def __call__(self, target: Callable[..., R], /, *, session: AnySession | None, **kwargs: Any) -> Ticket[R]: ...
        @overload
        def __call__(self, target: _Later[R], /, *, queue: QueueChoice | None, **kwargs: Any) -> Ticket[R]: ...
        @overload
        def __call__(self, target: Callable[..., R], /, *, queue: QueueChoice | None, **kwargs: Any) -> Ticket[R]: ...
        @overload
        def __call__(self, target: _Later[R], /, *, priority: int | None, **kwargs: Any) -> Ticket[R]: ...
        @overload
        def __call__(self, target: Callable[..., R], /, *, priority: int | None, **kwargs: Any) -> Ticket[R]: ...
        @overload
        def __call__(self, target: _Later[R], /, *, expires_in: Delay | None, **kwargs: Any) -> Ticket[R]: ...
        @overload
        def __call__(self, target: Callable[..., R], /, *, expires_in: Delay | None, **kwargs: Any) -> Ticket[R]: ...
        @overload
        def __call__(
            self, target: Callable[P, Coroutine[Any, Any, R]], /, *arguments: P.args, **kwargs: P.kwargs
        ) -> Ticket[R]: ...
        @overload
        def __call__(self, target: Callable[P, R], /, *arguments: P.args, **kwargs: P.kwargs) -> Ticket[R]: ...
        def __call__(self, target: Any, /, *arguments: Any, **kwargs: Any) -> Ticket[Any]:
            """Store the call."""
            ...

    else:

        def __call__(self, target: Any, /, *arguments: Any, **kwargs: Any) -> Ticket[Any]:
            """Store the call."""
            registered = deferred_targets.target_of(target)
            for parameter in registered.parameters:
                if parameter.name in OPTIONS and parameter.name in kwargs:
                    raise OptionsError(
                        f"defer({registered.label}, {parameter.name}=...) may mean the option or the parameter. "
                        f"Write defer.with_options()({registered.label}, {parameter.name}=...) for the parameter."
                    )
            options = DeferOptions(**{name: kwargs.pop(name) for name in OPTIONS if name in kwargs})
            return options.enqueue(target, arguments, kwargs).call()

    def with_options(
        self,
        *,
        idempotence_token: str | None = None,
        at: datetime | None = None,
        in_: Delay | None = None,
        session: AnySession | None = None,
        queue: QueueChoice | None = None,
        priority: int | None = None,
        expires_in: Delay | None = None,
    ) -> Deferral:
        """`defer` with options: ``defer.with_options(queue="orders")(OrderClient.fulfill, order_number=7)``.

        Args:
            idempotence_token: A name for this very call, unique for its target: a second call with it is not stored.
            at: An aware datetime before which the call does not run.
            in_: Seconds or a timedelta from now on, instead of *at*.
            session: The SQLAlchemy session or connection whose transaction the row belongs to; the current session
                when left out. With one of asyncio, ``await defer.with_options(session=...).acall(...)``.
            queue: A name, or a function of the operation behind the target.
            priority: Higher runs sooner; 0 is usual.
            expires_in: Seconds or a timedelta from now on; not begun by then, it is ``expired``.
        """
        return Deferral(DeferOptions(idempotence_token, at, in_, session, queue, priority, expires_in))

    def operation_of(self, target: Callable[..., Any]) -> type[DeferredCall]:
        """Return the operation behind a target: for `explain`, its contract, and queries.

        Raises:
            OptionsError: The target was never registered.
        """
        return operation_of_target(deferred_targets.target_of(target))


defer = Defer()
