"""`Unique`: at most one background run with the same key."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from dexpy.foundation.errors import DeclarationError
from dexpy.policies.keys import KeyFunction, KeyRule, check_group
from dexpy.policies.once import declared_seconds
from dexpy.policies.options import Delay, Recording

Until = Literal["started", "finished"]
OnConflict = Literal["ticket", "skip", "raise", "replace"]
CONFLICTS = ("ticket", "skip", "raise", "replace")


@attrs.frozen(init=False)
class Unique:
    """Refuse a second background run with the same key; calls in place do not count.

    ``until="started"``: no second run is accepted until the first attempt of the first run starts.
    ``until="finished"``: no second run is accepted until the first one has ended.
    ``for_``: no second run is accepted for this long after the first one was, whether that has ended or not.

    The key applies to the current name of the operation and its earlier names.
    A run that is cancelled before it started releases it in every case.

    Args:
        by: Names of props, one function of the operation, or nothing for all props.
        until: The scope; ``"finished"`` by default.
        for_: Seconds or a timedelta, instead of *until*.
        on_conflict: What a second call does: ``"ticket"`` returns the first run's ticket, ``"skip"`` a ticket of
            no run, ``"raise"`` raises `NotUnique`; ``"replace"`` replaces a pending first run, and returns the ticket
            of one that is not pending.
        template: Text with props in braces, ``"shop:{shop}"``, instead of *by*.
        group: A name that replaces the class in the key: classes with the same group share their keys.

    Raises:
        DeclarationError: An argument is invalid.

    Example:
        >>> from dexpy import Operation, Unique
        >>> class Reindex(Operation):
        ...     shop: int
        ...     unique = Unique("shop", until="started")
        ...     def perform(self) -> None: ...
        >>> Reindex.contract.unique.until
        'started'
    """

    rule: KeyRule
    until: Until | None
    for_s: float | None
    on_conflict: OnConflict
    declared: bool
    group: str | None

    def __init__(
        self,
        *by: str | KeyFunction,
        until: Until | None = None,
        for_: Delay | None = None,
        on_conflict: OnConflict = "ticket",
        template: str | None = None,
        group: str | None = None,
    ) -> None:
        rule = KeyRule.of(by, "Unique(...)", template)
        group = check_group(group, "Unique")
        if until is not None and for_ is not None:
            raise DeclarationError("Unique(until=, for_=): expected a scope (until) or a duration (for_), got both.")
        if until not in (None, "started", "finished"):
            raise DeclarationError(
                f"Unique(until={until!r}): expected 'started' or 'finished'. For a duration, use for_=."
            )
        for_s = None if for_ is None else declared_seconds(for_, "for_", "Unique")
        if for_s == 0:
            raise DeclarationError(f"Unique(for_={for_!r}): expected more than 0 seconds.")
        if on_conflict not in CONFLICTS:
            raise DeclarationError(
                f"Unique(on_conflict={on_conflict!r}): expected 'ticket', 'skip', 'raise' or 'replace'."
            )
        instance: Any = self
        instance.__attrs_init__(
            rule, None if for_s is not None else until or "finished", for_s, on_conflict, True, group
        )

    @classmethod
    def never(cls) -> Unique:
        """Return the policy of a subclass that is not unique, whatever its base declares."""
        instance = cls()
        object.__setattr__(instance, "declared", False)
        return instance


def why_not_unique(record: Recording | None) -> str | None:
    """Return why this record excludes a unique key; None if it does not."""
    if record is None:
        return "a unique key requires a record, which record = False excludes"
    if not record.params:
        return "a unique key requires a record from the start of a run, which Recording(params=False) excludes"
    return None
