"""Ambient values: what is said once around many calls, a tenant or a locale, and taken up by props that ask for it.

They are in force in a block, in the threads and coroutines that it starts, and in the runs inside.
Those marked by `Travels` go on to the worker with what is enqueued in the block, beside the trace.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from types import MappingProxyType
from typing import Any, cast

import attrs

from dexpy.foundation.errors import NotSerializable, SensitiveInTransit


@attrs.frozen
class Travels:
    """Marks an ambient value that goes to the worker too; plain JSON, and nothing secret.

    It is stored with the record, or sent with the message, for anybody to read who reads those.

    Example:
        >>> with context(locale=Travels("de")):
        ...     current_context()["locale"]
        'de'
    """

    value: Any


@attrs.frozen
class Surroundings:
    """What is in force.

    Attributes:
        values: Every ambient value by its name.
        travelling: Those that go to the worker.
    """

    values: Mapping[str, Any] = MappingProxyType({})
    travelling: Mapping[str, Any] = MappingProxyType({})

    def inside(self, values: Mapping[str, Any]) -> Surroundings:
        """What is in force in a block that says these; a plain value under the name of a travelling one stays here."""
        own = {name: value.value if isinstance(value, Travels) else value for name, value in values.items()}
        going = {name: own[name] for name, value in values.items() if isinstance(value, Travels)}
        staying = {name: value for name, value in self.travelling.items() if name not in values}
        return Surroundings(MappingProxyType({**self.values, **own}), MappingProxyType({**staying, **going}))


NOTHING = Surroundings()
_current: ContextVar[Surroundings] = ContextVar("dexpy_context", default=NOTHING)
_secrets: dict[str, str] = {}


@contextmanager
def context(**values: Any) -> Generator[None, None, None]:
    """Put ambient values in force inside the block, over those around it; None is a value as well.

    Args:
        values: By the names that props ask for: ``prop(context="current_tenant")``.
            ``Travels(...)`` around one sends it to the workers with what is enqueued inside.

    Raises:
        NotSerializable: A value that is to travel is no plain JSON; names its path.
        SensitiveInTransit: A value that is to travel belongs to a sensitive prop.

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
        name: Travels(_plain(value.value, name)) if isinstance(value, Travels) else value
        for name, value in values.items()
    }
    surroundings = _current.get().inside(checked)
    _refuse_secrets(surroundings.travelling)
    token = _current.set(surroundings)
    try:
        yield
    finally:
        _current.reset(token)


def current_context() -> Mapping[str, Any]:
    """Every ambient value in force here, by its name."""
    return _current.get().values


def travelling() -> Mapping[str, Any]:
    """The ambient values that go with what is enqueued here.

    Raises:
        SensitiveInTransit: One of them belongs to a sensitive prop.
    """
    values = _current.get().travelling
    if values:
        _refuse_secrets(values)
    return values


def arrive(values: Mapping[str, Any]) -> Token[Surroundings] | None:
    """Put values that have travelled in force; None if they are already. The answer goes to `depart`."""
    current = _current.get()
    if values is current.travelling:
        return None
    # Those that became secret since are left out: they were sent by an older program.
    known = {name: Travels(value) for name, value in values.items() if name not in _secrets}
    return _current.set(current.inside(known))


def depart(token: Token[Surroundings]) -> None:
    """Put what was there before in force again."""
    _current.reset(token)


def keep_secret(name: str, owner: str) -> None:
    """Let the value of a name not travel from now on, because a prop says that nobody may read it."""
    _secrets[name] = owner


def _refuse_secrets(values: Mapping[str, Any]) -> None:
    for name in values:
        if name in _secrets:
            raise SensitiveInTransit(
                f"context({name}=Travels(...)) would travel in the clear, and {_secrets[name]} says that nobody may "
                "read it. Leave Travels out: the prop itself goes to the worker with the operation."
            )


def _plain(value: object, path: str) -> Any:
    """A copy of a value, if it is plain JSON."""
    if value is None or type(value) in (bool, int):
        return value
    if type(value) is float and value - value == 0:
        return value
    if type(value) is str:
        if "\0" in value or (not value.isascii() and value != value.encode("utf-8", "ignore").decode()):
            raise NotSerializable("has a NUL character or a lone surrogate, and cannot travel", path=path)
        return value
    if type(value) is list:
        return [_plain(item, f"{path}[{index}]") for index, item in enumerate(cast("list[object]", value))]
    if type(value) is dict:
        entries = cast("dict[object, object]", value)
        for key in entries:
            if type(key) is not str:
                raise NotSerializable(f"has a key of type {type(key).__name__}; keys must be str in JSON", path=path)
        return {_plain(key, path): _plain(item, f"{path}[{key!r}]") for key, item in entries.items()}
    reason = "is NaN or infinite" if type(value) is float else f"is of type {type(value).__name__}"
    raise NotSerializable(f"{reason}, and only plain JSON travels: leave Travels out, or pass an id", path=path)
