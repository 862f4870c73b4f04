"""The batches to which the transaction of a session has added runs: it holds a lock on their rows until its end.

A change of such a row on another connection of the same thread would wait for that transaction, and so for itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.engine import Connection

from dexpy.database.current_transaction import current_transaction
from dexpy.transactions import commit_hooks

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_KEY = "dexpy_locked_batches"


def note_lock(session: Session, batch_id: str) -> None:
    """Note until the end of a session's transaction that it holds a lock on the row of a batch."""
    if _KEY not in session.info:
        session.info[_KEY] = set[str]()
        commit_hooks.at_end(session, lambda: session.info.pop(_KEY, None))
    session.info[_KEY].add(batch_id)


def locked_batches() -> frozenset[str]:
    """Return the ids of the batches whose rows the current session's transaction has locked."""
    current = current_transaction()
    session = None if current is None else current.open_session()
    return frozenset() if session is None else frozenset(session.info.get(_KEY, ()))


def current_holder() -> tuple[Session, Connection] | None:
    """Return the current session and its connection, if its transaction has locked the row of a batch."""
    current = current_transaction()
    session = None if current is None else current.open_session()
    return None if session is None or not session.info.get(_KEY) else (session, session.connection())
