"""The failpoints of the example applications, and a check that a test names only failpoints that exist."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dexpy.foundation.failpoints import FAILPOINTS

APPLICATION_FAILPOINTS = (
    "perform_started",
    "in_perform",
    "in_after_commit_hook",
    "before_application_commit",
    "in_middleware",
    "between_steps",
    "in_first_step",
    "in_second_step",
    "before_last_step",
    r"on_item_\d+",
    r"before_item_\d+",
)
"""Patterns of the failpoints in ``tests/apps`` and ``tests/chaos``."""


def is_failpoint(name: str) -> bool:
    """Whether dexpy or an example application has a failpoint of this name."""
    return name in FAILPOINTS or any(re.fullmatch(pattern, name) for pattern in APPLICATION_FAILPOINTS)


def check_failpoints(names: Iterable[str]) -> None:
    """Refuse names of failpoints that do not exist, because a test would wait for them in vain.

    Raises:
        ValueError: No failpoint has one of the names.
    """
    if unknown := [name for name in names if not is_failpoint(name)]:
        raise ValueError(
            f"failpoints: unknown names {unknown!r}; expected names of dexpy/foundation/failpoints.py "
            "or of tests/harness/failpoint_names.py"
        )
