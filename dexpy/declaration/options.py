"""Options of a prop: what `prop(...)` says about it beyond its type, and whether a value keeps to that."""

from __future__ import annotations

import builtins
import operator
import re
from collections.abc import Callable, Collection
from typing import Any

import attrs

from dexpy.declaration.encryption import encryptor_name
from dexpy.foundation.errors import DeclarationError

MARK = "dexpy"
OWN_NAME = ""
"""Stands for the prop's own name, as the name of an ambient value."""


@attrs.frozen
class PropOptions:
    """What `prop(...)` was given."""

    ge: Any = None
    gt: Any = None
    le: Any = None
    lt: Any = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: re.Pattern[str] | None = None
    choices: tuple[Any, ...] | None = None
    desc: str | None = None
    sensitive: bool = False
    lock: bool = False
    aliases: tuple[str, ...] = ()
    context: str | None = None
    encrypted: str | None = None

    def problem(self, value: Any) -> str | None:
        """What the value ought to have been, or None if it is within all bounds."""
        if value is None:
            return None
        if self.ge is not None and not _keeps(operator.ge, value, self.ge):
            return f"a value >= {self.ge!r}"
        if self.gt is not None and not _keeps(operator.gt, value, self.gt):
            return f"a value > {self.gt!r}"
        if self.le is not None and not _keeps(operator.le, value, self.le):
            return f"a value <= {self.le!r}"
        if self.lt is not None and not _keeps(operator.lt, value, self.lt):
            return f"a value < {self.lt!r}"
        if self.min_length is not None and len(value) < self.min_length:
            return f"a length of at least {self.min_length}"
        if self.max_length is not None and len(value) > self.max_length:
            return f"a length of at most {self.max_length}"
        if self.pattern is not None and self.pattern.fullmatch(value) is None:
            return f"text that matches {self.pattern.pattern!r} as a whole"
        if self.choices is not None and value not in self.choices:
            return f"one of {', '.join(map(repr, self.choices))}"
        return None

    @property
    def bounded(self) -> bool:
        """Whether there is anything to check."""
        bounds = (self.ge, self.gt, self.le, self.lt, self.min_length, self.max_length, self.pattern, self.choices)
        return any(bound is not None for bound in bounds)


def _keeps(compare: Callable[[Any, Any], Any], value: Any, bound: Any) -> bool:
    """Whether a value keeps to a bound; one that cannot be compared with it does not."""
    try:
        return bool(compare(value, bound))
    except ArithmeticError:  # a Decimal that is not a number
        return False
    except TypeError:
        if type(value) is type(bound):  # one of the two moments is aware
            return False
        raise


def prop(
    *,
    default: Any = attrs.NOTHING,
    factory: Callable[[], Any] | None = None,
    ge: Any = None,
    gt: Any = None,
    le: Any = None,
    lt: Any = None,
    min_length: int | None = None,
    max_length: int | None = None,
    pattern: str | None = None,
    choices: Collection[Any] | None = None,
    desc: str | None = None,
    sensitive: bool = False,
    lock: bool = False,
    aliases: Collection[str] = (),
    context: str | bool | None = None,
    encrypted: bool | str = False,
) -> Any:
    """Say more about a prop than its type.

    Args:
        default: The value when none is given.
        factory: Makes that value anew each time.
        ge: Smallest value.
        gt: Bound that the value must exceed.
        le: Largest value.
        lt: Bound that the value must stay below.
        min_length: Of text and containers.
        max_length: Of text and containers.
        pattern: A regular expression that the whole text must match.
        choices: The only values allowed.
        desc: For people who read the contract.
        sensitive: Shown as ``<sensitive>`` in every repr, log line and message.
        lock: For a `Ref`: load its row FOR UPDATE.
        aliases: Earlier names, under which stored params may still have it.
        context: The name of the ambient value that it takes when none is given, before the default; True for a value
            of its own name. With it ``default=...`` says to type checkers that it may be left out, and gives none.
        encrypted: Stored and sent encrypted, by the default encryptor or the one of this name; sensitive too.

    Raises:
        DeclarationError: Arguments that cannot be together.

    Example:
        >>> from dexpy import Operation, prop
        >>> class Greet(Operation):
        ...     times: int = prop(default=1, ge=1, le=10)
        ...     def perform(self) -> str:
        ...         return "hi " * self.times
        >>> Greet(times=0)
        Traceback (most recent call last):
        ...
        dexpy.PropsError: Greet cannot be made, its props have 1 problem:
          times: wants a value >= 1, got int 0
    """
    if default is not attrs.NOTHING and factory is not None:
        raise DeclarationError("prop(default=, factory=) were both given. Give one.")
    if context is not None and type(context) is not bool and not (isinstance(context, str) and context):
        raise DeclarationError(
            f"prop(context={context!r}) wants the name of an ambient value, or True for the prop's own name."
        )
    if default is ... and context:
        default = attrs.NOTHING
    if factory is not None and not builtins.callable(factory):
        raise DeclarationError(f"prop(factory={factory!r}) wants a function without arguments.")
    if is_shared(default):
        raise DeclarationError(
            f"prop(default={default!r}) would be shared by all operations. "
            f"Write prop(factory={type(default).__name__}) or a lambda."
        )
    if isinstance(aliases, str):
        raise DeclarationError(f"prop(aliases={aliases!r}) wants names in a tuple. Write aliases=({aliases!r},).")
    if isinstance(choices, str):
        raise DeclarationError(f"prop(choices={choices!r}) wants values in a tuple. Write choices=({choices!r},).")
    try:
        compiled = None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise DeclarationError(f"prop(pattern={pattern!r}) is no regular expression: {error}.") from None
    by = encryptor_name(encrypted, "prop(encrypted=)")
    options = PropOptions(
        ge,
        gt,
        le,
        lt,
        min_length,
        max_length,
        compiled,
        None if choices is None else tuple(choices),
        desc,
        sensitive or by is not None,
        lock,
        tuple(aliases),
        OWN_NAME if context is True else context or None,
        by,
    )
    made = attrs.Factory(factory) if factory is not None else default
    return attrs.field(default=made, kw_only=True, metadata={MARK: options})


def is_shared(default: object) -> bool:
    """Whether a default is one that all operations would change together."""
    return isinstance(default, (list, dict, set))
