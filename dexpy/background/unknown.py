"""Messages that this worker cannot run, though another one may: of a class it does not know, or of a later form.

That is what a rolling deploy looks like from its old side, so such a message is neither run nor lost:
it is looked at again after a while, by whoever gets it then, and no attempt is counted.
What nobody has known for a day is parked: a record is failed as ``unknown``, and `retry` sends it again;
a direct message goes to where its broker keeps the dead ones.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any, cast

import attrs
import dramatiq
import sqlalchemy as sa
from dramatiq.middleware import CurrentMessage

from dexpy.background.dispatch import Dispatcher
from dexpy.background.outages import insist
from dexpy.background.payload import RECORD_JOB, VERSION
from dexpy.declaration import registry
from dexpy.declaration.contract import Contract
from dexpy.foundation.clock import clock
from dexpy.foundation.errors import UnknownOperation
from dexpy.foundation.log import line
from dexpy.foundation.redaction import class_path
from dexpy.recording.metadata import as_of, of_this_row
from dexpy.recording.store import Store
from dexpy.recording.tables import records
from dexpy.recording.transitions import apply


@attrs.frozen
class Patience:
    """How long a worker waits for another one to know what it does not.

    Attributes:
        first_wait_s: Until the second look; each wait is twice the one before.
        longest_wait_s: Between two looks.
        grace_s: From when it was due until it is parked.
    """

    first_wait_s: float = 30.0
    longest_wait_s: float = 600.0
    grace_s: float = 24 * 3600.0

    def wait_s(self, looks: int) -> float:
        """Seconds until the next look, after so many before."""
        return min(self.first_wait_s * 2.0 ** min(looks, 60), self.longest_wait_s)


PATIENCE = Patience()
"""Where nobody says otherwise."""


def patience(grace: timedelta | None) -> Patience:
    """The usual patience, with a grace of one's own."""
    return PATIENCE if grace is None else attrs.evolve(PATIENCE, grace_s=grace.total_seconds())


class Strangers:
    """What becomes of messages that cannot be run here.

    Args:
        dispatcher: Sends them again.
        store: Where records are; None when nothing is recorded.
        patience: How long they wait.
    """

    def __init__(self, dispatcher: Dispatcher, store: Store | None, patience: Patience | None) -> None:
        self._dispatcher = dispatcher
        self._store = store
        self._patience = patience or PATIENCE
        self._warned: set[str] = set()

    def contract_of(self, class_name: str, run_id: str) -> Contract | None:
        """The contract that the current message is for; None after it was taken in, for it cannot be run here."""
        why = self.of_later_form()
        if why is None:
            try:
                found: Contract = registry.find(class_name).contract
            except UnknownOperation:
                why = "its class is not declared here: is its module imported?"
            else:
                return found
        reason = why
        insist("look", lambda: self.take_in(class_name, run_id, reason), operation=class_name, run=run_id)
        return None

    def of_later_form(self) -> str | None:
        """Why the current message cannot be read here; None if it can."""
        version = _facts(_current()).get("v", VERSION)
        if isinstance(version, int) and version <= VERSION:
            return None
        return f"its message is of form {version!r}, and this worker reads {VERSION}: upgrade dexpy here"

    def take_in(self, class_name: str, run_id: str, why: str) -> None:
        """Have the current message looked at again later, or park what it stands for.

        Args:
            class_name: As the message has it.
            run_id: Of the run.
            why: It cannot be run here, for the log and the record.
        """
        if (about := f"{class_name}: {why}") not in self._warned:
            self._warned.add(about)
            line(logging.WARNING, "class.unknown", operation=class_name, run=run_id, why=why)
        message = _current()
        if message is None:
            return
        recorded = message.actor_name == RECORD_JOB and self._store is not None
        waited_s = self._waited_s(self._store, run_id) if recorded and self._store is not None else _waited_s(message)
        if waited_s is None:
            line(logging.DEBUG, "not_claimed", operation=class_name, run=run_id)
        elif waited_s < self._patience.grace_s:
            self._dispatcher.put_back(*self._next_look(message), run_id if recorded else None)
        elif recorded and self._store is not None:
            self._park(self._store, class_name, run_id, why)
        else:
            line(logging.ERROR, "class.unknown", operation=class_name, run=run_id, dead=True, why=why)
            cast(Any, message).fail()

    def _waited_s(self, store: Store, run_id: str) -> float | None:
        """Seconds since a record was due; None if it does not wait to be run."""
        since = sa.func.coalesce(records.c.scheduled_at, records.c.created_at, type_=records.c.created_at.type)
        # Both by the database's clock: this machine's may be days away from it.
        query: Any = sa.select(since.label("since"), as_of(0).label("now"))
        found = store.rows(query.where(records.c.id == run_id, of_this_row(records.c.status == "pending")))
        if not found:
            return None
        waited: timedelta = found[0].now - found[0].since
        return waited.total_seconds()

    def _next_look(self, message: dramatiq.Message[Any]) -> tuple[dramatiq.Message[Any], float, int]:
        facts = _facts(message)
        looks = int(facts.get("looks", 0))
        since = facts.get("unknown_since", clock.now().timestamp())
        options = {**message.options, "dexpy": {**facts, "looks": looks + 1, "unknown_since": since}}
        again: dramatiq.Message[Any] = cast(Any, message).copy(options=options)
        return again, self._patience.wait_s(looks), getattr(message, "priority", 0)

    def _park(self, store: Store, class_name: str, run_id: str, why: str) -> None:
        values = {
            "error": class_path(UnknownOperation),
            "failure": "unknown",
            "error_message": f"No worker could run {class_name} in {_shown(self._patience.grace_s)}: {why}. "
            "Import its module in a worker, then retry.",
            "error_details": None,
        }
        with store.begin() as connection:
            parked = apply(connection, "park", run_id, **values)
        if parked is not None:
            line(logging.ERROR, "parked", operation=class_name, run=run_id, failure="unknown", why=why)


def _current() -> dramatiq.Message[Any] | None:
    return CurrentMessage.get_current_message()


def _facts(message: dramatiq.Message[Any] | None) -> dict[str, Any]:
    return dict(message.options.get("dexpy", {})) if message is not None else {}


def _waited_s(message: dramatiq.Message[Any]) -> float:
    """Seconds since somebody looked at a message for the first time."""
    now = clock.now().timestamp()
    return now - float(_facts(message).get("unknown_since", now))


def _shown(seconds: float) -> str:
    return f"{seconds / 3600:g} hours" if seconds >= 3600 else f"{seconds:g} seconds"
