"""Decorators that mark methods of an operation: guards and callbacks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from dexpy.foundation.errors import DeclarationError

HOOK = "__dexpy_hook__"
"""Marks the methods that are guards or callbacks."""

F = TypeVar("F", bound=Callable[..., Any])


@attrs.frozen
class Guard:
    """A method that returns whether the run must be refused.

    Attributes:
        code: The method's name, which is the error code.
        message: A message for people.
        requires: Codes of guards; this guard is skipped unless all of them have passed.
    """

    code: str
    message: str
    requires: tuple[str, ...] = ()


@attrs.frozen
class Callback:
    """A method that runs before, after or around `perform`."""

    moment: str
    method: str


def _mark(method: Any, decorator: str, hook: Any) -> Any:
    if not inspect.isfunction(method):
        raise DeclarationError(
            f"@{decorator}: expected a method, got {method!r}. Write the decorator directly above `def`."
        )
    if inspect.iscoroutinefunction(method):
        raise DeclarationError(
            f"@{decorator} {method.__qualname__}: expected a plain method, got an `async def`. Guards and callbacks "
            "run in the thread of the run; write `def`, and await in perform."
        )
    setattr(method, HOOK, hook)
    return method


def guard(message: str | None = None, *, requires: tuple[str, ...] | str = ()) -> Callable[[F], F]:
    """Mark a method that refuses the run by returning a true value.

    The name of the method is the error code. All guards run, and all refusals are reported.

    Args:
        message: A message for people. Default: the code.
        requires: Codes of other guards; this guard is skipped if one of them refuses.

    Example:
        >>> from dexpy import Operation, guard
        >>> class Withdraw(Operation):
        ...     amount: int
        ...     @guard("The amount must be positive")
        ...     def not_positive(self) -> bool:
        ...         return self.amount <= 0
        ...     def perform(self) -> int:
        ...         return self.amount
        >>> Withdraw(amount=0).safe.call().code
        'not_positive'
    """
    if callable(message):
        raise DeclarationError('@guard: expected parentheses. Write @guard("The customer must be active").')
    codes = (requires,) if isinstance(requires, str) else tuple(requires)

    def mark(method: F) -> F:
        marked: F = _mark(method, "guard(...)", Guard(getattr(method, "__name__", ""), message or "", codes))
        return marked

    return mark


def before(method: F) -> F:
    """Mark a method that runs before `perform`, inside the transaction; an `Error` that it raises ends the run."""
    marked: F = _mark(method, "before", Callback("before", getattr(method, "__name__", "")))
    return marked


def after(method: F) -> F:
    """Mark a method that runs after `perform` has returned, inside the transaction."""
    marked: F = _mark(method, "after", Callback("after", getattr(method, "__name__", "")))
    return marked


def around(method: F) -> F:
    """Mark a method that runs around `perform` and the other callbacks; it must call its argument once.

    Example:
        >>> from dexpy import Operation, around
        >>> class Import(Operation):
        ...     @around
        ...     def announced(self, proceed) -> None:
        ...         print("begin")
        ...         proceed()
        ...         print("end")
        ...     def perform(self) -> int:
        ...         print("work")
        ...         return 1
        >>> Import().call()
        begin
        work
        end
        1
    """
    marked: F = _mark(method, "around", Callback("around", getattr(method, "__name__", "")))
    return marked
