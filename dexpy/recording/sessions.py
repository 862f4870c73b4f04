"""The current session: the one that operations join, and that records are written in."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Protocol, cast

import attrs

from dexpy.foundation.errors import NotRunning, OptionsError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


class Ambient(Protocol):
    """A session that a run may join."""

    @property
    def is_run(self) -> bool:
        """Whether it is the session of another run."""
        ...

    def session(self) -> Session:
        """The session, begun if it was not."""
        ...

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run an action when the outermost transaction has committed, or now if there is none."""

    def at_end(self, action: Callable[[], None]) -> None:
        """Run an action when the outermost transaction has ended, either way, or now if there is none."""


@attrs.frozen
class Given:
    """A session of the application's own."""

    given: Session
    is_run: bool = False

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

        if self.given.in_transaction():
            outbox.at_end(self.given, action)
        else:
            outbox.attempt(action)


_ambient: ContextVar[Ambient | None] = ContextVar("dexpy_session", default=None)


def ambient() -> Ambient | None:
    """What a run started here would join."""
    return _ambient.get()


def enter_ambient(ambient: Ambient | None) -> Token[Ambient | None]:
    """Put a session in force; the answer goes to `leave_ambient`."""
    return _ambient.set(ambient)


def leave_ambient(token: Token[Ambient | None]) -> None:
    """Put the one before it in force again."""
    _ambient.reset(token)


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
    token = enter_ambient(Given(checked))
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
