"""`defer`: a call of a registered function or method on its way into the database."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

import attrs

from dexpy.background.enqueue import Enqueue
from dexpy.declaration import targets
from dexpy.declaration.policies import AsyncOptions, Delay, QueueChoice
from dexpy.declaration.targets import Target
from dexpy.deferred import DeferredCall
from dexpy.deferred.registration import operation_behind
from dexpy.foundation.errors import OptionsError, Problem, PropsError, did_you_mean

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session

    from dexpy.recording.ticket import Ticket

    Place = Session | Connection | AsyncSession | AsyncConnection

P = ParamSpec("P")
R = TypeVar("R")


@attrs.frozen
class DeferOptions:
    """How a call is kept; see `Defer.with_options`."""

    idempotence_token: str | None = None
    scheduled_at: datetime | None = None
    session: Any = None
    queue: QueueChoice | None = None
    priority: int | None = None
    expires_in: Delay | None = None

    def enqueue(self, target: Any, arguments: tuple[Any, ...], given: Mapping[str, Any]) -> Enqueue[Any]:
        """The call on its way; nothing is stored yet.

        Raises:
            OptionsError: The target was never registered, or an option cannot be.
            PropsError: The arguments do not fit its signature.
        """
        found = targets.target_of(target)
        where = f"defer({found.label})"
        _check_names(found, given, where)
        operation = operation_behind(found)(**_named(found, arguments, given))
        options = AsyncOptions(self.queue, self.priority, None, self.scheduled_at, self.expires_in)
        options.check(where, at="scheduled_at")
        token = self.idempotence_token
        if token is not None and not (isinstance(token, str) and 0 < len(token) <= 255):
            raise OptionsError(f"{where}: idempotence_token={token!r} wants a str of 1 to 255 characters.")
        place = self.session
        if place is not None:
            from dexpy.recording.sessions import check_place

            place = check_place(place, f"{where} session=")
        return Enqueue(operation, options, place, token)


OPTIONS = tuple(field.name for field in attrs.fields(DeferOptions))


def _check_names(target: Target, given: Mapping[str, Any], where: str) -> None:
    """Refuse what looks like a misspelt option: as an argument it would be refused with other words."""
    parameters = {one.name for one in target.parameters}
    for name in given:
        if name not in parameters and (meant := did_you_mean(name, OPTIONS)):
            raise OptionsError(f"{where}: {name!r} is neither an argument of it nor an option.{meant}")


def _named(target: Target, arguments: tuple[Any, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments by name."""
    if not arguments:
        return dict(given)
    names = [one.name for one in target.parameters if one.kind is not one.KEYWORD_ONLY]
    if len(arguments) > len(names):
        raise PropsError(
            target.label, (), advice=f"it takes {len(names)} arguments by position, and got {len(arguments)}."
        )
    by_position = dict(zip(names, arguments, strict=False))
    twice = [Problem("." + name, "to be given once") for name in by_position if name in given]
    if twice:
        raise PropsError(target.label, twice)
    return {**by_position, **given}


class Deferral:
    """`defer` with its options given beforehand: what is given now are the target's own arguments alone.

    Checkers hold them against its signature, and a parameter may be called like an option.
    """

    def __init__(self, options: DeferOptions) -> None:
        self._options = options

    @overload
    def __call__(
        self, target: Callable[P, Coroutine[Any, Any, R]], /, *arguments: P.args, **given: P.kwargs
    ) -> Ticket[R]: ...
    @overload
    def __call__(self, target: Callable[P, R], /, *arguments: P.args, **given: P.kwargs) -> Ticket[R]: ...
    def __call__(self, target: Any, /, *arguments: Any, **given: Any) -> Ticket[Any]:
        """Store the call; see `defer`."""
        return self._options.enqueue(target, arguments, given).call()

    @overload
    async def acall(
        self, target: Callable[P, Coroutine[Any, Any, R]], /, *arguments: P.args, **given: P.kwargs
    ) -> Ticket[R]: ...
    @overload
    async def acall(self, target: Callable[P, R], /, *arguments: P.args, **given: P.kwargs) -> Ticket[R]: ...
    async def acall(self, target: Any, /, *arguments: Any, **given: Any) -> Ticket[Any]:
        """The same from asyncio: the event loop goes on meanwhile."""
        return await self._options.enqueue(target, arguments, given).acall()


