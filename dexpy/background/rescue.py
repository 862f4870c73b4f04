"""What dead workers held is run again, or ended when it seems to be what kills them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeVar

from sqlalchemy.engine import Connection, Row

from dexpy.background.dispatch import Dispatcher
from dexpy.background.heart import Heart
from dexpy.background.sessions import end_sessions
from dexpy.background.unwritable import change_each
from dexpy.declaration import registry
from dexpy.declaration.policies import Retry
from dexpy.foundation.errors import UnknownOperation, WorkerLost
from dexpy.foundation.log import line
from dexpy.foundation.redaction import class_path
from dexpy.recording import liveness
from dexpy.recording.signals import is_cancel_requested
from dexpy.recording.store import Store, facts_of
from dexpy.recording.transitions import apply

MAX_LOST = 3
"""So many workers may be lost with an operation, unless its row says otherwise."""

LOCK_WAIT_S = 1
"""So long a look waits for a lock at most, in seconds: it may be one of those whose death it is there to see."""

T = TypeVar("T")


class Rescue:
    """One look for the dead, and what becomes of what they ran.

    Args:
        dispatcher: Sends what is run again.
        store: Where records are.
        heart: Of this process, which is not among the dead.
    """

    def __init__(self, dispatcher: Dispatcher, store: Store, heart: Heart) -> None:
        self._dispatcher = dispatcher
        self._store = store
        self._heart = heart

    def run_once(self) -> int:
        """Take everything from dead workers, and their rows away.

        Returns:
            How many runs were taken.
        """
        dead = self._find_dead()
        taken = self._give_away(dead)
        with self._store.begin() as connection:
            ended = liveness.ended(dead, self._heart.own_ids, by_lease=self._by_lease)
            if gone := self._judged(connection.execute(ended).scalars()):
                liveness.leave(connection, gone)
                line(logging.WARNING, "workers.dead", workers=",".join(gone))
            if self._by_lease:
                liveness.forget_strays(connection)
        return taken

    @property
    def _by_lease(self) -> bool:
        return not self._heart.lifelines.decide

    def _find_dead(self) -> Collection[str]:
        """The dead workers; on a server, what they have open in the database is ended.

        Only those: one that dies after this keeps its row, and with it the names of its sessions, until the next look.
        """
        with self._store.begin() as connection:
            known = liveness.rows(connection)
            if not self._by_lease:
                running = connection.execute(liveness.running_workers()).scalars().all()
                return self._heart.lifelines.dead({*running, *(row.id for row in known)}) or ()
            lapsed = self._judged(row.id for row in known if not row.is_leased)
            dead = set(lapsed).difference(self._heart.own_ids)
            for worker in dead:
                end_sessions(connection, worker)
        return dead

    def _judged(self, found: Iterable[T]) -> Sequence[T]:
        """What was read of the dead; nothing of it where this process was late itself, perhaps by the reading."""
        read = list(found)
        return read if self._heart.may_judge else ()

    def _give_away(self, dead: Collection[str]) -> int:
        """Take everything from them; how many rows went well."""

        def find(connection: Connection, limit: int, without: Collection[str]) -> Sequence[Row[Any]]:
            lost = liveness.lost(None if self._by_lease else dead, self._heart.own_ids, limit, without)
            return self._judged(connection.execute(lost))

        given = change_each(self._store, "rescue", find, self._end_attempt)
        if given:
            self._dispatcher.ring()
        return given

    def _end_attempt(self, connection: Connection, row: Row[Any]) -> bool:
        event, values = verdict(row, is_cancel_requested(connection, row.id))
        if event == "rescue":
            values |= {"wait_s": _wait_s(row), "sent": self._dispatcher.transactional}
        after = apply(connection, event, row.id, claim_token=row.claim_token, **values)
        if after is None:
            return False
        kept = {**facts_of(after), "claimed_by": row.claimed_by, "failure": "lost", "error": class_path(WorkerLost)}
        self._store.keep_attempt(connection, kept, None)
        if event == "rescue":
            self._dispatcher.send(connection, after)
        facts = {"operation": row.name, "run": row.id, "worker": row.claimed_by, "lost": after.num_lost}
        line(logging.WARNING if event == "rescue" else logging.ERROR, f"lost.{event}", **facts)
        return True


def verdict(row: Row[Any], is_cancelled: bool) -> tuple[str, dict[str, Any]]:
    """What becomes of a row whose worker is dead.

    Args:
        row: As it is.
        is_cancelled: Whether somebody has called the run off.

    Returns:
        The event of the state machine, and the error columns.
    """
    values: dict[str, Any] = {"error": class_path(WorkerLost), "failure": "lost", "error_details": None}
    if is_cancelled:
        message = "It was cancelled while it ran, and its worker died."
        return "abandon", values | {"failure": "cancelled", "error_message": message}
    times, limit = row.num_lost + 1, row.max_lost if row.max_lost is not None else MAX_LOST
    said = f"The worker {row.claimed_by} stopped giving signs of life while it ran this (attempt {row.num_attempts})."
    if times < limit:
        return "rescue", values | {"error_message": f"{said} It is run again; {limit} such ends are one too many."}
    if limit == 0:
        message = f"The process {row.claimed_by}, which called this in place, ended or froze before it was done."
        return "lose", values | {"error_message": message}
    if limit <= 1:
        return "lose", values | {"error_message": f"{said} Its class wants no other attempt then. retry() begins anew."}
    return "lose", values | {
        "error_message": f"{said} That makes {times} times: most likely the operation itself ends its workers, by "
        "the memory it takes for one. Mend it, then retry()."
    }


def _wait_s(row: Row[Any]) -> float:
    """Seconds until the next attempt, by a rule for `WorkerLost` where the class is known here and has one."""
    try:
        rule = registry.find(row.name).contract.rule_for(WorkerLost())
    except UnknownOperation:
        return 0.0
    retry: Any = rule.answer if rule is not None and rule.cause is WorkerLost else None
    try:
        return retry.wait_s(row.num_lost + 1) if isinstance(retry, Retry) else 0.0
    except Exception as error:  # noqa: BLE001 - the rule's own function; the run must be given away in spite of it
        line(logging.ERROR, "retry.failed", operation=row.name, run=row.id, error=class_path(error))
        return 0.0
