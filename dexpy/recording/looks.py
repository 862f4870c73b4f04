"""A look before each use of a session: where a run that was called off gets to know of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import TextClause, event
from sqlalchemy.orm import ORMExecuteState, Session

from dexpy.recording.sqlite import is_write

_LOOK = "dexpy_look"
_WRITTEN = "dexpy_written"


def before_each_use(session: Session, look: Callable[[], None]) -> None:
    """Have a function called before each statement and flush of a session; what it raises goes to the user of it."""
    session.info[_LOOK] = look


def has_written(session: Session) -> bool:
    """Whether a session that is looked at has changed something since `forget_writes`, or is going to."""
    if session.info.get(_WRITTEN) or session.new or session.deleted:
        return True
    return any(session.is_modified(instance) for instance in session.dirty)


def forget_writes(session: Session) -> None:
    """A transaction of the session is over, and what it wrote with it."""
    session.info.pop(_WRITTEN, None)


def _look(session: Session) -> bool:
    look: Callable[[], None] | None = session.info.get(_LOOK)
    if look is None:
        return False
    look()
    return True


@event.listens_for(Session, "do_orm_execute")
def _executes(state: ORMExecuteState) -> None:
    if _look(state.session) and not state.is_select and _changes(state):
        state.session.info[_WRITTEN] = True


def _changes(state: ORMExecuteState) -> bool:
    statement = state.statement
    if isinstance(statement, TextClause):
        return is_write(statement.text)
    return state.is_insert or state.is_update or state.is_delete


@event.listens_for(Session, "before_flush")
def _flushes(session: Session, _context: Any, _instances: Any) -> None:
    if _look(session):
        session.info[_WRITTEN] = True
