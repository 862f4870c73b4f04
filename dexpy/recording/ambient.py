"""What a run started here would join: the session of the run around it, or one that the application made current."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Protocol

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
