"""`deferrable`: registers a function or method, and declares the operation behind it."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar, overload

from dexpy.declaration import deferred_targets
from dexpy.declaration.deferred_targets import Target
from dexpy.deferred import DeferredCall
from dexpy.deferred.function_operation import check_parameters, methods_of, on_error_hook_of, props_of
from dexpy.enqueue.api import Async
from dexpy.foundation.errors import DeclarationError, did_you_mean, listed
from dexpy.operation import Operation
from dexpy.policies.options import QueueChoice

F = TypeVar("F")

POLICIES = frozenset(name for name, kind in Operation.__annotations__.items() if "ClassVar" in kind) - {
    "async_",
    "contract",
    "safe",
}
"""The class attributes that `deferrable` takes as keywords."""

_operations: dict[Target, type[Any]] = {}


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
    """Register a function or method for `defer`; a direct call does not change.

    Its parameters become the props of an operation: annotated ones are checked and stored as props, others accept
    plain JSON; an instance of a SQLAlchemy model is stored by its key and loaded before the call.

    Args:
        target: A function, a staticmethod or classmethod, a method of a class with one instance in its module,
            or, with a name, a bound method.
        name: Its stable name in records and messages; module and qualified name when left out.
        aliases: Earlier names.
        queue: The queue of its calls, unless `defer` names another.
        priority: Higher runs sooner; 0 by default.
        sensitive: Parameters that are shown as ``<sensitive>`` everywhere.
        encrypted: Parameters that are stored encrypted; they are sensitive too.
        handle_error: Called with every exception that ends an attempt; it does not decide whether to retry.
        base: A `DeferredCall` with the policies and hooks that many targets share.
        policies: Class attributes of an operation, for example ``retry_on=``, ``discard_on=``, ``timeout=`` or
            ``encrypt=``.

    Returns:
        The target, unchanged.

    Raises:
        DeclarationError: The target has no name by which a worker finds it, or a policy is invalid.

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
    registered = Target.of(target, name, aliases)
    for policy in policies:
        if policy not in POLICIES:
            known = [*POLICIES, "name", "aliases", "queue", "priority", "sensitive", "encrypted", "handle_error"]
            raise DeclarationError(
                f"deferrable({registered.label}): unknown policy {policy!r}; expected one of {listed(known)}."
                f"{did_you_mean(policy, known)}"
            )
    if not (isinstance(base, type) and issubclass(base, DeferredCall)):
        raise DeclarationError(f"deferrable(base={base!r}): expected a subclass of dexpy.DeferredCall.")
    check_parameters(registered, base)
    attributes = {
        **policies,
        **props_of(registered, sensitive=sensitive, encrypted=encrypted),
        **methods_of(registered, base),
    }
    if handle_error is not None:
        attributes["on_error"] = on_error_hook_of(handle_error)
    if queue is not None or priority is not None:
        attributes["async_"] = Async(queue=queue, priority=priority)
    attributes |= {
        "__module__": registered.function.__module__,
        "__qualname__": registered.label,
        "__doc__": registered.function.__doc__,
    }
    keywords = {"name": name, "aliases": registered.aliases}
    _operations[registered] = types.new_class(
        registered.method, (base,), keywords, lambda namespace: namespace.update(attributes)
    )
    deferred_targets.register(registered)
    return target


def operation_of_target(target: Target) -> type[Any]:
    """Return the operation that makes the calls of a registered target."""
    return _operations[target]
