"""The error rules of a class, and the choice of the rule for an exception."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import attrs

from dexpy.foundation.errors import Error
from dexpy.foundation.exception_groups import is_group, leaves_of
from dexpy.policies.retry import Cause


@attrs.frozen
class ErrorRule:
    """One entry of `retry_on`, `discard_on` or `rescue_from`, with its position.

    Attributes:
        cause: The exception class or error code that it matches.
        answer: A `Retry`; None to discard; a code, exception class or function to rescue.
        distance: The distance of the class that declared it: 0 is the operation itself.
        order: Its position in that declaration.
    """

    cause: Cause
    answer: Any
    distance: int
    order: int


Rank: TypeAlias = tuple[int, int, int]


def choose_rule(rules: Sequence[ErrorRule], error: BaseException, code: str | None = None) -> ErrorRule | None:
    """Return the rule for an exception: the most specific class, then the nearest declaration, then the later one.

    For an exception group it is the rule for the group's class, or else the rule that matches all of its members.

    Args:
        rules: All rules.
        error: The exception that ended the attempt.
        code: Its code, for a business error: a rule for the code is the most specific of all.
    """
    if is_group(error):
        named = [rule for rule in rules if isinstance(rule.cause, type) and issubclass(rule.cause, BaseExceptionGroup)]
        match = _best(named, error, code) or _of_all(rules, [*leaves_of(error)])
    else:
        match = _best(rules, error, code)
    return match[1] if match else None


def _of_all(rules: Sequence[ErrorRule], leaves: Sequence[BaseException]) -> tuple[Rank, ErrorRule] | None:
    """Return the rule that matches every leaf, by any of its causes."""
    by_answer: dict[object, list[ErrorRule]] = {}
    for rule in rules:
        answer = rule.answer if isinstance(rule.answer, str) else id(rule.answer)
        by_answer.setdefault(answer, []).append(rule)
    best: tuple[Rank, ErrorRule] | None = None
    for candidates in by_answer.values():
        worst: tuple[Rank, ErrorRule] | None = None
        for leaf in leaves:
            match = _best(candidates, leaf, leaf.code if isinstance(leaf, Error) else None)
            if match is None:
                break
            if worst is None or match[0] > worst[0]:
                worst = match
        else:
            if worst is not None and (best is None or worst[0] < best[0]):
                best = worst
    return best


def _best(rules: Sequence[ErrorRule], error: BaseException, code: str | None) -> tuple[Rank, ErrorRule] | None:
    mro = type(error).__mro__
    best: tuple[Rank, ErrorRule] | None = None
    for rule in rules:
        if isinstance(rule.cause, str):
            if rule.cause != code:
                continue
            depth = -1
        elif rule.cause in mro and (code is None or issubclass(rule.cause, Error)):
            # A rule for Exception does not match business errors, which must be named.
            depth = mro.index(rule.cause)
        else:
            continue
        rank = (depth, rule.distance, -rule.order)
        if best is None or rank < best[0]:
            best = rank, rule
    return best
