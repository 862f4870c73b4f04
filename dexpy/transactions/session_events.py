"""A check before each use of a session, which delivers the cancellation of a run.

`session_listeners` makes SQLAlchemy call `run_check` before each statement and flush.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_CHECK = "dexpy_check"
_WRITTEN = "dexpy_written"


def check_on_each_use(session: Session, check: Callable[[], None]) -> None:
    """Call a function before each statement and flush of a session; its exceptions propagate to the caller."""
    session.info[_CHECK] = check


def run_check(session: Session) -> bool:
    """Call the function of `check_on_each_use` if the session has one, and return whether it has."""
    check: Callable[[], None] | None = session.info.get(_CHECK)
    if check is None:
        return False
    check()
    return True


def mark_written(session: Session) -> None:
    """Mark a session as having written."""
    session.info[_WRITTEN] = True


def has_written(session: Session) -> bool:
    """Return whether a checked session has written since `forget_writes`, or has unflushed changes."""
    if session.info.get(_WRITTEN) or session.new or session.deleted:
        return True
    return any(session.is_modified(instance) for instance in session.dirty)


def forget_writes(session: Session) -> None:
    """Reset `has_written`, after a transaction of the session."""
    session.info.pop(_WRITTEN, None)
