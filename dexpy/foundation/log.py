"""Log lines: an event first, then ``key=value``.

The life of a run speaks in four levels: called (DEBUG), done (INFO), refused (WARNING), crashed (ERROR).
Params and results are in none of them.
"""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger("dexpy")
logger.addHandler(logging.NullHandler())


def line(level: int, event: str, **facts: Any) -> None:
    """Write one line.

    Args:
        level: As in `logging`.
        event: A word or two: ``done``, ``broker.unreachable``.
        facts: What belongs to it; None is left out; a text with spaces is quoted.
    """
    if logger.isEnabledFor(level):
        said = " ".join(f"{key}={_shown(value)}" for key, value in facts.items() if value is not None)
        logger.log(level, "%s %s", event, said)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return repr(text) if any(sign.isspace() for sign in text) or not text else text
