"""What dead workers held is run again, or ended when it seems to be what kills them."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from sqlalchemy.engine import Connection, Row

from dexpy.background.dispatch import Dispatcher
from dexpy.background.heart import Heart, end_sessions
from dexpy.background.outages import is_away
from dexpy.declaration import registry
from dexpy.declaration.policies import Retry
from dexpy.foundation.errors import UnknownOperation, WorkerLost
from dexpy.foundation.log import line
from dexpy.foundation.redaction import class_path
from dexpy.recording import liveness
from dexpy.recording.signals import is_cancel_requested
from dexpy.recording.store import Store, facts_of
from dexpy.recording.transitions import apply

BATCH = 100
MAX_LOST = 3
"""So many workers may be lost with an operation, unless its row says otherwise."""


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
        taken = given = self._give_away(dead)
        while given == BATCH:
            given = self._give_away(dead)
            taken += given
        with self._store.begin() as connection:
            if gone := connection.execute(liveness.ended(dead, self._heart.own_ids)).scalars().all():
                liveness.leave(connection, gone)
                line(logging.WARNING, "workers.dead", workers=",".join(gone))
            if dead is None:
                liveness.forget_strays(connection)
        return taken

    def _find_dead(self) -> Collection[str] | None:
        """The dead workers, where locks say which; on a server, end what they have open in the database."""
        with self._store.begin() as connection:
            known = liveness.rows(connection)
            if (lifelines := self._heart.lifelines).decide:
                running = connection.execute(liveness.running_workers()).scalars().all()
                return lifelines.dead({*running, *(row.id for row in known)})
            for row in known:
                if not row.is_leased and row.id not in self._heart.own_ids:
                    end_sessions(connection, row.id)
        return None

    def _give_away(self, dead: Collection[str] | None) -> int:
        """One batch, in one transaction: how many rows went well."""
        with self._store.begin() as connection:
            rows = connection.execute(liveness.lost(dead, self._heart.own_ids, BATCH)).all()
            given = sum(self._is_given(connection, row) for row in rows)
        if given:
            self._dispatcher.ring()
        return given

    def _is_given(self, connection: Connection, row: Row[Any]) -> bool:
        """A row that cannot be written stays as it is until somebody mends it, and keeps no other from its turn."""
        try:
            with connection.begin_nested():
                self._end_attempt(connection, row)
        except Exception as error:
            if is_away(error):
                raise
            line(logging.ERROR, "rescue.failed", operation=row.name, run=row.id, error=class_path(error))
            return False
        return True

    def _end_attempt(self, connection: Connection, row: Row[Any]) -> None:
        event, values = verdict(row, is_cancel_requested(connection, row.id))
        if event == "rescue":
            values |= {"wait_s": _wait_s(row), "sent": self._dispatcher.transactional}
        after = apply(connection, event, row.id, claim_token=row.claim_token, **values)
        if after is None:
            return
        kept = {**facts_of(after), "claimed_by": row.claimed_by, "failure": "lost", "error": class_path(WorkerLost)}
        self._store.keep_attempt(connection, kept, None)
        if event == "rescue":
            self._dispatcher.send(connection, after)
        facts = {"operation": row.name, "run": row.id, "worker": row.claimed_by, "lost": after.num_lost}
        line(logging.WARNING if event == "rescue" else logging.ERROR, f"lost.{event}", **facts)


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
