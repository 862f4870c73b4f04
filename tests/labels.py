"""Names of parameters in the ids of tests."""

from __future__ import annotations

import re


def label(value: object) -> str:
    """A value in short, the same in each process of a run: without the addresses of objects."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))[:50]
