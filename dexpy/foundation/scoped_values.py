"""Values that are current within a block; blocks may be left in any order and in any task or thread.

A generator may end in another task or thread than it started in: by ``aclose``, in the teardown of a fixture, or at
garbage collection. The token of a `ContextVar` is invalid there, so that blocks do not use one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Generic, TypeVar

import attrs

T = TypeVar("T")


@attrs.define(eq=False)
class Entered(Generic[T]):
    """A block that has been entered.

    Attributes:
        value: The value within the block.
        outer: The enclosing block; None for the default.
        is_left: Whether the block was left.
    """

    value: T
    outer: Entered[T] | None
    is_left: bool = False


class ScopedValue(Generic[T]):
    """A value that nested blocks set, separately for each context.

    Args:
        name: The name of the context variable.
        default: The value outside of all blocks.

    Attributes:
        innermost: A function that returns the innermost block of this context, whose value is current.
    """

    def __init__(self, name: str, default: T) -> None:
        self._default = Entered(default, None)
        self._innermost: ContextVar[Entered[T]] = ContextVar(name, default=self._default)
        self.innermost: Callable[[], Entered[T]] = self._innermost.get

    def enter(self, value: T) -> Entered[T]:
        """Make a value current; pass the result to `leave`."""
        block = Entered(value, self._innermost.get())
        self._innermost.set(block)
        return block

    def leave(self, block: Entered[T]) -> None:
        """Restore the value of the enclosing block.

        If the block is not the current one, because a nested block is still open or this is another context, the
        current value stays.
        """
        block.is_left = True
        if self._innermost.get() is not block:
            return
        outer = block.outer
        while outer is not None and outer.is_left:
            outer = outer.outer
        self._innermost.set(outer or self._default)

    def clear(self) -> None:
        """Restore the default in this context, even if blocks are open."""
        self._innermost.set(self._default)
