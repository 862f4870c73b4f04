"""`Once`: an idempotency key, whose result is replayed to later calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, overload

import attrs

from dexpy.foundation.errors import DeclarationError, OptionsError
from dexpy.policies.keys import KeyFunction, KeyRule, check_group, check_text
from dexpy.policies.options import Delay, Recording, delay_seconds

if TYPE_CHECKING:
    from typing import Self

O = TypeVar("O")  # noqa: E741 - an operation

WAIT_S = 5.0
"""The default time that a call waits for another one with its key, in seconds."""
KEY_ATTRIBUTE = "__dexpy_once__"
"""The attribute with the key of `BoundOnce`; no prop can have this name."""


@attrs.frozen
class BoundOnce(Generic[O]):
    """The type of ``op.once``, which is called with a key."""

    _operation: O

    def __call__(self, key: str | None) -> O:
        """Return a copy of the operation with this idempotency key, or without one.

        Args:
            key: Any non-empty text; it is stored as a digest. None for a run without a key, also if the class has one.

        Raises:
            OptionsError: The key is not a str, or runs of the class have no record to replay.
        """
        operation: Any = self._operation
        where = f"{type(operation).__qualname__}.once(...)"
        if key is not None:
            key = check_text(key, where)
            if (reason := why_not_replayable(operation.contract.record)) is not None:
                raise OptionsError(f"{where}: {reason}. Write record = True in the class.")
        copy: Any = object.__new__(operation.__class__)
        copy.__dict__.update(operation.__dict__, **{KEY_ATTRIBUTE: key})
        return cast("O", copy)


@attrs.frozen
class OnceOptions:
    """The idempotency key of a class.

    Attributes:
        rule: How the key is computed.
        expires_in_s: Seconds after the first call, after which a call runs again; None for never.
        params: Whether other params with the same key are refused: check or ignore.
        wait_s: The time that a call waits for another one with its key, in seconds.
        declared: Whether calls have a key by default.
        group: Replaces the class in the key.
    """

    rule: KeyRule = attrs.field(factory=KeyRule)
    expires_in_s: float | None = None
    params: Literal["check", "ignore"] = "check"
    wait_s: float = WAIT_S
    declared: bool = True
    group: str | None = None


@attrs.frozen(init=False)
class Once(OnceOptions):
    """Run once for each key, and replay the result or business error to every later call with it.

    The key applies to the current name of the operation and its earlier names.
    A crash, a lost worker, a rejection by a guard and a cancellation release it.

    Args:
        by: Names of props, one function of the operation, or nothing for all props.
        expires_in: Seconds or a timedelta after the first call, after which a call runs again; None for never.
        params: ``"check"`` refuses a call with the key and other params; ``"ignore"`` replays the first result to it.
        wait: Seconds or a timedelta that a call waits for another one with its key.
        template: Text with props in braces, ``"order:{order}"``, instead of *by*.
        group: A name that replaces the class in the key: classes with the same group share their keys.

    Raises:
        DeclarationError: An argument is invalid.

    Example:
        >>> from dexpy import Once, Operation
        >>> class Charge(Operation):
        ...     order: int
        ...     amount: int
        ...     once = Once("order", expires_in=86_400)
        ...     def perform(self) -> str:
        ...         return f"charged {self.amount}"
        >>> Charge.once.rule.props
        ('order',)
    """

    def __init__(
        self,
        *by: str | KeyFunction,
        expires_in: Delay | None = None,
        params: Literal["check", "ignore"] = "check",
        wait: Delay = WAIT_S,
        template: str | None = None,
        group: str | None = None,
    ) -> None:
        rule = KeyRule.of(by, "Once(...)", template)
        group = check_group(group, "Once")
        expires_in_s = None if expires_in is None else declared_seconds(expires_in, "expires_in", "Once")
        if expires_in_s == 0:
            raise DeclarationError(f"Once(expires_in={expires_in!r}): expected more than 0 seconds, or None for never.")
        if params not in ("check", "ignore"):
            raise DeclarationError(f"Once(params={params!r}): expected 'check' or 'ignore'.")
        instance: Any = self
        instance.__attrs_init__(rule, expires_in_s, params, declared_seconds(wait, "wait", "Once"), True, group)

    @classmethod
    def never(cls) -> Self:
        """Return the policy of a subclass without a key, whatever its base declares; ``op.once("key")`` still works."""
        instance = cls()
        object.__setattr__(instance, "declared", False)
        return instance

    if TYPE_CHECKING:

        @overload
        def __get__(self, obj: None, owner: Any) -> Self: ...
        @overload
        def __get__(self, obj: O, owner: Any) -> BoundOnce[O]: ...
        def __get__(self, obj: Any, owner: Any) -> Any: ...

    else:

        def __get__(self, obj: Any, owner: Any) -> Any:
            return self if obj is None else BoundOnce(obj)


def declared_seconds(delay: object, name: str, policy: str) -> float:
    """Return a declared duration in seconds.

    Raises:
        DeclarationError: It is not a duration.
    """
    try:
        return delay_seconds(delay, name, f"{policy}(...)")
    except OptionsError as error:
        raise DeclarationError(str(error)) from None


def why_not_replayable(record: Recording | None) -> str | None:
    """Return why a class with this record cannot have an idempotency key; None if it can."""
    if record is None:
        return "an idempotency key requires a record, which record = False excludes"
    if not record.params:
        return "an idempotency key requires a record from the start of a run, which Recording(params=False) excludes"
    if not record.result:
        return "a replay requires the stored result, which Recording(result=False) excludes"
    return None