class Defer:
    """Have a function or method called later, by a worker: ``defer(OrderClient.fulfill, order_number=7)``.

    The call is a row of the records, in the transaction of the session that is given or current; rolled back with it
    it will never be made. Its arguments are held against the signature at once.

    Args:
        target: Registered with `deferrable`.
        arguments: Its arguments, by position.
        given: Its arguments by name, and the options of `with_options`.

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
        dexpy.PropsError: fulfill cannot be made, its props have 1 problem:
          order_number: wants int, got str '7'
    """

    if TYPE_CHECKING:
        # Without an option, the last two, the arguments are held against the signature. Beside options a checker cannot
        # do that: PEP 612 allows no keyword of one's own next to P.kwargs, and `with_options` is there for it.
        _Later = Callable[..., Coroutine[Any, Any, R]]

        @overload
        def __call__(self, target: _Later[R], /, *, idempotence_token: str | None, **given: Any) -> Ticket[R]: ...
        @overload
        def __call__(
            self, target: Callable[..., R], /, *, idempotence_token: str | None, **given: Any
        ) -> Ticket[R]: ...
        @overload
        def __call__(self, target: _Later[R], /, *, scheduled_at: datetime | None, **given: Any) -> Ticket[R]: ...
        @overload
        def __call__(
            self, target: Callable[..., R], /, *, scheduled_at: datetime | None, **given: Any
        ) -> Ticket[R]: ...
        @overload
        def __call__(self, target: _Later[R], /, *, session: Place | None, **given: Any) -> Ticket[R]: ...
        @overload
        def __call__(self, target: Callable[..., R], /, *, session: Place | None, **given: Any) -> Ticket[R]: ...
        @overload
        def __call__(self, target: _Later[R], /, *, queue: QueueChoice | None, **given: Any) -> Ticket[R]: ...
        @overload
        def __call__(self, target: Callable[..., R], /, *, queue: QueueChoice | None, **given: Any) -> Ticket[R]: ...
        @overload
        def __call__(self, target: _Later[R], /, *, priority: int | None, **given: Any) -> Ticket[R]: ...
        @overload
        def __call__(self, target: Callable[..., R], /, *, priority: int | None, **given: Any) -> Ticket[R]: ...
        @overload
        def __call__(self, target: _Later[R], /, *, expires_in: Delay | None, **given: Any) -> Ticket[R]: ...
        @overload
        def __call__(self, target: Callable[..., R], /, *, expires_in: Delay | None, **given: Any) -> Ticket[R]: ...
        @overload
        def __call__(
            self, target: Callable[P, Coroutine[Any, Any, R]], /, *arguments: P.args, **given: P.kwargs
        ) -> Ticket[R]: ...
        @overload
        def __call__(self, target: Callable[P, R], /, *arguments: P.args, **given: P.kwargs) -> Ticket[R]: ...
        def __call__(self, target: Any, /, *arguments: Any, **given: Any) -> Ticket[Any]:
            """Store the call."""
            ...

    else:

        def __call__(self, target: Any, /, *arguments: Any, **given: Any) -> Ticket[Any]:
            """Store the call."""
            found = targets.target_of(target)
            for one in found.parameters:
                if one.name in OPTIONS and one.name in given:
                    raise OptionsError(
                        f"defer({found.label}, {one.name}=...) may mean the option or the parameter. "
                        f"Write defer.with_options()({found.label}, {one.name}=...) for the parameter."
                    )
            options = DeferOptions(**{name: given.pop(name) for name in OPTIONS if name in given})
            return options.enqueue(target, arguments, given).call()

    def with_options(
        self,
        *,
        idempotence_token: str | None = None,
        scheduled_at: datetime | None = None,
        session: Place | None = None,
        queue: QueueChoice | None = None,
        priority: int | None = None,
        expires_in: Delay | None = None,
    ) -> Deferral:
        """`defer` with options: ``defer.with_options(queue="orders")(OrderClient.fulfill, order_number=7)``.

        Args:
            idempotence_token: A name for this very call, unique for its target: a second call with it is not stored.
            scheduled_at: An aware moment before which it is not made.
            session: The SQLAlchemy session or connection whose transaction the row belongs to; the current session
                when left out. With one of asyncio, ``await defer.with_options(session=...).acall(...)``.
            queue: A name, or a function of the operation behind the target.
            priority: Higher runs sooner; 0 is usual.
            expires_in: Seconds or a timedelta from now on; not begun by then, it is ``expired``.
        """
        return Deferral(DeferOptions(idempotence_token, scheduled_at, session, queue, priority, expires_in))

    def operation_of(self, target: Callable[..., Any]) -> type[DeferredCall]:
        """The operation behind a target: for `explain`, its contract, and queries.

        Raises:
            OptionsError: The target was never registered.
        """
        return operation_behind(targets.target_of(target))


defer = Defer()
