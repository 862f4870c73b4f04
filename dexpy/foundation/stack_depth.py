"""A check that the stack of a thread has room for another run, which must not overflow it."""

from __future__ import annotations

import sys

FRAMES_NEEDED = 200
"""The number of frames that a run needs: for its calls, a commit, a log line, and an exception."""


def require_stack(subject: str) -> None:
    """Raise an error if the stack has no room for another run.

    Args:
        subject: The name of the operation.

    Raises:
        RecursionError: Fewer than `FRAMES_NEEDED` frames are free.
    """
    try:
        _descend(FRAMES_NEEDED)
    except RecursionError:
        # A RecursionError inside the run would have a traceback with all these frames.
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
