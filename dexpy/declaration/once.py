"""`Once`: an idempotency key, whose result is given again instead of made again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, overload

import attrs

from dexpy.declaration.contract import Contract
from dexpy.declaration.keys import KeyFunction, KeyRule, digest
from dexpy.declaration.policies import Delay, Record, seconds_of
from dexpy.declaration.values import construct, decoded, encoded
from dexpy.foundation.errors import (
    DeclarationError,
    OptionsError,
    PropsError,
    Undecodable,
    did_you_mean,
    listed,
)

if TYPE_CHECKING:
    from typing import Self

O = TypeVar("O")  # noqa: E741 - an operation

WAIT_S = 5.0
"""How long a call waits for another one with its key, in seconds, unless the class says otherwise."""
GIVEN = "__dexpy_once__"
"""Where an operation keeps the key of `BoundOnce`; no prop can have the name."""
_VARIANTS = "__dexpy_variants__"


@attrs.frozen
class BoundOnce(Generic[O]):
    """What ``op.once`` is: call it with a key."""

    _operation: O

    def __call__(self, key: str | None) -> O:
        """The same operation with this idempotency key, or with none.

        Args:
            key: Any text; it is kept as a digest. None for a run without a key, whatever the class declares.

        Raises:
            OptionsError: The key is no text, or its class keeps no record that could answer a second call.
        """
        operation: Any = self._operation
        where = f"{type(operation).__qualname__}.once(...)"
        if key is not None:
            if not isinstance(key, str) or not key:
                raise OptionsError(f"{where} wants a text that is not empty, or None: got {key!r}.")
            if (missing := what_is_missing(operation.contract.record)) is not None:
                raise OptionsError(f"{where}: {missing}. Let the class be recorded: record = True.")
        copy: Any = object.__new__(operation.__class__)
        copy.__dict__.update(operation.__dict__, **{GIVEN: key})
        return cast("O", copy)


@attrs.frozen
class OnceOptions:
    """What a class says of its idempotency key.

    Attributes:
        rule: How the key is made.
        expires_in_s: Seconds from the first call on, after which a call runs again; None for never.
        params: What becomes of a call with the key and other params: check or ignore.
        wait_s: How long a call waits for another one with its key, in seconds.
        declared: Whether there is a key without being given one.
    """

    rule: KeyRule = attrs.field(factory=KeyRule)
    expires_in_s: float | None = None
    params: Literal["check", "ignore"] = "check"
    wait_s: float = WAIT_S
    declared: bool = True


@attrs.frozen(init=False)
class Once(OnceOptions):
    """Run once for each key, and give the same result or business error to every later call with it.

    The key belongs to the operation's name. A crash, a lost worker, a refusal by a guard and a cancellation free it.

    Args:
        by: Names of props, one function of the operation, or nothing for all props.
        expires_in: Seconds or a timedelta from the first call on, after which a call runs again; None for never.
        params: ``"check"`` refuses a call with the key and other params; ``"ignore"`` gives it the first one's result.
        wait: Seconds or a timedelta that a call waits for another one with its key.

    Raises:
        DeclarationError: An argument that cannot be.

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
    ) -> None:
        rule = KeyRule.of(by, "Once(...)")
        expires_in_s = None if expires_in is None else declared_seconds(expires_in, "expires_in", "Once")
        if expires_in_s == 0:
            raise DeclarationError(f"Once(expires_in={expires_in!r}) wants more than 0 seconds, or None for never.")
        if params not in ("check", "ignore"):
            raise DeclarationError(f"Once(params={params!r}) wants 'check' or 'ignore'.")
        made: Any = self
        made.__attrs_init__(rule, expires_in_s, params, declared_seconds(wait, "wait", "Once"), True)

    @classmethod
    def never(cls) -> Self:
        """For a subclass that has no key, whatever its base declares; ``op.once("key")`` still gives it one."""
        made = cls()
        object.__setattr__(made, "declared", False)
        return made

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
    """A duration of a declaration, in seconds.

    Raises:
        DeclarationError: It is none.
    """
    try:
        return seconds_of(delay, name, f"{policy}(...)")
    except OptionsError as error:
        raise DeclarationError(str(error)) from None


