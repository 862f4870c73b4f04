"""What `dexpy.queues` and `dexpy.recurring` share: their database, the transaction and common arguments."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy.engine import Connection

from dexpy.enqueue.current_dispatcher import current_dispatcher
from dexpy.enqueue.dispatcher import Dispatcher
from dexpy.foundation.errors import NotRecorded, OptionsError
from dexpy.foundation.safe_text import is_plain_text, shortened
from dexpy.policies.options import check_in_utc
from dexpy.recording.store import Store
from dexpy.transactions.sessions import check_session_or_connection, is_async

T = TypeVar("T")


def recording_dispatcher(where: str, subject: str) -> Dispatcher:
    """Return the current dispatcher.

    Args:
        where: The subject of error messages: the call.
        subject: What requires a database, in the plural.

    Raises:
        NotRecorded: Nothing is recorded in this process.
    """
    dispatcher = current_dispatcher.get()
    if dispatcher.store is None:
        raise NotRecorded(
            f"{where}: {subject} require a database, but nothing is recorded in this process. "
            "Configure one: dexpy.configure(database=...)."
        )
    return dispatcher


def recording_store(where: str, subject: str) -> Store:
    """Return the store of the current dispatcher; the arguments are those of `recording_dispatcher`."""
    store = recording_dispatcher(where, subject).store
    assert store is not None  # noqa: S101 - checked there
    return store


def checked_session(session: Any, where: str, example: str) -> Any:
    """Return a session or connection; None if there is none.

    Args:
        session: The argument of the caller.
        where: The subject of error messages.
        example: The function to call in ``run_sync``.

    Raises:
        OptionsError: It is neither, or for asyncio.
    """
    if session is None:
        return None
    checked = check_session_or_connection(session, f"{where} session=")
    if is_async(checked):
        raise OptionsError(
            f"{where}: session=: expected a Session or Connection, got an {type(checked).__name__}. "
            f"Write: await session.run_sync(lambda session: {example}(..., session=session))."
        )
    return checked


def write_in(session: Any, where: str, subject: str, example: str, write: Callable[[Connection], T]) -> T:
    """Write in the transaction of a session, of the current session, or of dexpy's own.

    Args:
        session: The session or connection; None for the current one.
        where: See `recording_dispatcher`.
        subject: See `recording_dispatcher`.
        example: See `checked_session`.
        write: Writes with the connection.
    """
    return recording_dispatcher(where, subject).write_joined(checked_session(session, where, example), write)


def checked_until(until: object, where: str) -> datetime | None:
    """Return an aware datetime that a database can store, or None.

    Raises:
        OptionsError: It is none.
    """
    if until is None:
        return None
    if not isinstance(until, datetime) or until.utcoffset() is None:
        raise OptionsError(f"{where}: until={shortened(until)}: expected an aware datetime.")
    check_in_utc(until, f"{where}: until")
    return until


def checked_text(text: object, name: str, longest: int, where: str) -> str | None:
    """Return a text of at most this number of characters that a database can store, or None.

    Raises:
        OptionsError: It is none.
    """
    if text is not None and (not is_plain_text(text) or len(text) > longest):
        raise OptionsError(f"{where}: {name}={shortened(text)}: expected a str of at most {longest} characters.")
    return text
