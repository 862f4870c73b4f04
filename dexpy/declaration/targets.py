"""Targets: functions and methods that may be called later, known by their names.

A row names its target, and a name leads only to what this process has registered: nothing is imported by name,
and no attribute is looked up that a row spells out.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import attrs

from dexpy.declaration.registry import stable_name
from dexpy.foundation.errors import DeclarationError, OptionsError, did_you_mean

MARK = "__dexpy_target__"
"""Where a registered function keeps its target."""


@attrs.frozen(eq=False)
class Target:
    """One function or method that may be called later.

    Attributes:
        function: As it was written, without what makes a method of it.
        owner: What a bound method is bound to, where it was registered so; else None.
        name: Stable, in records and messages.
        aliases: Earlier names.
    """

    function: Callable[..., Any]
    owner: Any
    name: str
    aliases: tuple[str, ...] = ()

    @classmethod
    def of(cls, given: Any, name: str | None, aliases: Sequence[str] = ()) -> Target:
        """The target of whatever was decorated.

        Raises:
            DeclarationError: It is no function or method, or a bound one without a name.
        """
        function = getattr(given, "__func__", given)
        owner = given.__self__ if inspect.ismethod(given) else None
        if not inspect.isfunction(function):
            raise DeclarationError(
                f"@deferrable takes a function, a staticmethod, a classmethod or a bound method, got {given!r}. "
                "Write a function that makes the call, and decorate that."
            )
        if name is not None and not (isinstance(name, str) and 0 < len(name) <= 255):
            raise DeclarationError(f"deferrable(name={name!r}) wants a str of 1 to 255 characters.")
        if owner is not None and name is None:
            raise DeclarationError(
                f"deferrable({function.__qualname__}) got a bound method, and cannot know what its "
                f'{type(owner).__name__} is called. Give it a name: deferrable(..., name="shop.mailer.send").'
            )
        return cls(function, owner, name or stable_name(cast("Any", function)), tuple(aliases))

    @property
    def label(self) -> str:
        """For messages."""
        return self.function.__qualname__

    @property
    def method(self) -> str:
        """The last part of its name in the program."""
        return self.function.__name__

    @property
    def parameters(self) -> tuple[inspect.Parameter, ...]:
        """What a caller gives; not what a method is bound to."""
        found = tuple(inspect.signature(self.function).parameters.values())
        return found[1:] if self.owner is not None or self._bound_to is not None else found

    @property
    def _bound_to(self) -> str | None:
        """The parameter that a method gets by itself; decorated first, it does not know yet what it will be."""
        if "." not in self.label:
            return None
        first = next(iter(inspect.signature(self.function).parameters), None)
        return first if first in ("self", "cls") else None

    def bound(self) -> Callable[..., Any]:
        """What a call goes to: looked up anew in its module, so that what has taken its place since is called.

        Raises:
            DeclarationError: It is a method, and its module has not exactly one instance to call it on.
        """
        if self.owner is not None:
            return types.MethodType(self.function, self.owner)
        holder = self._holder()
        if holder is None:
            return self.function
        if self._bound_to != "self":
            called: Callable[..., Any] = getattr(holder, self.method, self.function)
            return called
        module = sys.modules.get(self.function.__module__)
        found = {id(value): value for value in vars(module).values() if isinstance(value, holder)}
        if len(found) != 1:
            count = f"{len(found)} of them" if found else "none"
            raise DeclarationError(
                f"{self.label} is a method, called later on the one {holder.__name__} of its module, and "
                f"{self.function.__module__} has {count}. Make it a staticmethod or a classmethod, or register the "
                f'bound one: deferrable(mailer.{self.method}, name="...").'
            )
        bound: Callable[..., Any] = getattr(next(iter(found.values())), self.method)
        return bound

    def _holder(self) -> Any:
        """The class or module that has it as an attribute; None if nobody can tell."""
        found: Any = sys.modules.get(self.function.__module__)
        for part in self.label.split(".")[:-1]:
            found = getattr(found, part, None)
        return found

    @property
    def is_reachable(self) -> bool:
        """Whether it can be found again from its module."""
        return self.owner is not None or self._holder() is not None

    def is_of(self, owner: Any) -> bool:
        """Whether it belongs to a class, instance or module, or is this very function."""
        if self.owner is not None:
            return owner is self.owner or owner is type(self.owner)
        if owner is self._holder() or getattr(owner, MARK, None) is self:
            return True
        return not isinstance(owner, (type, types.ModuleType)) and type(owner) is self._holder()


_targets: dict[str, Target] = {}
_bound: dict[tuple[int, Callable[..., Any]], Target] = {}
"""By the id of what they are bound to: a target keeps its owner alive, so that no other one can have that id."""


def register(target: Target) -> None:
    """Make a target known; it takes the place of one of the same name, of an earlier reading of its module."""
    _targets[target.name] = target
    if target.owner is None:
        setattr(target.function, MARK, target)
    else:
        _bound[id(target.owner), target.function] = target


def target_of(given: Any) -> Target:
    """The target that a callable was registered as.

    Raises:
        OptionsError: It was not; says what to write.
    """
    if inspect.ismethod(given) and (bound := _bound.get((id(given.__self__), given.__func__))) is not None:
        return bound
    label = getattr(given, "__qualname__", None) or repr(given)
    if isinstance(given, type):
        raise OptionsError(
            f"defer({label}) is not possible: it takes a function or method registered with @deferrable. "
            f"For an operation write {label}(...).async_().call()."
        )
    target = getattr(given, MARK, None)
    if not isinstance(target, Target):
        raise OptionsError(
            f"defer({label}) is not possible: it was never registered, so no worker would run it. "
            "Decorate it with @deferrable."
        )
    if target.is_reachable and target.bound() != given:
        raise OptionsError(
            f"defer({label}) is not possible: a worker would call {target.label} of {target.function.__module__}, "
            "which is another one than was given. Give that one, or register this one by a name of its own: "
            'deferrable(..., name="...").'
        )
    return target


def names_of(owner: Any, method: str | None) -> tuple[str, ...]:
    """The stable names of the targets of a class, instance or module, or of one of its methods.

    Args:
        owner: The thing itself, or its dotted name, for what this process does not know.
        method: One of its methods; None for all.

    Raises:
        OptionsError: It has none.
    """
    if isinstance(owner, str):
        return (f"{owner}.{method}",) if method is not None else tuple(_named_under(owner)) or (owner,)
    found = [target for target in _targets.values() if target.is_of(owner)]
    named = [target for target in found if method in (None, target.method)]
    names = tuple(name for target in named for name in (target.name, *target.aliases))
    if not names:
        label = getattr(owner, "__qualname__", None) or getattr(owner, "__name__", None) or repr(owner)
        hint = did_you_mean(method or "", [target.method for target in found])
        what = f"method {method!r}" if method is not None and found else "function or method"
        raise OptionsError(f"where(target={label}): no {what} of it is registered with @deferrable.{hint}")
    return names


def _named_under(owner: str) -> Iterator[str]:
    return (name for name in _targets if name == owner or name.rpartition(".")[0] == owner)
