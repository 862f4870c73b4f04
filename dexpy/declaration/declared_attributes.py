"""The stored declaration of an operation class, from which its contract is read again after a change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import is_
from types import MappingProxyType
from typing import Any

import attrs

from dexpy.declaration.contract import Contract
from dexpy.declaration.hooks import HOOK, Callback, Guard

DECLARED = "__dexpy_declared__"
"""The attribute of a class with its `Declared`; without it, the class statement is not complete."""
READ_ATTRIBUTES = frozenset(
    """
    __doc__ async_ concurrency discard_on encrypt errors fair lock max_lost on_error once perform rate record
    rescue_from retry_on pipeline schedule timeout transaction unique
    """.split()
)
"""The attributes from which a contract is read, besides guards and callbacks."""
_OF_PYTHON = frozenset({"builtins", "typing", "typing_extensions", "abc"})


@attrs.define(eq=False)
class PlainBase:
    """A base class that is not an operation, whose attributes can change without notice.

    Attributes:
        cls: The base class.
        values: All its attributes at the last comparison.
        read: Those from which a contract is read.
    """

    cls: type
    values: tuple[Any, ...]
    read: Mapping[str, Any]

    @classmethod
    def of(cls, base: type, hooks: Mapping[str, Any]) -> PlainBase:
        """Return the current state of a base class."""
        return cls(base, tuple(vars(base).values()), _read_from(base, hooks))

    def is_changed(self, hooks: Mapping[str, Any]) -> bool:
        """Return whether policies or hooks of the base class have changed."""
        attributes = vars(self.cls)
        if len(attributes) == len(self.values) and all(map(is_, attributes.values(), self.values)):
            return False
        read, values = _read_from(self.cls, hooks), tuple(attributes.values())
        if read.keys() != self.read.keys() or any(read[name] is not self.read[name] for name in read):
            return True
        self.values = values
        return False


@attrs.define(eq=False)
class Declared:
    """The declaration of a class, replaced as a whole when the class changes, so that no stale contract is used.

    Attributes:
        read: A function that reads the contract from the class; None for `Operation`, which has no contract.
        freeze: A function that returns the stored form of an attribute value.
        hooks: Its guards and callbacks by name, including those of earlier states of the class.
        methods: The policies that a plain function or a mock has replaced, for example ``op.async_`` in a test.
        plain_bases: Its base classes that are not operations.
        refused: The attribute whose change was refused last; it is unchanged.
        contract: The contract; None after a change.
    """

    read: Callable[[], Contract] | None
    freeze: Callable[[str, Any], Any]
    hooks: Mapping[str, Guard | Callback] = MappingProxyType({})
    methods: frozenset[str] = frozenset()
    plain_bases: tuple[PlainBase, ...] = ()
    refused: str | None = None
    contract: Contract | None = None

    def keep(self, cls: type, contract: Contract) -> None:
        """Store the contract that was just read."""
        hooks = {guard.code: guard for guard in contract.guards} | {hook.method: hook for hook in contract.callbacks}
        self.hooks = {**self.hooks, **hooks}
        self.plain_bases = tuple(PlainBase.of(base, self.hooks) for base in _plain_bases(cls))
        self.contract = contract

    @property
    def is_outdated(self) -> bool:
        """Return whether a base class that is not an operation has changed since the contract was read."""
        return any(base.is_changed(self.hooks) for base in self.plain_bases)


def declared_of(cls: type) -> Declared | None:
    """Return the declaration of a class; None for a plain class, and during the class statement."""
    declared: Declared | None = vars(cls).get(DECLARED)
    return declared


def _plain_bases(cls: type) -> Iterator[type]:
    return (base for base in cls.__mro__ if DECLARED not in vars(base) and base.__module__ not in _OF_PYTHON)


def _read_from(base: type, hooks: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(base).items()
        if name in READ_ATTRIBUTES or name in hooks or hasattr(value, HOOK)
    }
