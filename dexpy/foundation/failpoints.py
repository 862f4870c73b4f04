"""Named points on the way of a run, between two writes: where a test ends a worker, and nothing happens otherwise."""

from __future__ import annotations

from collections.abc import Callable

reached: Callable[[str], None] | None = None
"""Called with the name of each point. No setting changes it: a test's own entry point sets it in its own process."""


def failpoint(name: str) -> None:
    """Pass a point; does nothing.

    Args:
        name: Where, as in ``"after_claim"``.
    """
    if reached is not None:
        reached(name)
