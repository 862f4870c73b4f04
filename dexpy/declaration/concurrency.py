"""`Concurrency`: so many background runs of a key at once, and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

from dexpy.declaration.keys import KeyRule, digest
from dexpy.foundation.errors import DeclarationError, did_you_mean, listed

if TYPE_CHECKING:
    from dexpy.declaration.contract import Contract
    from dexpy.declaration.policies import Record

Conflict: TypeAlias = Literal["wait", "discard"]
CONFLICTS = ("wait", "discard")


@attrs.frozen(init=False)
class Concurrency:
    """At most so many background runs of a key at once, in all workers together.

    What finds no slot waits in its record, without a thread and without a message, and begins when a run of the key
    has ended: the higher priority first, then the older record.
    A run holds its slot while its record is ``running``: a dead worker's slot comes back with its run, and a run that
    waits for its next attempt holds none.
    A call in place is not limited.

    Args:
        limit: How many at once, at least 1.
        by: What the key is made of, beside the class: names of props, or one function of the operation;
            nothing for one key for the whole class.
        on_conflict: ``"wait"`` for a slot, or ``"discard"`` the run: it fails as ``discarded``.
        group: A name instead of the class's, so that classes that say the same share their slots.

    Raises:
        DeclarationError: An argument that cannot be.

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
        group: str | None = None,
    ) -> None:
        if type(limit) is not int or limit < 1:
            raise DeclarationError(
                f"Concurrency({limit!r}) wants an int of at least 1: how many runs at once. "
                "Write Concurrency(2, 'account'), for one."
            )
        if on_conflict not in CONFLICTS:
            raise DeclarationError(
                f"Concurrency(on_conflict={on_conflict!r}) is not known. It is one of {listed(CONFLICTS)}."
                f"{did_you_mean(str(on_conflict), CONFLICTS)}"
            )
        if group is not None and not (isinstance(group, str) and group):
            raise DeclarationError(f"Concurrency(group={group!r}) wants a name, a str that is not empty.")
        rule = KeyRule.of(by, "Concurrency") if by else None
        made: Any = self
        made.__attrs_init__(limit, rule, on_conflict, group)

    def key(self, operation: Any, contract: Contract) -> str:
        """The key of one operation, as 64 hexadecimal digits: whose slots it takes.

        Raises:
            OptionsError: The function gave None, or something without a JSON form.
            NotSerializable: A prop has no JSON form.
        """
        parts = None
        if self.rule is not None:
            parts = self.rule.parts(operation, contract, f"{contract.cls.__qualname__}.concurrency")
        return digest("concurrency", self.group or contract.name, parts)


def why_not_limited(record: Record | None) -> str | None:
    """Why runs that are kept like this cannot be limited; None when they can."""
    if record is not None and record.params:
        return None
    said = "record = False" if record is None else "record = Record(params=False)"
    return f"a slot is the record of a run from its start, and by {said} there is none"
