"""Labels of parameters in the ids of tests."""

from __future__ import annotations

import re


def label(value: object) -> str:
    """Return a short repr without addresses of objects, so that it is the same in each process of a test run."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))[:50]
