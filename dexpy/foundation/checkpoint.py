"""Named points on the way of a run, between two writes: where a test ends a worker, and nothing happens otherwise."""

from __future__ import annotations

from collections.abc import Callable


def _pass(_name: str) -> None:
    return None


reached: Callable[[str], None] = _pass
"""Told the name of each point. No setting changes it: a test's own entry point replaces it in its own process."""


def checkpoint(name: str) -> None:
    """Pass a point; does nothing.

    Args:
        name: Where, as in ``"after_claim"``.
    """
    reached(name)
