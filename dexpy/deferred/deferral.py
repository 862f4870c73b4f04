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
from dexpy.enqueue.api import Enqueue
from dexpy.enqueue.batch_target import BatchTarget, check_batch, check_token
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
    batch: BatchTarget | None = None

    def enqueue(self, target: Any, arguments: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Enqueue[Any]:
        """Return the call, ready to be enqueued; nothing is stored yet.

        Raises:
            OptionsError: The target is not registered, or an option is invalid.
            PropsError: The arguments do not match its signature.
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
        batch = None if self.batch is None else check_batch(self.batch, where)
        return Enqueue(operation, options, session, token, batch)


MAX_COMPARED = 100
"""The number of argument names that are compared with the options."""
OPTIONS = tuple(field.name for field in attrs.fields(DeferOptions) if field.name != "batch")
"""The options that are arguments of `defer` itself."""


def _check_names(target: Target, kwargs: Mapping[str, Any], where: str) -> None:
    """Refuse an unknown name that is close to the name of an option, with a hint."""
    parameters = {parameter.name for parameter in target.parameters}
    for name in list(kwargs)[:MAX_COMPARED]:
        if name not in parameters and (hint := did_you_mean(name, OPTIONS)):
            raise OptionsError(f"{where}: unknown argument {name!r}.{hint}")


def _kwargs_of(target: Target, arguments: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments by name."""
    if not arguments:
        return dict(kwargs)
    names = [parameter.name for parameter in target.parameters if parameter.kind is not parameter.KEYWORD_ONLY]
    if len(arguments) > len(names):
        raise PropsError(
            target.label, (), advice=f"expected at most {len(names)} positional arguments, got {len(arguments)}."
        )
    by_position = dict(zip(names, arguments, strict=False))
    duplicates = [
        Problem("." + name, reason="given twice, by position and by name") for name in by_position if name in kwargs
    ]
    if duplicates:
        raise PropsError(target.label, duplicates)
    return {**by_position, **kwargs}


class Deferral:
    """`defer` with options: a call takes the arguments of the target only.

    Type checkers check them against its signature, and a parameter may have the name of an option.
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
        """Store the call from asyncio, without blocking the event loop."""
        return await self._options.enqueue(target, arguments, kwargs).acall()


class Defer:
    """Store a call of a function or method, which a worker makes: ``defer(OrderClient.fulfill, order_number=7)``.

    The call is a record in the transaction of the given or current session; if that is rolled back, the call is not
    made. The arguments are checked against the signature at once.

    Args:
        target: A function or method registered with `deferrable`.
        arguments: Its positional arguments.
        kwargs: Its arguments by name, and the options of `with_options`.

    Returns:
        The ticket of the call. If an earlier call of the target had the same ``idempotence_token``, it is the ticket
        of that call, and ``ticket.duplicate`` is true.

    Raises:
        OptionsError: The target is not registered, or an option is invalid.
        PropsError: The arguments do not match the signature.
        NotSerializable: An argument has no JSON form; nothing was stored.

    Example:
        >>> from dexpy import defer, deferrable
        >>> @deferrable
        ... def fulfill(order_number: int) -> str:
        ...     return f"order {order_number} is on its way"
        >>> defer(fulfill, order_number="7")
        Traceback (most recent call last):
        ...
        dexpy.errors.PropsError: fulfill: 1 invalid prop
          order_number: expected int, got str '7'
    """

    if TYPE_CHECKING:
        # The last two overloads have no options, so that checkers check the arguments against the signature. PEP 612
        # allows no keywords beside P.kwargs; `with_options` replaces them.
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
                        f"defer({registered.label}, {parameter.name}=...): an option and a parameter have this name. "
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
        batch: BatchTarget | None = None,
    ) -> Deferral:
        """`defer` with options: ``defer.with_options(queue="orders")(OrderClient.fulfill, order_number=7)``.

        Args:
            idempotence_token: A name of this call, unique for its target: a second call with it is not stored.
            at: An aware datetime before which the call does not run.
            in_: Seconds or a timedelta from now, instead of *at*.
            session: The SQLAlchemy session or connection whose transaction the record belongs to. Default: the current
                session. With one of asyncio, ``await defer.with_options(session=...).acall(...)``.
            queue: A name, or a function of the operation behind the target.
            priority: Higher runs sooner; 0 by default.
            expires_in: Seconds or a timedelta from now; a call that has not started by then is ``expired``.
            batch: The batch that the call belongs to, or its ticket; see `dexpy.batch`.
        """
        return Deferral(DeferOptions(idempotence_token, at, in_, session, queue, priority, expires_in, batch))

    def operation_of(self, target: Callable[..., Any]) -> type[DeferredCall]:
        """Return the operation behind a target: for `explain`, its contract, and queries.

        Raises:
            OptionsError: The target is not registered.
        """
        return operation_of_target(deferred_targets.target_of(target))


defer = Defer()
