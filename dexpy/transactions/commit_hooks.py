"""The hooks of a session's transaction: messages to publish, callbacks to call and rows to write at its end.

Hooks run at the end of the *root* transaction.
SQLAlchemy's ``after_commit`` also fires for a released savepoint, whose hooks then move one level up.
``after_transaction_end`` fires at every end; hooks that are still at that level were rolled back with it.
The session has no connection when its hooks run, so they may open others.
`session_listeners` registers `on_commit` and `on_transaction_end` with SQLAlchemy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import attrs

from dexpy.database.current_transaction import enter_transaction, leave_transaction
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path, frames_of

if TYPE_CHECKING:
    from sqlalchemy.engine import Transaction
    from sqlalchemy.orm import Session, SessionTransaction

Action: TypeAlias = Callable[[], None]
_HOOKS_KEY = "dexpy_outbox"


@attrs.define
class CommitState:
    """The state of the transaction in which a record was stored."""

    open: bool = False
    rolled_back: bool = False
    transaction: Transaction | None = None

    @property
    def is_open(self) -> bool:
        """Whether the transaction is open; that of a plain connection has no hooks that report its end."""
        return self.open or (self.transaction is not None and self.transaction.is_active)

    def roll_back(self) -> None:
        """Record that the transaction was rolled back."""
        self.open = False
        self.rolled_back = True


@attrs.frozen
class _Hook:
    """An action that depends on whether its transaction commits."""

    on_commit: Action
    on_rollback: Action | None = None


@attrs.define
class _Hooks:
    """The hooks of one session."""

    levels: dict[SessionTransaction, list[_Hook]] = attrs.field(factory=dict["SessionTransaction", list[_Hook]])
    at_end: list[Action] = attrs.field(factory=list[Action])


def run_hook(action: Action) -> None:
    """Run an action after the transaction, and log its errors.

    Calls and messages of the action join no session.
    """
    token = enter_transaction(None)
    try:
        action()
    except Exception as error:  # noqa: BLE001 - anything an application's hook may raise
        name = getattr(action, "__qualname__", type(action).__name__)
        log_event(LogEvent.AFTER_COMMIT_FAILED, hook=name, error=class_path(error))
        # Without the message of the error, which may contain secrets of a run.
        log_event(LogEvent.AFTER_COMMIT_FAILED, logging.DEBUG, hook=name, traceback=frames_of(error))
    finally:
        leave_transaction(token)


def _hooks_and_level(session: Session) -> tuple[_Hooks, SessionTransaction]:
    level = session.get_nested_transaction() or session.get_transaction()
    if level is None:
        # Begin a transaction, so that its end runs the hooks.
        session.begin()
        level = session.get_transaction()
        assert level is not None  # noqa: S101 - created by begin()
    hooks: _Hooks = session.info.setdefault(_HOOKS_KEY, _Hooks())
    return hooks, level


def after_commit(session: Session, action: Action, on_rollback: Action | None = None) -> None:
    """Run an action after the commit of the outermost transaction, unless its own transaction is rolled back.

    Args:
        session: A session in the transaction that the action depends on.
        action: A function without arguments.
        on_rollback: The action to run instead, after the outermost transaction, if the transaction was rolled back.
    """
    hooks, level = _hooks_and_level(session)
    hooks.levels.setdefault(level, []).append(_Hook(action, on_rollback))


def has_pending_hooks(session: Session) -> bool:
    """Return whether the session's transaction has hooks that wait for its commit."""
    hooks: _Hooks | None = session.info.get(_HOOKS_KEY)
    return hooks is not None and any(hooks.levels.values())


def at_end(session: Session, action: Action) -> None:
    """Run an action after the outermost transaction, committed or rolled back."""
    hooks, _ = _hooks_and_level(session)
    hooks.at_end.append(action)


def on_commit(session: Session) -> None:
    """Move the hooks of a committed savepoint to the enclosing transaction; queue those of the outermost one."""
    hooks: _Hooks | None = session.info.get(_HOOKS_KEY)
    if hooks is None:
        return
    if (inner := session.get_nested_transaction()) is not None:
        if (entries := hooks.levels.pop(inner, None)) and inner.parent is not None:
            hooks.levels.setdefault(inner.parent, []).extend(entries)
    elif (root := session.get_transaction()) is not None:
        hooks.at_end[:0] = [entry.on_commit for entry in hooks.levels.pop(root, ())]


def on_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    """Drop the hooks of a rolled back transaction or savepoint; run the queued ones after the outermost transaction."""
    hooks: _Hooks | None = session.info.get(_HOOKS_KEY)
    if hooks is None:
        return
    on_rollback = [entry.on_rollback for entry in hooks.levels.pop(transaction, ()) if entry.on_rollback is not None]
    # These run first, because the other hooks may depend on them.
    hooks.at_end[:0] = on_rollback
    if transaction.parent is None:
        session.info.pop(_HOOKS_KEY, None)
        for action in hooks.at_end:
            run_hook(action)
