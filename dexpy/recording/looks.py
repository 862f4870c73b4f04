"""A look before each use of a session: where a run that was called off gets to know of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import ORMExecuteState, Session

_LOOK = "dexpy_look"


def before_each_use(session: Session, look: Callable[[], None]) -> None:
    """Have a function called before each statement and flush of a session; what it raises goes to the user of it."""
    session.info[_LOOK] = look


def _look(session: Session) -> None:
    look: Callable[[], None] | None = session.info.get(_LOOK)
    if look is not None:
        look()


@event.listens_for(Session, "do_orm_execute")
def _executes(state: ORMExecuteState) -> None:
    _look(state.session)


@event.listens_for(Session, "before_flush")
def _flushes(session: Session, _context: Any, _instances: Any) -> None:
    _look(session)
