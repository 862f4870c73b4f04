"""What a pool of processes runs; it imports little, because each process does it anew."""

from __future__ import annotations

from typing import NoReturn


def raise_it(error: BaseException) -> NoReturn:
    raise error
