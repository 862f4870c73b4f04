"""`Unique`: of the background runs with one key, only one is there at a time."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from dexpy.declaration.contract import Contract
from dexpy.declaration.keys import KeyFunction, KeyRule, digest
from dexpy.declaration.once import declared_seconds
from dexpy.declaration.policies import Delay, Record
from dexpy.foundation.errors import DeclarationError

Until = Literal["started", "finished"]
OnConflict = Literal["ticket", "skip", "raise", "replace"]
CONFLICTS = ("ticket", "skip", "raise", "replace")


@attrs.frozen(init=False)
class Unique:
    """Refuse a second background run with the same key; a call in place is none of it.

    ``until="started"``: no second one is taken in while one waits to be begun for the first time.
    ``until="finished"``: no second one is taken in while one waits or runs, between its attempts too.
    ``for_``: no second one is taken in for so long after one was, whether it has ended or not.

    The key belongs to the operation's name. A run that is called off before it began frees it in every case.

    Args:
        by: Names of props, one function of the operation, or nothing for all props.
        until: Of which scope it is; ``"finished"`` when nothing is said.
        for_: Seconds or a timedelta, instead of *until*.
        on_conflict: What becomes of the second: ``"ticket"`` gives the first one's ticket, ``"skip"`` a ticket of
            no run, ``"raise"`` raises `NotUnique`; ``"replace"`` takes the place of a first one that is pending, and
            gives the ticket of one that is not.

    Raises:
        DeclarationError: An argument that cannot be.

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

    def __init__(
        self,
        *by: str | KeyFunction,
        until: Until | None = None,
        for_: Delay | None = None,
        on_conflict: OnConflict = "ticket",
    ) -> None:
        rule = KeyRule.of(by, "Unique(...)")
        if until is not None and for_ is not None:
            raise DeclarationError("Unique(until=, for_=) were both given. Give one: a scope, or a length of time.")
        if until not in (None, "started", "finished"):
            raise DeclarationError(f"Unique(until={until!r}) wants 'started' or 'finished'; a length of time is for_=.")
        for_s = None if for_ is None else declared_seconds(for_, "for_", "Unique")
        if for_s == 0:
            raise DeclarationError(f"Unique(for_={for_!r}) wants more than 0 seconds.")
        if on_conflict not in CONFLICTS:
            raise DeclarationError(f"Unique(on_conflict={on_conflict!r}) wants 'ticket', 'skip', 'raise' or 'replace'.")
        made: Any = self
        made.__attrs_init__(rule, None if for_s is not None else until or "finished", for_s, on_conflict, True)

    @classmethod
    def never(cls) -> Unique:
        """For a subclass that is not unique, whatever its base declares."""
        made = cls()
        object.__setattr__(made, "declared", False)
        return made


def why_not_unique(record: Record | None) -> str | None:
    """Why a class with this record cannot be unique; None if it can."""
    if record is None:
        return "a unique key is kept in the record of a run, and by record = False there is none"
    if not record.params:
        return "a unique key is claimed with the record, and by Record(params=False) there is none from the start"
    return None


def unique_key(operation: Any, contract: Contract) -> str:
    """The digest of an operation's key.

    Raises:
        OptionsError: The function of its class gave no key.
        NotSerializable: A prop of the key has no JSON form.
    """
    unique = contract.unique
    assert unique is not None  # noqa: S101 - callers have looked
    parts = unique.rule.parts(operation, contract, f"{contract.cls.__qualname__}.unique")
    return digest("unique", contract.name, parts)
