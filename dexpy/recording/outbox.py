"""What waits for a session's transaction to end: messages to send, hooks to call, rows to write.

Everything hangs on the end of the *root* transaction.
SQLAlchemy's ``after_commit`` also fires for a released savepoint, so there an entry only moves one level up;
``after_transaction_end`` comes at every end, and what is still held by a level that ends was rolled back with it.
By the time the actions run, the session holds no connection, so they may use others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

import attrs
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from dexpy.foundation.log import line, logger
from dexpy.foundation.redaction import class_path, frames_of
from dexpy.recording.ambient import enter_ambient, leave_ambient

Action: TypeAlias = Callable[[], None]
_BOX = "dexpy_outbox"


@attrs.frozen
class Entry:
    """One thing that depends on whether its transaction is committed."""

    committed: Action
    undone: Action | None = None


@attrs.define
class Box:
    """What one session holds."""

    levels: dict[SessionTransaction, list[Entry]] = attrs.field(factory=dict[SessionTransaction, list[Entry]])
    ended: list[Action] = attrs.field(factory=list[Action])


def attempt(action: Action) -> None:
    """Run an action after the fact: its failure is logged, for nothing can be undone any more.

    The transaction is over, so what the action calls or sends joins no session.
    """
    token = enter_ambient(None)
    try:
        action()
    except Exception as error:  # noqa: BLE001 - anything an application's hook may raise
        name = getattr(action, "__qualname__", type(action).__name__)
        line(logging.ERROR, "after_commit.failed", action=name, error=class_path(error))
        # Without its message: nobody here knows the secrets of the run that it comes from.
        logger.debug("the frames of the failed action:\n%s", frames_of(error))
    finally:
        leave_ambient(token)


def _box(session: Session) -> tuple[Box, SessionTransaction]:
    level = session.get_nested_transaction() or session.get_transaction()
    if level is None:
        # Nothing has begun: begin, so that there is an end to wait for.
        session.begin()
        level = session.get_transaction()
        assert level is not None  # noqa: S101 - what begin() has just made
    box: Box = session.info.setdefault(_BOX, Box())
    return box, level


def after_commit(session: Session, action: Action, undone: Action | None = None) -> None:
    """Run an action when the outermost transaction has committed; drop it when a transaction around it is undone.

    Args:
        session: In the transaction that the action depends on.
        action: Without arguments.
        undone: Run instead, after the outermost transaction, when the transaction was rolled back.
    """
    box, level = _box(session)
    box.levels.setdefault(level, []).append(Entry(action, undone))


def holds_anything(session: Session) -> bool:
    """Whether anything waits for the session's transaction to be committed."""
    box: Box | None = session.info.get(_BOX)
    return box is not None and any(box.levels.values())


def at_end(session: Session, action: Action) -> None:
    """Run an action when the outermost transaction has ended, either way."""
    box, _ = _box(session)
    box.ended.append(action)


@event.listens_for(Session, "after_commit")
def _committed(session: Session) -> None:
    box: Box | None = session.info.get(_BOX)
    if box is None:
        return
    if (inner := session.get_nested_transaction()) is not None:
        if (entries := box.levels.pop(inner, None)) and inner.parent is not None:
            box.levels.setdefault(inner.parent, []).extend(entries)
    elif (root := session.get_transaction()) is not None:
        box.ended[:0] = [entry.committed for entry in box.levels.pop(root, ())]


@event.listens_for(Session, "after_transaction_end")
def _ended(session: Session, transaction: SessionTransaction) -> None:
    box: Box | None = session.info.get(_BOX)
    if box is None:
        return
    undone = [entry.undone for entry in box.levels.pop(transaction, ()) if entry.undone is not None]
    # First, so that what else waits for the end knows of it.
    box.ended[:0] = undone
    if transaction.parent is None:
        session.info.pop(_BOX, None)
        for action in box.ended:
            attempt(action)
