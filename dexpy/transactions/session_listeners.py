"""The SQLAlchemy event listeners of all sessions, for commit hooks and for the checks before each use."""

from __future__ import annotations

import threading
from typing import Any

from sqlalchemy import TextClause, event
from sqlalchemy.orm import ORMExecuteState, Session

from dexpy.database.sqlite import is_write
from dexpy.transactions import commit_hooks, session_events

_listening = threading.Lock()


def listen() -> None:
    """Register the listeners for all sessions of the process; idempotent."""
    with _listening:
        if event.contains(Session, "before_flush", _before_flush):
            return
        event.listen(Session, "after_commit", commit_hooks.on_commit)
        event.listen(Session, "after_transaction_end", commit_hooks.on_transaction_end)
        event.listen(Session, "do_orm_execute", _before_statement)
        event.listen(Session, "before_flush", _before_flush)


def _before_statement(state: ORMExecuteState) -> None:
    if session_events.run_check(state.session) and not state.is_select and _is_write_statement(state):
        session_events.mark_written(state.session)


def _is_write_statement(state: ORMExecuteState) -> bool:
    statement = state.statement
    if isinstance(statement, TextClause):
        return is_write(statement.text)
    return state.is_insert or state.is_update or state.is_delete


def _before_flush(session: Session, _context: Any, _instances: Any) -> None:
    if session_events.run_check(session):
        session_events.mark_written(session)
