"""Context values, such as a tenant or a locale: set once around many calls, and read by props that name them.

They apply in a block, in the threads and coroutines that it starts, and in the runs inside it.
Values in `Propagate` are propagated with the operations that the block enqueues to the worker, like the trace.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, cast

import attrs

from dexpy.foundation.errors import NotSerializable, SensitiveInTransit
from dexpy.foundation.scoped_values import Entered, ScopedValue


@attrs.frozen
class Propagate:
    """Marks a context value that is propagated to the worker as well; it must be plain JSON and not secret.

    It is stored with the record, or sent with the message, unencrypted.

    Example:
        >>> with context(locale=Propagate("de")):
        ...     current_context()["locale"]
        'de'
    """

    value: Any


@attrs.frozen
class ContextValues:
    """The current values.

    Attributes:
        values: All context values by name.
        propagated: Those that are propagated to the worker.
    """

    values: Mapping[str, Any] = MappingProxyType({})
    propagated: Mapping[str, Any] = MappingProxyType({})

    def inside(self, values: Mapping[str, Any]) -> ContextValues:
        """Return the values inside a block; a plain value replaces a propagated one, in this process only."""
        plain = {name: value.value if isinstance(value, Propagate) else value for name, value in values.items()}
        propagated = {name: plain[name] for name, value in values.items() if isinstance(value, Propagate)}
        inherited = {name: value for name, value in self.propagated.items() if name not in values}
        return ContextValues(MappingProxyType({**self.values, **plain}), MappingProxyType({**inherited, **propagated}))


NOTHING = ContextValues()
context_scope: ScopedValue[ContextValues] = ScopedValue("dexpy_context", NOTHING)
"""The current values."""
_secret_owners: dict[str, str] = {}


@contextmanager
def context(**values: Any) -> Generator[None, None, None]:
    """Set context values inside the block, in addition to the outer ones; None is a value as well.

    Args:
        values: The values by the names in ``prop(context="current_tenant")``.
            A value in ``Propagate(...)`` is also sent to the workers with the operations that the block enqueues.

    Raises:
        NotSerializable: A propagated value is not plain JSON; the error has its path.
        SensitiveInTransit: A propagated value belongs to a sensitive prop.

    Example:
        >>> from dexpy import Operation, context, prop
        >>> class Greet(Operation):
        ...     locale: str = prop(context="current_locale", default="en")
        ...     def perform(self) -> str:
        ...         return {"en": "Hello", "de": "Hallo"}[self.locale]
        >>> with context(current_locale="de"):
        ...     Greet().call(), Greet(locale="en").call()
        ('Hallo', 'Hello')
    """
    checked = {
        name: Propagate(_plain_copy(value.value, name)) if isinstance(value, Propagate) else value
        for name, value in values.items()
    }
    context_values = context_scope.innermost().value.inside(checked)
    check_no_secrets(context_values.propagated)
    block = context_scope.enter(context_values)
    try:
        yield
    finally:
        context_scope.leave(block)


def current_context() -> Mapping[str, Any]:
    """Return all current context values by name."""
    return context_scope.innermost().value.values


def attach(values: Mapping[str, Any]) -> Entered[ContextValues] | None:
    """Set the values propagated from an enqueuer; None if they are set already. Pass the result to `detach`."""
    current = context_scope.innermost().value
    if values is current.propagated:
        return None
    # Values that are secret by now are dropped: an older program sent them.
    public = {name: Propagate(value) for name, value in values.items() if name not in _secret_owners}
    return context_scope.enter(current.inside(public))


def detach(block: Entered[ContextValues]) -> None:
    """Restore the values from before `attach`."""
    context_scope.leave(block)


def forbid_propagation(name: str, owner: str) -> None:
    """Refuse to propagate the value of a name from now on, because a prop declares it as secret."""
    _secret_owners[name] = owner


def secret_owner(name: str) -> str:
    """Return the sensitive prop that a context value of this name fills; "" if there is none."""
    return _secret_owners.get(name, "")


def check_no_secrets(values: Mapping[str, Any]) -> None:
    """Refuse to propagate values of sensitive props.

    Raises:
        SensitiveInTransit: A value belongs to a sensitive prop.
    """
    for name in values:
        if name in _secret_owners:
            raise SensitiveInTransit(
                f"context({name}=Propagate(...)): {name} would be sent unencrypted, but {_secret_owners[name]} is "
                "sensitive. Pass it without Propagate: the prop itself is sent with the operation."
            )


def _plain_copy(value: object, path: str) -> Any:
    """Return a copy of a value that is plain JSON."""
    if value is None or type(value) in (bool, int):
        return value
    if type(value) is float and value - value == 0:
        return value
    if type(value) is str:
        if "\0" in value or (not value.isascii() and value != value.encode("utf-8", "ignore").decode()):
            raise NotSerializable("has a NUL character or a lone surrogate, which databases do not store", path=path)
        return value
    if type(value) is list:
        return [_plain_copy(item, f"{path}[{index}]") for index, item in enumerate(cast("list[object]", value))]
    if type(value) is dict:
        entries = cast("dict[object, object]", value)
        for key in entries:
            if type(key) is not str:
                raise NotSerializable(f"has a key of type {type(key).__name__}, but JSON keys are str", path=path)
        return {_plain_copy(key, path): _plain_copy(item, f"{path}[{key!r}]") for key, item in entries.items()}
    reason = "is NaN or infinite" if type(value) is float else f"is of type {type(value).__name__}"
    raise NotSerializable(
        f"{reason}, but only plain JSON is propagated. Pass it without Propagate, or pass an id", path=path
    )
