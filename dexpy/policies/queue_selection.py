"""Which queues a worker serves, and in which order: names, ``prefix*`` and ``*``.

The order is strict, and the first pattern that matches a queue is its place. Queues of one pattern have the same place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from dexpy.foundation.errors import OptionsError
from dexpy.foundation.safe_text import shortened
from dexpy.policies.options import check_queue

ALL = "*"
"""The pattern of all queues, and the end of a pattern for all queues with a prefix."""


def is_match(pattern: str, queue: str) -> bool:
    """Return whether a pattern matches the name of a queue."""
    return queue.startswith(pattern[:-1]) if pattern.endswith(ALL) else queue == pattern


def is_any_match(patterns: Iterable[object], queue: str) -> bool:
    """Return whether one of these patterns matches the name of a queue; a stored pattern may be any value."""
    return any(isinstance(pattern, str) and is_match(pattern, queue) for pattern in patterns)


@attrs.frozen
class QueueSelection:
    """The queues that a worker serves, the most urgent pattern first.

    Attributes:
        patterns: Names, ``prefix*`` and ``*``.

    Example:
        >>> selection = QueueSelection.of(["critical", "mail*", "*"])
        >>> [selection.rank(name) for name in ("critical", "mail_eu", "default")]
        [0, 1, 2]
        >>> "default" in QueueSelection.of(["critical", "mail*"])
        False
    """

    patterns: tuple[str, ...]

    @classmethod
    def of(cls, patterns: Sequence[object], where: str = "queues") -> QueueSelection:
        """Return the selection of checked patterns.

        Raises:
            OptionsError: A pattern is invalid, or an earlier pattern matches all of its queues.
        """
        checked: list[str] = []
        for pattern in patterns:
            if not isinstance(pattern, str):
                raise OptionsError(f"{where}: expected a queue name, prefix* or *, got {shortened(pattern)}.")
            _check_pattern(pattern, where)
            covering = next((earlier for earlier in checked if _covers(earlier, pattern)), None)
            if covering is not None:
                raise OptionsError(
                    f"{where}: {pattern!r} has no effect, because the earlier {covering!r} matches its queues. "
                    f"Write it before {covering!r}, or remove it."
                )
            checked.append(pattern)
        return cls(tuple(checked))

    @property
    def names(self) -> tuple[str, ...]:
        """The queues that are named exactly."""
        return tuple(pattern for pattern in self.patterns if not pattern.endswith(ALL))

    @property
    def is_ordered(self) -> bool:
        """Whether there is more than one place."""
        return len(self.patterns) > 1

    def rank(self, queue: str) -> int:
        """Return the place of a queue, 0 for the most urgent; after all others if no pattern matches it."""
        matching = (place for place, pattern in enumerate(self.patterns) if is_match(pattern, queue))
        return next(matching, len(self.patterns))

    def __contains__(self, queue: object) -> bool:
        return isinstance(queue, str) and is_any_match(self.patterns, queue)

    def __str__(self) -> str:
        return ",".join(self.patterns)


def _check_pattern(pattern: str, where: str) -> None:
    if pattern == ALL:
        return
    name = pattern.removesuffix(ALL)
    if ALL in name:
        raise OptionsError(
            f"{where}: invalid pattern {shortened(pattern)}; expected a name, prefix* or *, with the * at the end."
        )
    check_queue(name, where)


def _covers(earlier: str, later: str) -> bool:
    """Return whether every queue of the later pattern matches the earlier one."""
    if not earlier.endswith(ALL):
        return earlier == later
    return later.removesuffix(ALL).startswith(earlier[:-1])
