"""Targets: registered functions and methods that a worker may call, by their names.

A row stores the name of its target, which is looked up among the targets of this process: nothing is imported by name,
and no attribute is looked up by a name from a row.
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
"""The attribute of a registered function with its target."""


@attrs.frozen(eq=False)
class Target:
    """One function or method that may be called later.

    Attributes:
        function: The plain function, without staticmethod, classmethod or binding.
        owner: The object to which a bound method is bound; None for any other target.
        name: The stable name in records and messages.
        aliases: Earlier names.
    """

    function: Callable[..., Any]
    owner: Any
    name: str
    aliases: tuple[str, ...] = ()

    @classmethod
    def of(cls, callable_: Any, name: str | None, aliases: Sequence[str] = ()) -> Target:
        """Return the target of a decorated callable.

        Raises:
            DeclarationError: It is not a function or method, or a bound method without a name.
        """
        function = getattr(callable_, "__func__", callable_)
        owner = callable_.__self__ if inspect.ismethod(callable_) else None
        if not inspect.isfunction(function):
            raise DeclarationError(
                f"@deferrable: expected a function, a staticmethod, a classmethod or a bound method, "
                f"got {callable_!r}. Decorate a function that makes the call."
            )
        if name is not None and not (isinstance(name, str) and 0 < len(name) <= 255):
            raise DeclarationError(f"deferrable(name={name!r}): expected a str of 1 to 255 characters.")
        if owner is not None and name is None:
            raise DeclarationError(
                f"deferrable({function.__qualname__}): a method that is bound to a {type(owner).__name__} requires a "
                'name. Write deferrable(..., name="shop.mailer.send").'
            )
        return cls(function, owner, name or stable_name(cast("Any", function)), tuple(aliases))

    @property
    def label(self) -> str:
        """The name for messages."""
        return self.function.__qualname__

    @property
    def method(self) -> str:
        """The last part of its name in the program."""
        return self.function.__name__

    @property
    def parameters(self) -> tuple[inspect.Parameter, ...]:
        """The parameters of a call, without the implicit one of a method."""
        parameters = tuple(inspect.signature(self.function).parameters.values())
        return parameters[1:] if self.owner is not None or self._implicit_parameter is not None else parameters

    @property
    def _implicit_parameter(self) -> str | None:
        """The implicit parameter of a method, by its name: at the decorator the function is not a method yet."""
        if "." not in self.label:
            return None
        first = next(iter(inspect.signature(self.function).parameters), None)
        return first if first in ("self", "cls") else None

    def bound(self) -> Callable[..., Any]:
        """Return the callable, looked up again in its module, so that a replacement such as a mock is called.

        Raises:
            DeclarationError: It is a method, and its module does not have exactly one instance to call it on.
        """
        if self.owner is not None:
            return types.MethodType(self.function, self.owner)
        container = self._container()
        if container is None:
            return self.function
        if self._implicit_parameter != "self":
            called: Callable[..., Any] = getattr(container, self.method, self.function)
            return called
        module = sys.modules.get(self.function.__module__)
        instances = {id(value): value for value in vars(module).values() if isinstance(value, container)}
        if len(instances) != 1:
            raise DeclarationError(
                f"{self.label}: expected exactly one {container.__name__} in {self.function.__module__} to call the "
                f"method on, got {len(instances)}. Make it a staticmethod or a classmethod, or register the bound "
                f'method: deferrable(mailer.{self.method}, name="...").'
            )
        bound: Callable[..., Any] = getattr(next(iter(instances.values())), self.method)
        return bound

    def _container(self) -> Any:
        """Return the class or module that has it as an attribute; None if it is unknown."""
        container: Any = sys.modules.get(self.function.__module__)
        for name in self.label.split(".")[:-1]:
            container = getattr(container, name, None)
        return container

    @property
    def is_reachable(self) -> bool:
        """Whether a lookup in its module finds it."""
        return self.owner is not None or self._container() is not None

    def is_of(self, owner: Any) -> bool:
        """Return whether it belongs to a class, instance or module, or is this very function."""
        if self.owner is not None:
            return owner is self.owner or owner is type(self.owner)
        if owner is self._container() or getattr(owner, MARK, None) is self:
            return True
        return not isinstance(owner, (type, types.ModuleType)) and type(owner) is self._container()


_targets: dict[str, Target] = {}
_bound: dict[tuple[int, Callable[..., Any]], Target] = {}
"""Targets by the id of the owner: a target keeps its owner alive, so that no other object has that id."""


def register(target: Target) -> None:
    """Register a target; it replaces one with the same name from an earlier load of its module."""
    _targets[target.name] = target
    if target.owner is None:
        setattr(target.function, MARK, target)
    else:
        _bound[id(target.owner), target.function] = target


def target_of(callable_: Any) -> Target:
    """Return the target of a registered callable.

    Raises:
        OptionsError: The callable is not registered.
    """
    if inspect.ismethod(callable_) and (bound := _bound.get((id(callable_.__self__), callable_.__func__))) is not None:
        return bound
    label = getattr(callable_, "__qualname__", None) or repr(callable_)
    if isinstance(callable_, type):
        raise OptionsError(
            f"defer({label}): expected a function or method registered with @deferrable. "
            f"For an operation write {label}(...).async_().call()."
        )
    target = getattr(callable_, MARK, None)
    if not isinstance(target, Target):
        raise OptionsError(
            f"defer({label}): not registered, so that no worker can run it. Decorate it with @deferrable."
        )
    if target.is_reachable and target.bound() != callable_:
        raise OptionsError(
            f"defer({label}): another function is registered under this name, {target.label} of "
            f"{target.function.__module__}. Pass that one, or register this one under another name: "
            'deferrable(..., name="...").'
        )
    return target


def names_of(owner: Any, method: str | None) -> tuple[str, ...]:
    """Return the stable names of the targets of a class, instance or module, or of one of its methods.

    Args:
        owner: The class, instance or module, or its dotted name if this process does not declare it.
        method: One of its methods; None for all.

    Raises:
        OptionsError: It has no targets.
    """
    if isinstance(owner, str):
        return (f"{owner}.{method}",) if method is not None else tuple(_named_under(owner)) or (owner,)
    candidates = [target for target in _targets.values() if target.is_of(owner)]
    matching = [target for target in candidates if method in (None, target.method)]
    names = tuple(name for target in matching for name in (target.name, *target.aliases))
    if not names:
        label = getattr(owner, "__qualname__", None) or getattr(owner, "__name__", None) or repr(owner)
        hint = did_you_mean(method or "", [target.method for target in candidates])
        kind = f"method {method!r}" if method is not None and candidates else "function or method"
        raise OptionsError(f"where(target={label}): no {kind} of it is registered with @deferrable.{hint}")
    return names


def _named_under(owner: str) -> Iterator[str]:
    return (name for name in _targets if name == owner or name.rpartition(".")[0] == owner)
