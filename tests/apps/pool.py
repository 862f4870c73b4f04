"""Functions for a process pool; it imports little, because each process of the pool imports it."""

from __future__ import annotations

from typing import NoReturn


def raise_it(error: BaseException) -> NoReturn:
    raise error