def what_is_missing(record: Record | None) -> str | None:
    """Why a class with this record cannot have a key for replay; None if it can."""
    if record is None:
        return "a key for replay is kept in the record of a run, and by record = False there is none"
    if not record.params:
        return "a key for replay is claimed with the record, and by Record(params=False) there is none from the start"
    if not record.result:
        return "the second call is given the result of the first, and by Record(result=False) none is kept"
    return None


def variant_for(operation: Any, contract: Contract) -> Contract:
    """The contract of one operation: with a key where ``op.once("key")`` gave it one, without by ``op.once(None)``."""
    given: dict[str, Any] = operation.__dict__
    if GIVEN not in given:
        return contract
    keyed = given[GIVEN] is not None
    if keyed == (contract.once is not None):
        return contract
    # Kept with the class's own contract, as its cached properties are: a fold is made once for each.
    kept: dict[bool, Contract] = vars(contract).setdefault(_VARIANTS, {})
    if keyed not in kept:
        kept[keyed] = attrs.evolve(contract, once=OnceOptions() if keyed else None)
    return kept[keyed]


def once_key(operation: Any, contract: Contract) -> str:
    """The digest of an operation's key.

    Raises:
        OptionsError: The function of its class gave no key.
        NotSerializable: A prop of the key has no JSON form.
    """
    own: dict[str, Any] = operation.__dict__
    given, once = own.get(GIVEN), contract.once
    assert once is not None  # noqa: S101 - callers have looked
    parts = given if given is not None else once.rule.parts(operation, contract, f"{contract.cls.__qualname__}.once")
    return digest("once", contract.name, parts)


def is_same_request(contract: Contract, stored: Any, params: Any) -> bool:
    """Whether the params of an earlier run are those of this call, as its class reads them today.

    Args:
        contract: Of the operation.
        stored: Of the earlier run; None where they were not kept, and nothing can be said against them.
        params: Of this call, encoded.
    """
    if stored is None or params is None or stored == params:
        return True
    owner = contract.cls.__qualname__
    try:
        # A prop that was added since has its default in the earlier run, and one that has gone does not count.
        values, _ = decoded(owner, contract.props, stored)
        again = encoded(owner, contract.props, contract.cls(**values).__dict__)
        return bool(again == params)
    except (PropsError, Undecodable):
        return False


def key_to_clear(contract: Contract, key: str | None, props: Mapping[str, Any]) -> str:
    """The digest of a key that is named from outside, by its text or by the props that it is made of.

    Raises:
        OptionsError: Both or neither were given, or a prop of the key is missing.
        PropsError: A prop has a value that cannot be.
    """
    where = f"{contract.cls.__qualname__}.clear_once(...)"
    if key is None and "key" in props and "key" not in [one.name for one in contract.props]:
        props = dict(props)
        key = props.pop("key")
    if key is not None:
        if props:
            raise OptionsError(f"{where} got a key and props. Give one of them.")
        if not isinstance(key, str) or not key:
            raise OptionsError(f"{where} wants the text that op.once(...) was given: got {key!r}.")
        return digest("once", contract.name, key)
    if contract.once is None:
        raise OptionsError(f'{where}: the class declares no once. Name the key that was given: clear_once("key").')
    rule = contract.once.rule
    if rule.function is not None or not rule.props:
        if not props and contract.props:
            raise OptionsError(f"{where} wants the props of the operation, or the key's text.")
        return once_key(contract.cls(**props), contract)
    known = [one.name for one in contract.props]
    for name in props:
        if name not in known:
            raise OptionsError(f"{where}: {name!r} is no prop.{did_you_mean(name, known)}")
    if missing := [name for name in rule.props if name not in props]:
        raise OptionsError(f"{where} wants the props that the key is made of; {listed(missing)} is missing.")
    wanted = tuple(one for one in contract.props if one.name in rule.props)
    owner = contract.cls.__qualname__
    values = construct(owner, wanted, {name: props[name] for name in rule.props})
    return digest("once", contract.name, encoded(owner, wanted, values))
