"""Options of a prop: the arguments of `prop(...)`, and whether a value satisfies them."""

from __future__ import annotations

import builtins
import operator
import re
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any, cast

import attrs

from dexpy.foundation.encryption import encryptor_name
from dexpy.foundation.errors import DeclarationError

MARK = "dexpy"
OWN_NAME = ""
"""Stands for the name of the prop as the name of a context value."""


@attrs.frozen(eq=False)
class PropOptions:
    """The arguments of `prop(...)`; compared by identity, so that `Annotated` can contain any of them."""

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
    execution_options: tuple[tuple[str, Any], ...] = ()

    def problem(self, value: Any) -> str | None:
        """Return the expected value as text, or None if the value is within all bounds."""
        if value is None:
            return None
        if self.ge is not None and not _holds(operator.ge, value, self.ge):
            return f"a value >= {self.ge!r}"
        if self.gt is not None and not _holds(operator.gt, value, self.gt):
            return f"a value > {self.gt!r}"
        if self.le is not None and not _holds(operator.le, value, self.le):
            return f"a value <= {self.le!r}"
        if self.lt is not None and not _holds(operator.lt, value, self.lt):
            return f"a value < {self.lt!r}"
        if self.min_length is not None and not _holds(operator.ge, _length_of(value), self.min_length):
            return f"a length of at least {self.min_length}"
        if self.max_length is not None and not _holds(operator.le, _length_of(value), self.max_length):
            return f"a length of at most {self.max_length}"
        if self.pattern is not None and not (isinstance(value, str) and self.pattern.fullmatch(value)):
            return f"text that matches {self.pattern.pattern!r} as a whole"
        if self.choices is not None and not _holds(operator.contains, self.choices, value):
            if self.sensitive:
                return f"one of its {len(self.choices)} declared choices"
            return f"one of {', '.join(map(repr, self.choices))}"
        return None

    @property
    def bounded(self) -> bool:
        """Whether there is anything to check."""
        bounds = (self.ge, self.gt, self.le, self.lt, self.min_length, self.max_length, self.pattern, self.choices)
        return any(bound is not None for bound in bounds)


def _holds(compare: Callable[[Any, Any], Any], value: Any, bound: Any) -> bool:
    """Return whether a value satisfies a bound; an incomparable one does not."""
    try:
        return bool(compare(value, bound))
    except Exception:  # noqa: BLE001 - the comparison may be the application's own
        return False


