"""`deferrable` and `defer`: a call of a function or method, kept in the database and made later by a worker.

Behind each function stands an operation whose props are its parameters, so that a deferred call is recorded, claimed,
run again, redacted and explained like every other run.
"""

from __future__ import annotations

import copy
import functools
import inspect
import types
import typing
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

import attrs

from dexpy.background.enqueue import Async, Enqueue
from dexpy.declaration import targets
from dexpy.declaration.policies import AsyncOptions, Delay, QueueChoice
from dexpy.declaration.props import RESERVED, prop, reserved_name
from dexpy.declaration.refs import reference_for
from dexpy.declaration.targets import Target
from dexpy.foundation.errors import DeclarationError, OptionsError, Problem, PropsError, did_you_mean, listed
from dexpy.operation import Operation

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session

    from dexpy.recording.ticket import Ticket

    Place = Session | Connection | AsyncSession | AsyncConnection

F = TypeVar("F")
P = ParamSpec("P")
R = TypeVar("R")

POLICIES = frozenset(name for name, kind in Operation.__annotations__.items() if "ClassVar" in kind) - {
    "async_",
    "contract",
    "safe",
}
"""What a class can say about itself, and `deferrable` takes by the same names."""

NO_HANDLER = "__dexpy_no_handler__"


class DeferredCall(Operation):
    """The operation behind each deferred call: derive from it for policies and hooks that many targets share.

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
        raise DeclarationError(f"{type(self).__qualname__} calls nothing. Give it to @deferrable(base=...).")

    def handle_error(self, error: Exception) -> None:
        """Told of every exception that ends an attempt; decides nothing.

        The exception is kept with the record all the same, and the rules say whether there is another attempt.
        """

    setattr(handle_error, NO_HANDLER, True)


@overload
def deferrable(
    target: F,
    /,
    *,
    name: str | None = ...,
    aliases: Sequence[str] = ...,
    queue: QueueChoice | None = ...,
    priority: int | None = ...,
    sensitive: Collection[str] = ...,
    encrypted: Collection[str] = ...,
    handle_error: Callable[[Exception], None] | None = ...,
    base: type[DeferredCall] = ...,
    **policies: Any,
) -> F: ...
@overload
def deferrable(
    *,
    name: str | None = ...,
    aliases: Sequence[str] = ...,
    queue: QueueChoice | None = ...,
    priority: int | None = ...,
    sensitive: Collection[str] = ...,
    encrypted: Collection[str] = ...,
    handle_error: Callable[[Exception], None] | None = ...,
    base: type[DeferredCall] = ...,
    **policies: Any,
) -> Callable[[F], F]: ...
def deferrable(
    target: Any = None,
    /,
    *,
    name: str | None = None,
    aliases: Sequence[str] = (),
    queue: QueueChoice | None = None,
    priority: int | None = None,
    sensitive: Collection[str] = (),
    encrypted: Collection[str] = (),
    handle_error: Callable[[Exception], None] | None = None,
    base: type[DeferredCall] = DeferredCall,
    **policies: Any,
) -> Any:
    """Register a function or method, so that `defer` can have it called later. Called directly it is as it was.

    Its parameters become the props of an operation: annotated ones are checked and stored as props are, others take
    plain JSON; a model of SQLAlchemy is stored by its key and loaded before the call.

    Args:
        target: A function, a staticmethod or classmethod, a method of a class with one instance in its module,
            or, with a name, a bound method.
        name: Its stable name in records and messages; module and qualified name when left out.
        aliases: Names it had before.
        queue: Where its calls go, unless `defer` says otherwise.
        priority: Higher runs sooner; 0 is usual.
        sensitive: Parameters that are shown as ``<sensitive>`` everywhere.
        encrypted: Parameters that are stored encrypted; they are sensitive too.
        handle_error: Told of every exception that ends an attempt; decides nothing.
        base: A `DeferredCall` with what many targets share.
        policies: Class attributes of an operation: ``retry_on=``, ``discard_on=``, ``timeout=``, ``encrypt=`` and
            so on.

    Returns:
        What was given, unchanged.

    Raises:
        DeclarationError: It cannot be called later as it is, or a policy cannot be.

    Example:
        >>> from dexpy import Retry, deferrable
        >>> class OrderClient:
        ...     @staticmethod
        ...     @deferrable(retry_on=(Retry(ConnectionError),), sensitive=("customer_token",))
        ...     def fulfill(order_number: int, customer_token: str) -> str:
        ...         return f"order {order_number} is on its way"
        >>> OrderClient.fulfill(7, customer_token="t")
        'order 7 is on its way'
    """
    if target is None:
        return functools.partial(
            deferrable,
            name=name,
            aliases=aliases,
            queue=queue,
            priority=priority,
            sensitive=sensitive,
            encrypted=encrypted,
            handle_error=handle_error,
            base=base,
            **policies,
        )
    found = Target.of(target, name, aliases)
    for policy in policies:
        if policy not in POLICIES:
            known = [*POLICIES, "name", "aliases", "queue", "priority", "sensitive", "encrypted", "handle_error"]
            raise DeclarationError(
                f"deferrable({found.label}): {policy!r} is no policy. They are {listed(known)}."
                f"{did_you_mean(policy, known)}"
            )
    if not (isinstance(base, type) and issubclass(base, DeferredCall)):
        raise DeclarationError(f"deferrable(base={base!r}) wants a class derived from dexpy.DeferredCall.")
    _check_parameters(found, base)
    body = {**policies, **_props(found, sensitive=sensitive, encrypted=encrypted), **_methods(found, base)}
    if handle_error is not None:
        body["on_error"] = _observer(handle_error)
    if queue is not None or priority is not None:
        body["async_"] = Async(queue=queue, priority=priority)
    body |= {"__module__": found.function.__module__, "__qualname__": found.label, "__doc__": found.function.__doc__}
    keywords = {"name": name, "aliases": found.aliases}
    _operations[found] = types.new_class(found.method, (base,), keywords, lambda namespace: namespace.update(body))
    targets.register(found)
    return target


_operations: dict[Target, type[Any]] = {}


def _check_parameters(target: Target, base: type[DeferredCall]) -> None:
    """Refuse what could not be stored by name, or would hide a part of the operation."""
    if inspect.isgeneratorfunction(target.function) or inspect.isasyncgenfunction(target.function):
        raise DeclarationError(f"deferrable({target.label}): it has a yield, so that nothing of it would run later.")
    for one in target.parameters:
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            raise DeclarationError(
                f"deferrable({target.label}): {one} takes arguments without names of their own, and a deferred call "
                "keeps its arguments by name. Write a parameter for each."
            )
        if one.name in RESERVED or one.name.startswith("_") or hasattr(base, one.name):
            raise DeclarationError(reserved_name(f"deferrable({target.label})", one.name, "no parameter"))


def _props(target: Target, *, sensitive: Collection[str], encrypted: Collection[str]) -> dict[str, Any]:
    """Its parameters as the body of a class."""
    parameters = {one.name: one for one in target.parameters}
    for option, named in (("sensitive", sensitive), ("encrypted", encrypted)):
        if isinstance(named, str):
            raise DeclarationError(f"deferrable({option}={named!r}) wants names in a tuple: {option}=({named!r},).")
        for name in named:
            if name not in parameters:
                raise DeclarationError(
                    f"deferrable({target.label}): {option} names {name!r}, which is no parameter. "
                    f"They are {listed(parameters)}.{did_you_mean(name, parameters)}"
                )
    hints = _hints(target.function)
    body: dict[str, Any] = {"__annotations__": {name: hints.get(name, Any) for name in parameters}}
    for name, one in parameters.items():
        options: dict[str, Any] = {"sensitive": name in sensitive}
        if name in encrypted:
            options["encrypted"] = True
        if type(one.default) in (list, dict, set):
            options["factory"] = functools.partial(copy.deepcopy, one.default)
        elif one.default is not one.empty:
            options["default"] = one.default
        body[name] = prop(**options)
    return body


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Its annotations; a model of SQLAlchemy stands for a reference. What is not there yet is resolved later."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        return dict(inspect.get_annotations(function))
    return {name: reference_for(hint) or hint for name, hint in hints.items()}


def _methods(target: Target, base: type[DeferredCall]) -> dict[str, Any]:
    """What the operation does."""
    by_position = [one.name for one in target.parameters if one.kind is one.POSITIONAL_ONLY]
    by_name = [one.name for one in target.parameters if one.kind is not one.POSITIONAL_ONLY]

    def call(self: Any) -> Any:
        arguments = {name: getattr(self, name) for name in by_name}
        return target.bound()(*(getattr(self, name) for name in by_position), **arguments)

    def perform(self: Any) -> Any:
        return call(self)

    async def perform_async(self: Any) -> Any:
        return await call(self)

    chosen: Any = perform_async if inspect.iscoroutinefunction(target.function) else perform
    raw = inspect.get_annotations(target.function)
    chosen.__annotations__ = {"return": raw["return"]} if "return" in raw else {}
    found: dict[str, Any] = {"perform": chosen}
    if not hasattr(base.handle_error, NO_HANDLER):
        found["on_error"] = _told_to_base
    return found


def _observer(handle_error: Callable[[Exception], None]) -> Callable[[Any, Exception], None]:
    def on_error(_call: Any, error: Exception) -> None:
        handle_error(error)

    return on_error


def _told_to_base(call: Any, error: Exception) -> None:
    call.handle_error(error)


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
        operation = _operations[found](**_named(found, arguments, given))
        options = AsyncOptions(self.queue, self.priority, None, self.scheduled_at, self.expires_in)
        options.check(where)
        token = self.idempotence_token
        if token is not None and not (isinstance(token, str) and 0 < len(token) <= 255):
            raise OptionsError(f"{where}: idempotence_token={token!r} wants a str of 1 to 255 characters.")
        place = self.session
        if place is not None:
            from dexpy.recording.sessions import check_place

            place = check_place(place, f"{where} session=")
        return Enqueue(operation, options, place, token)


OPTIONS = tuple(field.name for field in attrs.fields(DeferOptions))


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
        return _operations[targets.target_of(target)]


defer = Defer()
