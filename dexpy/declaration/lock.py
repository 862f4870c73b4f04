"""`Lock`: one run at a time for each key, whoever makes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from string import Formatter
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import quote

import attrs

from dexpy.declaration.policies import Delay, seconds_of
from dexpy.declaration.values import encoded
from dexpy.foundation.errors import DeclarationError, OptionsError, did_you_mean, listed

if TYPE_CHECKING:
    from dexpy.declaration.contract import Contract

Backend: TypeAlias = Literal["database", "redis"]
BACKENDS = ("database", "redis")

LOCK_TIMEOUT = "lock_timeout"
"""The code of a run that did not get its lock in time."""
DEFAULT_TIMEOUT_S = 5.0
"""Long enough for a short run ahead, and well under what a web server or a person waits: nobody hangs unseen."""


@attrs.frozen(init=False)
class Lock:
    """One run at a time for each key, synchronous or in a worker, in all processes.

    The lock is taken before the run's transaction begins and given back after it has ended, whatever ended it.
    A process that dies gives it back too.
    Classes with the same key exclude each other.

    Args:
        key: A template over props, ``"account:{account}"``; a function of the operation that gives the key;
            the class's name when left out.
        timeout: Seconds, or a timedelta, to wait for it; 0 tries once, None waits for ever.
            A run that does not get it in time ends with the code ``lock_timeout``; in a worker it is tried again.
        backend: ``"database"`` for the records' database, ``"redis"`` for the broker's Redis.
            Left out: the database, and Redis where there is no database.

            A lock on Redis is a key that expires unless it is renewed.
            It does not exclude for certain: a process that was frozen for longer than its lease (30 s), or a Redis
            that failed over to a replica, may let a second run in while the first one goes on.

    Raises:
        DeclarationError: An argument that cannot be.

    Example:
        >>> from dexpy import Operation
        >>> class Transfer(Operation):
        ...     account: int
        ...     lock = Lock("account:{account}", timeout=2)
        ...     def perform(self) -> int:
        ...         return self.account
        >>> Transfer(account=7).call()
        7
    """

    key: str | Callable[[Any], object] | None
    timeout_s: float | None
    backend: Backend | None

    def __init__(
        self,
        key: str | Callable[[Any], object] | None = None,
        *,
        timeout: Delay | None = DEFAULT_TIMEOUT_S,
        backend: Backend | None = None,
    ) -> None:
        if isinstance(key, str):
            _check_template(key)
        elif key is not None and not callable(key):
            raise DeclarationError(
                f"Lock({key!r}) takes a template over props, Lock('account:{{account}}'), or a function of the "
                "operation; nothing for one lock for the whole class."
            )
        if backend is not None and backend not in BACKENDS:
            raise DeclarationError(f"Lock(backend={backend!r}) is not known. It is one of {listed(BACKENDS)}.")
        made: Any = self
        made.__attrs_init__(key, None if timeout is None else _seconds(timeout), backend)

    @property
    def props(self) -> tuple[str, ...]:
        """The props that its template names."""
        return tuple(dict.fromkeys(_fields(self.key))) if isinstance(self.key, str) else ()

    def check(self, where: str, known: Sequence[str]) -> None:
        """Refuse props that the class does not have.

        Raises:
            DeclarationError: Names the prop, and those that there are.
        """
        for name in self.props:
            if name not in known:
                there = f"The props are {listed(known)}." if known else "The class has no props."
                raise DeclarationError(
                    f"{where} = Lock({self.key!r}) names {name!r}, which is no prop. {there}{did_you_mean(name, known)}"
                )

    def is_secret(self, contract: Contract) -> bool:
        """Whether its key may tell a sensitive prop: nobody knows what a function makes it of."""
        secret = contract.sensitive_props
        return bool(secret) and (callable(self.key) or any(name in secret for name in self.props))

    def text(self, operation: Any, contract: Contract) -> str:
        """The key of one operation.

        In a template a prop stands as it is stored, percent-encoded, so that what separates two props is never part
        of one; a reference counts by its key and makes no query.

        Raises:
            OptionsError: The function gave None, nothing, or something without a JSON form.
            NotSerializable: A prop has no JSON form.
        """
        if self.key is None:
            return contract.name
        if isinstance(self.key, str):
            named = tuple(one for one in contract.props if one.name in self.props)
            values = encoded(contract.cls.__qualname__, named, operation.__dict__)
            return self.key.format_map({name: quote(_plain(value), safe="") for name, value in values.items()})
        where = f"{contract.cls.__qualname__}.lock"
        made = self.key(operation)
        if made is None or made == "":
            raise OptionsError(f"{where}: its function gave {made!r}, which is no key. Return a str, number or tuple.")
        try:
            return made if isinstance(made, str) else json.dumps(made, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise OptionsError(
                f"{where}: its function gave {type(made).__name__}, which has no JSON form ({error}). "
                "Return a str, a number or a tuple of them."
            ) from None


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))


def _seconds(timeout: object) -> float:
    try:
        return seconds_of(timeout, "timeout", "Lock")
    except OptionsError as error:
        raise DeclarationError(f"{error} None waits for ever.") from None


def _fields(template: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(template) if name is not None]


def _check_template(template: str) -> None:
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise DeclarationError(
            f"Lock({template!r}) is no template: {error}. Write Lock('account:{{account}}'); a brace itself is '{{{{'."
        ) from None
    if not template:
        raise DeclarationError("Lock('') has no key. Write Lock('account:{account}'), or Lock() for the whole class.")
    for _, name, spec, conversion in parsed:
        if name is not None and (not name.isidentifier() or spec or conversion):
            raise DeclarationError(
                f"Lock({template!r}): {{{name}}} is not the name of a prop alone. A template takes props as they are "
                "stored; for anything else give a function: Lock(lambda op: ...)."
            )
