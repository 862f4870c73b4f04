"""Functions for a process pool; this module imports little, because each process imports it."""

from __future__ import annotations

from typing import NoReturn


def raise_it(error: BaseException) -> NoReturn:
    raise error
