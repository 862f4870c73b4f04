"""`Concurrency`: a limit of concurrent background runs for each key."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

from dexpy.foundation.errors import DeclarationError, did_you_mean, listed
from dexpy.policies.keys import KeyRule, check_group

if TYPE_CHECKING:
    from dexpy.policies.options import Recording

Conflict: TypeAlias = Literal["wait", "discard"]
CONFLICTS = ("wait", "discard")


@attrs.frozen(init=False)
class Concurrency:
    """Limit the concurrent background runs of a key, in all workers together.

    A run without a slot waits in its record, without a thread or a message, and starts when a run of the key has ended:
    the highest priority first, then the oldest record.
    A run has its slot while its record is ``running``: a dead worker's slot is free once its run is recovered, and a
    run that waits for its next attempt has none.
    A call in place is not limited.

    Args:
        limit: The maximum number of concurrent runs, at least 1.
        by: The parts of the key, beside the class: names of props, or one function of the operation;
            nothing: a single key for the whole class.
        on_conflict: ``"wait"`` for a slot, or ``"discard"`` the run: it fails as ``discarded``.
        template: Text with props in braces, ``"account:{account}"``, instead of *by*.
        group: A name that replaces the class in the key: classes with the same group share their slots.

    Raises:
        DeclarationError: An argument is invalid.

    Example:
        >>> from dexpy import Operation
        >>> class Sync(Operation):
        ...     account: int
        ...     concurrency = Concurrency(2, "account")
        ...     def perform(self) -> None: ...
    """

    limit: int
    rule: KeyRule | None
    on_conflict: Conflict
    group: str | None

    def __init__(
        self,
        limit: int,
        *by: str | Callable[[Any], object],
        on_conflict: Conflict = "wait",
        template: str | None = None,
        group: str | None = None,
    ) -> None:
        if type(limit) is not int or limit < 1:
            raise DeclarationError(
                f"Concurrency({limit!r}): expected an int of at least 1, the number of runs at once. "
                "Write Concurrency(2, 'account')."
            )
        if on_conflict not in CONFLICTS:
            raise DeclarationError(
                f"Concurrency(on_conflict={on_conflict!r}): expected one of {listed(CONFLICTS)}."
                f"{did_you_mean(str(on_conflict), CONFLICTS)}"
            )
        group = check_group(group, "Concurrency")
        rule = KeyRule.of(by, "Concurrency", template) if by or template is not None else None
        instance: Any = self
        instance.__attrs_init__(limit, rule, on_conflict, group)


def why_not_limited(record: Recording | None, what: str = "a concurrency limit") -> str | None:
    """Return why this record excludes a limit, or *what* else requires a record; None if it does not."""
    if record is not None and record.params:
        return None
    setting = "record = False" if record is None else "record = Recording(params=False)"
    return f"{what} requires a record from the start of a run, which {setting} excludes"
