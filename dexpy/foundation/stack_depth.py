"""Checks that a thread has enough stack left for another run, which must not overflow it half way."""

from __future__ import annotations

import sys

FRAMES_NEEDED = 200
"""Frames that one more run needs: for its own calls, a commit, a log line, and an exception."""


def require_stack(subject: str) -> None:
    """Raise where too little of the stack is left for another run.

    Args:
        subject: The operation that is to run.

    Raises:
        RecursionError: Fewer than `FRAMES_NEEDED` frames are free.
    """
    try:
        _descend(FRAMES_NEEDED)
    except RecursionError:
        # A RecursionError inside the run would have a traceback of all those frames.
        pass
    else:
        return
    raise RecursionError(
        f"{subject}: too many calls inside each other; expected room for {FRAMES_NEEDED} more frames on the stack of "
        f"the thread, which takes {sys.getrecursionlimit()}. Nest fewer operations, or raise sys.setrecursionlimit()."
    )


def _descend(frames: int) -> None:
    if frames:
        _descend(frames - 1)
