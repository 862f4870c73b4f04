"""`Lock`: one run at a time for each key, in all processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import attrs

from dexpy.foundation.errors import DeclarationError, OptionsError, listed
from dexpy.policies.keys import KeyRule, check_group
from dexpy.policies.options import Delay, delay_seconds

Backend: TypeAlias = Literal["database", "redis"]
BACKENDS = ("database", "redis")

LOCK_TIMEOUT = "lock_timeout"
"""The code of a run that did not get its lock in time."""
DEFAULT_TIMEOUT_S = 5.0
"""Long enough for a short run to end, and below the usual timeouts of web servers."""


@attrs.frozen(init=False)
class Lock:
    """One run at a time for each key, synchronous or in a worker, in all processes.

    The lock is acquired before the run's transaction and released after it, whatever its outcome.
    It is also released when the process dies.
    Classes with the same template, or the same group and key, share the lock.

    Args:
        by: The parts of the key, beside the class: names of props, or one function of the operation, whose key is
            shared by the classes that return it; nothing: a single lock for the whole class.
        template: Text with props in braces, ``"account:{account}"``, instead of *by*; classes with the same template
            share the lock.
        group: A name that replaces the class in the key: classes with the same group share their locks.
        timeout: Seconds, or a timedelta, to wait for it; 0 tries once, None waits without a limit.
            A run that does not get it in time ends with the code ``lock_timeout``; in a worker it is retried.
        backend: ``"database"`` for the records' database, ``"redis"`` for the broker's Redis.
            Default: the database, or Redis if there is no database.

            A lock in Redis is a key that expires unless it is renewed.
            Mutual exclusion is not guaranteed: after a process was frozen for longer than its lease (30 s), or Redis
            has failed over to a replica, a second run may start while the first one continues.

    Raises:
        DeclarationError: An argument is invalid.

    Example:
        >>> from dexpy import Operation
        >>> class Transfer(Operation):
        ...     account: int
        ...     lock = Lock("account", timeout=2)
        ...     def perform(self) -> int:
        ...         return self.account
        >>> Transfer(account=7).call()
        7
    """

    rule: KeyRule | None
    group: str | None
    timeout_s: float | None
    backend: Backend | None

    def __init__(
        self,
        *by: str | Callable[[Any], object],
        template: str | None = None,
        group: str | None = None,
        timeout: Delay | None = DEFAULT_TIMEOUT_S,
        backend: Backend | None = None,
    ) -> None:
        rule = KeyRule.of(by, "Lock(...)", template) if by or template is not None else None
        group = check_group(group, "Lock")
        if group is not None and template is not None:
            raise DeclarationError(
                f"Lock(template={template!r}, group={group!r}): expected a template or a group, got both. "
                "Remove the group; classes with the same template share the lock."
            )
        if backend is not None and backend not in BACKENDS:
            raise DeclarationError(f"Lock(backend={backend!r}): expected one of {listed(BACKENDS)}.")
        instance: Any = self
        instance.__attrs_init__(rule, group, None if timeout is None else _seconds(timeout), backend)

    def check(self, where: str, known: Sequence[str]) -> None:
        """Refuse props that the class does not have.

        Raises:
            DeclarationError: A prop is unknown; the message lists the valid ones.
        """
        if self.rule is None:
            return
        if self.rule.template is not None:
            self.rule.check(f"{where} = Lock(template={self.rule.template!r})", known)
        else:
            names = ", ".join(self.rule.props)
            hint = f" To lock on a fixed text, write Lock(template={names!r})."
            self.rule.check(f"{where} = Lock({names!r})", known, hint)


def _seconds(timeout: object) -> float:
    try:
        return delay_seconds(timeout, "timeout", "Lock")
    except OptionsError as error:
        raise DeclarationError(f"{error} None waits without a limit.") from None
