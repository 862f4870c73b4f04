"""The transaction that a new run joins: that of the enclosing run, or the application's current session."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from dexpy.foundation.scoped_values import Entered, ScopedValue

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


class CurrentTransaction(Protocol):
    """A session that a run may join."""

    @property
    def is_run(self) -> bool:
        """Whether it is the session of another run."""
        ...

    def session(self) -> Session:
        """The session; its transaction is begun if necessary."""
        ...

    def open_session(self) -> Session | None:
        """Return the session if its transaction has begun in this thread; never begin one."""
        ...

    @property
    def holds_write_lock(self) -> bool:
        """Whether its transaction, in any thread, holds the write lock of the records' database."""
        ...

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run an action when the outermost transaction has committed, or now if there is none."""

    def at_end(self, action: Callable[[], None]) -> None:
        """Run an action when the outermost transaction has committed or rolled back, or now if there is none."""


class SharedSessions:
    """A flag: whether any runtime of this process has a `scoped_session`, whose current session is that of the run."""

    exist = False


shared_sessions = SharedSessions()

transaction_scope: ScopedValue[CurrentTransaction | None] = ScopedValue("dexpy_session", None)
"""The transaction that a new run joins."""

# The connection of that session belongs to the parent process: a fork opens its own.
os.register_at_fork(after_in_child=transaction_scope.clear)


def current_transaction() -> CurrentTransaction | None:
    """Return the transaction that a new run joins."""
    return transaction_scope.innermost().value


def enter_transaction(transaction: CurrentTransaction | None) -> Entered[CurrentTransaction | None]:
    """Make a session current; pass the result to `leave_transaction`."""
    return transaction_scope.enter(transaction)


def leave_transaction(block: Entered[CurrentTransaction | None]) -> None:
    """Restore the previous session."""
    transaction_scope.leave(block)
