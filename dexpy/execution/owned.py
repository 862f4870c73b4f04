"""A session whose transaction belongs to a run: nobody but the run begins or ends it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dexpy.foundation.errors import TransactionOwned
from dexpy.foundation.log import line
from dexpy.foundation.redaction import class_path

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, SessionTransaction

OWNED = ("begin", "commit", "rollback", "close", "reset", "invalidate")
"""Methods of a session that begin or end its transaction: inside a run they refuse."""


class OwnedSession:
    """The session of a run, while it has one.

    Args:
        owner: The operation's name, for messages.
        session: The run's own, or the one that it joins.
        savepoint: Around the run, in a session that it joins; None for a session of its own.
    """

    def __init__(self, owner: str, session: Session, savepoint: SessionTransaction | None = None) -> None:
        self.session = session
        self._owner = owner
        self._savepoint = savepoint
        self._root: SessionTransaction | None = None
        self._guarding = False

    @property
    def is_joined(self) -> bool:
        """Whether it is somebody else's session, and the run a savepoint in it."""
        return self._savepoint is not None

    def guard(self) -> None:
        """Have the methods that begin or end the transaction refuse; the outermost run does, for those inside too."""
        self._root = self.session.get_transaction()
        if "commit" not in vars(self.session):
            self._guarding = True
            for name in OWNED:
                setattr(self.session, name, self._refusal(name))

    def _refusal(self, method: str) -> Callable[..., Any]:
        session = self.session

        def refuse(nested: bool = False, *_: Any, **__: Any) -> Any:
            if method == "begin" and nested:
                return type(session).begin(session, nested=True)
            raise TransactionOwned(
                f"{self._owner}: session.{method}() was called inside a run, whose transaction commits and rolls back "
                "by itself. Raise an Error to undo everything; write `with self.session.begin_nested():` for a part."
            )

        return refuse

    def _release(self) -> None:
        if self._guarding:
            self._guarding = False
            for name in OWNED:
                vars(self.session).pop(name, None)

    def flush(self) -> None:
        """Write what the session holds, before a commit.

        Raises:
            TransactionOwned: The transaction was ended inside the run.
        """
        self.session.flush()
        if self.session.get_transaction() is not self._root:
            raise TransactionOwned(
                f"{self._owner}: the transaction of the run was ended inside it. Leave begin, commit and rollback "
                "to the run; write `with self.session.begin_nested():` for a part."
            )

    def commit(self) -> None:
        """End it well: the savepoint of the run, or its transaction and session."""
        self._release()
        if self._savepoint is not None:
            self._savepoint.commit()
        else:
            self.session.commit()
            self.session.close()

    def rollback(self) -> None:
        """Undo the savepoint of the run, or its transaction, and end it; a failure of that is only logged."""
        self._release()
        try:
            if self._savepoint is not None:
                self._savepoint.rollback()
            else:
                self.session.rollback()
                self.session.close()
        except Exception as error:  # noqa: BLE001 - the failure that led here is the one to be told
            line(logging.WARNING, "rollback.failed", operation=self._owner, error=class_path(error))

    def end_part(self, *, commits: bool) -> None:
        """End the session's transaction and keep the session, for a run that is a chain of transactions."""
        from dexpy.recording import looks

        self._release()
        if commits:
            self.session.commit()
        else:
            self.session.rollback()
        looks.forget_writes(self.session)

    def begin_part(self) -> None:
        """Begin the session's next transaction, which sees the rows anew."""
        self.session.expire_all()
        self.session.begin()
        self.guard()
