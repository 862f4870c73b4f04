"""The current session: the one that operations join, and that records are written in."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import attrs

from dexpy.foundation.errors import NotRunning, OptionsError
from dexpy.recording.ambient import Ambient, ambient, enter_ambient, leave_ambient

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import Session


@attrs.frozen
class Given:
    """A session of the application's own.

    Attributes:
        given: The session.
        outer: What was in force around it: a run whose transaction goes on after this session's has ended.
        turn: Held by whoever uses the session, where more than one wants to at a time.
    """

    given: Session
    outer: Ambient | None = None
    is_run: bool = False
    turn: threading.Lock = attrs.field(factory=threading.Lock, eq=False, repr=False)

    def session(self) -> Session:
        """The session itself."""
        return self.given

    def after_commit(self, action: Callable[[], None]) -> None:
        """See `Ambient`."""
        from dexpy.recording import outbox

        if self.given.in_transaction():
            outbox.after_commit(self.given, action)
        else:
            outbox.attempt(action)

    def at_end(self, action: Callable[[], None]) -> None:
        """See `Ambient`."""
        from dexpy.recording import outbox

        def once_free() -> None:
            if self.outer is None:
                outbox.attempt(action)
            else:
                self.outer.at_end(action)

        if self.given.in_transaction():
            outbox.at_end(self.given, once_free)
        else:
            once_free()


@attrs.frozen
class GivenConnection:
    """A connection of the application's own, for what is stored in its transaction.

    It does not say when it has committed, so what is to happen then is left to the relay.
    """

    connection: Connection

    def session(self) -> Session:
        """A session for a short read in the connection's transaction."""
        from sqlalchemy.orm import Session

        return Session(bind=self.connection, join_transaction_mode="create_savepoint")


def check_place(given: Any, where: str) -> Any:
    """Where a record can be stored: a session, a connection, or one of asyncio.

    Raises:
        OptionsError: It is something else; says what to give.
    """
    from sqlalchemy.engine import Connection

    return given if isinstance(given, Connection) or is_awaited(given) else check_session(given, where)


def place_of(given: Session | Connection) -> Given | GivenConnection:
    """What a call was given to store its record in."""
    from sqlalchemy.orm import Session

    return Given(given) if isinstance(given, Session) else GivenConnection(given)


def check_session(session: Any, where: str) -> Session:
    """A session that runs can join.

    Raises:
        OptionsError: It is something else; says what to give.
    """
    from sqlalchemy.orm import Session, scoped_session

    if isinstance(session, scoped_session):
        return cast("scoped_session[Session]", session)()
    if isinstance(session, Session):
        return session
    raise OptionsError(
        f"{where} wants a SQLAlchemy Session, got {type(session).__name__}. "
        "Give the session itself, of an AsyncSession its sync_session inside run_sync."
    )


def is_awaited(session: Any) -> bool:
    """Whether it is an AsyncSession or AsyncConnection, which can only be awaited."""
    # Nobody has one who has not imported it.
    module = sys.modules.get("sqlalchemy.ext.asyncio")
    return isinstance(session, (getattr(module, "AsyncSession", ()), getattr(module, "AsyncConnection", ())))


@contextmanager
def session(session: Session) -> Generator[Session, None, None]:
    """Make a SQLAlchemy session the current one.

    Operations called in the block join its transaction in a savepoint of their own,
    and what they send to the background is stored in it: rolled back together, sent after the commit.
    The session stays the caller's, who commits it.

    Args:
        session: A `Session`, or a `scoped_session`.

    Raises:
        OptionsError: It is neither.
    """
    checked = check_session(session, "dexpy.session(...)")
    token = enter_ambient(Given(checked, ambient()))
    try:
        yield checked
    finally:
        leave_ambient(token)


def current_session() -> Session:
    """The session of the run, or the one that `session` made current.

    Raises:
        NotRunning: There is none.
    """
    found = ambient()
    if found is None:
        raise NotRunning(
            "current_session() was called outside of a run and of `with dexpy.session(...)`. "
            "Call it inside one of them."
        )
    return found.session()