def _length_of(value: Any) -> int | None:
    try:
        return len(value)
    except Exception:  # noqa: BLE001 - it may be the application's own, and Any has values without one
        return None


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
    pattern: str | re.Pattern[str] | None = None,
    choices: Collection[Any] | None = None,
    desc: str | None = None,
    sensitive: bool = False,
    lock: bool = False,
    aliases: Collection[str] = (),
    context: str | bool | None = None,
    encrypted: bool | str = False,
    execution_options: Mapping[str, Hashable] | None = None,
) -> Any:
    """Declare constraints and options of a prop.

    Args:
        default: The value when none is given.
        factory: A function that returns a new default for each operation.
        ge: The smallest valid value.
        gt: A bound; valid values are greater.
        le: The largest valid value.
        lt: A bound; valid values are less.
        min_length: The minimum length of text or a container.
        max_length: The maximum length of text or a container.
        pattern: A regular expression that the whole text must match.
        choices: The valid values.
        desc: A description in the contract.
        sensitive: Whether every repr, log line and message shows ``<sensitive>`` instead of the value.
        lock: For a `Ref`: load its row FOR UPDATE.
        aliases: Earlier names, which stored params may still contain.
        context: The name of the context value that replaces a missing argument, before the default; True for the name
            of the prop. With it, ``default=...`` makes the argument optional for type checkers only.
        encrypted: Whether the value is stored and sent encrypted, which includes `sensitive`; the name of an encryptor
            for another one than the default.
        execution_options: For a `Ref`: SQLAlchemy's execution options of the statement that loads its row, for example
            ``{"include_deleted": True}`` for a session that reads them in ``do_orm_execute``.

    Raises:
        DeclarationError: An argument is invalid, or two arguments exclude each other.

    Example:
        >>> from dexpy import Operation, prop
        >>> class Greet(Operation):
        ...     times: int = prop(default=1, ge=1, le=10)
        ...     def perform(self) -> str:
        ...         return "hi " * self.times
        >>> Greet(times=0)
        Traceback (most recent call last):
        ...
        dexpy.errors.PropsError: Greet: 1 invalid prop
          times: expected a value >= 1, got int 0
    """
    if default is not attrs.NOTHING and factory is not None:
        raise DeclarationError("prop(default=, factory=): expected one of them, got both.")
    if context is not None and type(context) is not bool and not (isinstance(context, str) and context):
        raise DeclarationError(
            f"prop(context={context!r}): expected the name of a context value, or True for the name of the prop."
        )
    if default is ... and context:
        default = attrs.NOTHING
    if factory is not None and not builtins.callable(factory):
        raise DeclarationError(f"prop(factory={factory!r}): expected a function without arguments.")
    if is_shared(default):
        raise DeclarationError(
            f"prop(default={default!r}) would be shared by all operations. "
            f"Write prop(factory={type(default).__name__}), or pass a lambda."
        )
    _check_arguments(min_length=min_length, max_length=max_length, desc=desc, sensitive=sensitive, lock=lock)
    if isinstance(aliases, str):
        raise DeclarationError(f"prop(aliases={aliases!r}): expected a tuple of names. Write aliases=({aliases!r},).")
    if isinstance(choices, str):
        raise DeclarationError(f"prop(choices={choices!r}): expected a tuple of values. Write choices=({choices!r},).")
    if not all(isinstance(alias, str) and alias for alias in aliases):
        raise DeclarationError(f"prop(aliases={aliases!r}): expected names, each a non-empty str.")
    compiled = None if pattern is None else _compiled_pattern(pattern)
    encryptor = encryptor_name(encrypted, "prop(encrypted=)")
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
        sensitive or encryptor is not None,
        lock,
        tuple(aliases),
        OWN_NAME if context is True else context or None,
        encryptor,
        _checked_execution_options(execution_options),
    )
    default_or_factory = attrs.Factory(factory) if factory is not None else default
    return attrs.field(default=default_or_factory, kw_only=True, metadata={MARK: options})


def _checked_execution_options(options: object) -> tuple[tuple[str, Any], ...]:
    pairs: tuple[tuple[str, Any], ...] = ()
    if isinstance(options, Mapping):
        pairs = tuple(cast("Mapping[str, Any]", options).items())
    try:
        hash(pairs)
    except TypeError:
        pairs = ()
    if options is not None and (not pairs or not all(isinstance(name, str) for name, _ in pairs)):
        raise DeclarationError(
            f"prop(execution_options={options!r}): expected a mapping of names to hashable values, as in "
            '{"include_deleted": True}.'
        )
    return tuple(sorted(pairs, key=lambda pair: pair[0]))


def _check_arguments(**arguments: Any) -> None:
    for name in ("min_length", "max_length"):
        length = arguments[name]
        if length is not None and (type(length) is not int or length < 0):
            raise DeclarationError(f"prop({name}={length!r}): expected an int of at least 0.")
    for name in ("sensitive", "lock"):
        if type(arguments[name]) is not bool:
            raise DeclarationError(f"prop({name}={arguments[name]!r}): expected True or False.")
    if arguments["desc"] is not None and not isinstance(arguments["desc"], str):
        raise DeclarationError(f"prop(desc={arguments['desc']!r}): expected a str.")


def _compiled_pattern(pattern: Any) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError, RecursionError, OverflowError) as error:
        raise DeclarationError(f"prop(pattern={pattern!r}): invalid regular expression: {error}.") from None
    if not isinstance(compiled.pattern, str):
        raise DeclarationError(f"prop(pattern={pattern!r}): expected a pattern of str, got one of bytes.")
    return compiled


def is_shared(default: object) -> bool:
    """Return whether all operations would share and change a default."""
    return isinstance(default, (list, dict, set))
