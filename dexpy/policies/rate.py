"""`Rate`: a limit of the starts of background runs for each key in a window of time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from dexpy.foundation.errors import DeclarationError, OptionsError, did_you_mean, listed
from dexpy.policies.concurrency import CONFLICTS, Conflict
from dexpy.policies.keys import KeyRule, check_group
from dexpy.policies.options import Delay, delay_seconds

MOST_STARTS = 1_000_000
"""The highest limit: one row is stored for each start in a window."""
SHORTEST_S = 0.001
LONGEST_S = 366 * 24 * 3600.0
"""The shortest and the longest window, in seconds."""


@attrs.frozen(init=False)
class Rate:
    """Limit the starts of background runs of a key, in all workers together.

    In every window of *per* seconds, by the clock of the records' database, at most *limit* attempts of the key start;
    a window includes its begin and not its end.
    Each attempt counts from its start, also a retry, a recovered run, and one that ends at once.
    A run that must wait does so in its record, without a thread, a message or an attempt, and starts once the window
    allows it: the highest priority first, then the oldest record.
    A call in place is neither limited nor counted.

    Args:
        limit: The maximum number of starts in a window, from 1 to 1,000,000.
        by: The parts of the key, beside the class: names of props, or one function of the operation;
            nothing: a single key for the whole class.
        per: The length of the window, in seconds or as a timedelta; from 0.001 s to 366 days.
        on_conflict: ``"wait"`` until the window allows a start, or ``"discard"`` the run: it fails as ``discarded``.
        template: Text with props in braces, ``"account:{account}"``, instead of *by*.
        group: A name that replaces the class in the key: classes with the same group share their starts.

    Raises:
        DeclarationError: An argument is invalid.

    Example:
        >>> from dexpy import Operation
        >>> class CallApi(Operation):
        ...     account: int
        ...     rate = Rate(100, "account", per=60)
        ...     def perform(self) -> None: ...
    """

    limit: int
    rule: KeyRule | None
    per_s: float
    on_conflict: Conflict
    group: str | None

    def __init__(
        self,
        limit: int,
        *by: str | Callable[[Any], object],
        per: Delay,
        on_conflict: Conflict = "wait",
        template: str | None = None,
        group: str | None = None,
    ) -> None:
        if type(limit) is not int or not 1 <= limit <= MOST_STARTS:
            raise DeclarationError(
                f"Rate({limit!r}): expected an int from 1 to {MOST_STARTS:,}, the number of starts in a window. "
                "Write Rate(100, per=60)."
            )
        if on_conflict not in CONFLICTS:
            raise DeclarationError(
                f"Rate(on_conflict={on_conflict!r}): expected one of {listed(CONFLICTS)}."
                f"{did_you_mean(str(on_conflict), CONFLICTS)}"
            )
        group = check_group(group, "Rate")
        rule = KeyRule.of(by, "Rate", template) if by or template is not None else None
        instance: Any = self
        instance.__attrs_init__(limit, rule, _window_s(per), on_conflict, group)


def _window_s(per: object) -> float:
    try:
        seconds = delay_seconds(per, "per", "Rate")
    except OptionsError as error:
        raise DeclarationError(f"{error} Write Rate(100, per=60).") from None
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise DeclarationError(
            f"Rate(per={per!r}): expected from {SHORTEST_S:g} s to 366 days, the length of the window. "
            "Write Rate(100, per=60)."
        )
    return seconds
