"""Messages that this worker cannot run but another one may: of an unknown class, or of a later message version.

They occur in old workers during a rolling deploy, so such a message is neither run nor lost, and no attempt is counted.
Workers register the classes that they know. If a live worker of the queue knows the class, the message returns to the
queue at once, and this process skips such messages for a moment. If no worker knows it, the message is deferred: it is
checked again later, or as soon as a worker starts that knows the class.
After a day the run fails: a record fails as ``unknown`` and can be retried, a direct message is marked dead.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection
from datetime import timedelta
from typing import Any, cast

import attrs
import dramatiq
import sqlalchemy as sa
from dramatiq.middleware import CurrentMessage
from dramatiq.middleware.threading import Interrupt

from dexpy.brokers.message_bounds import valid_facts
from dexpy.brokers.message_validation import RECORD_JOB, mark_dead
from dexpy.brokers.sql import statements
from dexpy.database.column_types import as_of, hide_from_planner
from dexpy.database.errors import retry_while_away
from dexpy.database.tables import records
from dexpy.declaration import registry
from dexpy.declaration.contract import Contract
from dexpy.enqueue.dispatcher import Dispatcher
from dexpy.foundation.backoff import Backoff
from dexpy.foundation.clock import clock
from dexpy.foundation.errors import UnknownOperation
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path
from dexpy.foundation.throttle import LogThrottle
from dexpy.liveness import worker_registry
from dexpy.policies.queue_selection import is_any_match
from dexpy.recording.outcome_logging import run_facts
from dexpy.recording.store import Store
from dexpy.recording.transitions import apply
from dexpy.worker.claims import why_version_unsupported


@attrs.frozen
class UnknownPolicy:
    """How long messages of unknown classes are deferred, in seconds.

    Attributes:
        first_wait_s: Until the second check; each wait is twice the one before.
        longest_wait_s: The longest wait between two checks.
        grace_s: From the due time until the run fails.
    """

    first_wait_s: float = 30.0
    longest_wait_s: float = 600.0
    grace_s: float = 24 * 3600.0

    def wait_s(self, looks: int) -> float:
        """Return the seconds until the next check, after so many earlier ones."""
        return Backoff(self.first_wait_s, self.longest_wait_s).pause_s(looks)


MAX_PASSES = 50
"""How often a message returns to the queue at once while a live worker has not registered its classes."""
BACKOFF = Backoff(first_s=0.02, longest_s=0.3, factor=1.3)
"""The pauses of a thread after a message for another worker, if the broker cannot skip such messages.

They grow with each one in a row: otherwise the idle worker that does not know the class receives most of its messages.
"""
MAKE_DUE_BATCH = 500
"""How many deferred messages are made due in one transaction."""
KNOWN_FOR_S = 1.0
"""How long the classes that other workers know are cached, in seconds."""

FIRST_WAIT_ALONE_S = 1.0
"""The first wait without a database, where no worker can make deferred messages due, in seconds."""
DEFAULT_POLICY = UnknownPolicy()
"""The default policy."""


def unknown_policy(grace: timedelta | None, *, is_alone: bool = False) -> UnknownPolicy:
    """Return the default policy, with another grace period if one is given.

    Args:
        grace: From the due time until the run fails.
        is_alone: Whether there is no database, from which a new worker could find the deferred messages.
    """
    policy = DEFAULT_POLICY if grace is None else attrs.evolve(DEFAULT_POLICY, grace_s=grace.total_seconds())
    return attrs.evolve(policy, first_wait_s=min(policy.first_wait_s, FIRST_WAIT_ALONE_S)) if is_alone else policy


class UnknownOperations:
    """Returns messages that this process cannot run to the queue, defers them, or marks them as dead.

    It is used where nothing is recorded: a message has all data of its run, and other workers are not visible.

    Args:
        dispatcher: Publishes the messages again.
        policy: How long messages are deferred.
    """

    def __init__(self, dispatcher: Dispatcher, policy: UnknownPolicy) -> None:
        self._dispatcher = dispatcher
        self._policy = policy
        self._unknown_log = LogThrottle(every_s=float("inf"))
        self._consecutive_passes = 0

    def contract_of(self, class_name: str, run_id: str, *, is_recorded: bool = False) -> Contract | None:
        """Return the contract of the current message; None if it cannot run here and was returned or deferred.

        Args:
            class_name: The operation's stable name.
            run_id: The run's id.
            is_recorded: Whether the class name is from the record: then the message's version does not matter.
        """
        why = None if is_recorded else why_version_unsupported()
        if why is None:
            try:
                contract: Contract = registry.find(class_name).contract
            except UnknownOperation:
                why = "its class is not declared in this process"
            else:
                self._consecutive_passes = 0
                return contract
            if retry_while_away(
                "return_message", lambda: self._return_to_queue(class_name, run_id), operation=class_name, run_id=run_id
            ):
                return None
        reason = why
        retry_while_away(
            "defer_message", lambda: self.defer_unknown(class_name, run_id, reason), operation=class_name, run_id=run_id
        )
        return None

    def _return_to_queue(self, class_name: str, run_id: str) -> bool:
        """Return the current message to the queue for a worker that knows its class; False if no such one is known."""
        message = _current_message()
        if message is None:
            return False
        facts = _facts(message)
        passes = int(facts.get("passes", 0))
        is_known = self._is_known_elsewhere(class_name, message.queue_name)
        if is_known is False or (is_known is None and passes >= MAX_PASSES):
            return False
        if self._waited_s(message, run_id) is None:
            log_event(LogEvent.RECORD_NOT_CLAIMED, operation=class_name, run_id=run_id)
            return True
        if is_known:
            facts = {name: fact for name, fact in facts.items() if name not in ("looks", "unknown_since")}
        options = {**message.options, "dexpy": {**facts, "passes": passes + 1}}
        message_copy: dramatiq.Message[Any] = cast(Any, message).copy(options=options)
        log_event(LogEvent.MESSAGE_RETURNED, operation=class_name, run_id=run_id)
        if not self._dispatcher.return_to_queue(message_copy, class_name, _record_id(message, run_id)):
            self._pause()
        return True

    def _pause(self) -> None:
        pause_s = BACKOFF.pause_s(self._consecutive_passes)
        self._consecutive_passes += 1
        # The message is in the queue again, so a shutdown may end this pause.
        with contextlib.suppress(Interrupt):
            time.sleep(pause_s)

    def defer_unknown(self, class_name: str, run_id: str, why: str) -> None:
        """Defer the current message, or fail its run if its grace period is over.

        Args:
            class_name: The class name in the message.
            run_id: The run's id.
            why: The reason why it cannot run here, for the log and the record.
        """
        about = f"{class_name}: {why}"
        self._unknown_log.log(LogEvent.MESSAGE_DEFERRED, about, operation=class_name, run_id=run_id, reason=why)
        message = _current_message()
        if message is None:
            return
        waited_s = self._waited_s(message, run_id)
        if waited_s is None:
            log_event(LogEvent.RECORD_NOT_CLAIMED, operation=class_name, run_id=run_id)
        elif waited_s < self._policy.grace_s:
            self._dispatcher.republish_later(*self._deferred_copy(message), _record_id(message, run_id))
        else:
            self._fail(message, class_name, run_id, why)

    def _deferred_copy(self, message: dramatiq.Message[Any]) -> tuple[dramatiq.Message[Any], float, int]:
        facts = _facts(message)
        looks = int(facts.get("looks", 0))
        since = facts.get("unknown_since", clock.now().timestamp())
        options = {**message.options, "dexpy": {**facts, "looks": looks + 1, "unknown_since": since}}
        message_copy: dramatiq.Message[Any] = cast(Any, message).copy(options=options)
        return message_copy, self._policy.wait_s(looks), getattr(message, "priority", 0)

    def _is_known_elsewhere(self, class_name: str, queue: str) -> bool | None:
        """Whether a live worker of a queue knows a class; None if a worker has not registered its classes."""
        return None

    def _waited_s(self, message: dramatiq.Message[Any], run_id: str) -> float | None:
        """Return the seconds since a run was due, or its message deferred for the first time; None if it is over."""
        now = clock.now().timestamp()
        return now - float(_facts(message).get("unknown_since", now))

    def _fail(self, message: dramatiq.Message[Any], class_name: str, run_id: str, why: str) -> None:
        """Fail a run whose grace period is over."""
        log_event(LogEvent.MESSAGE_REFUSED, operation=class_name, run_id=run_id, dead=True, reason=why)
        mark_dead(message, why)


class UnknownRecords(UnknownOperations):
    """`UnknownOperations` where runs are recorded: the database has their state, and the classes of each worker.

    Args:
        dispatcher: See `UnknownOperations`.
        policy: See `UnknownOperations`.
        store: The store of records.
    """

    def __init__(self, dispatcher: Dispatcher, policy: UnknownPolicy, store: Store) -> None:
        super().__init__(dispatcher, policy)
        self._store = store
        self._missing_record_log = LogThrottle(every_s=5.0)
        self._known_classes: dict[str, tuple[float, worker_registry.KnownClasses]] = {}

    def resolve_class_name(self, class_name: str, record_id: str) -> str | None:
        """Return the class name in the record, if it is known here; None if the message was returned or deferred."""
        rows = retry_while_away(
            "resolve_operation",
            lambda: self._store.rows(sa.select(records.c.operation).where(records.c.id == record_id)),
            operation=class_name,
            run_id=record_id,
        )
        if not rows:
            self._missing_record_log.log(LogEvent.RECORD_NOT_FOUND, "", operation=class_name, run_id=record_id)
            return None
        name = str(rows[0].operation)
        if registry.is_known(name):
            return name
        self.contract_of(name, record_id, is_recorded=True)
        return None

    def make_due(self, names: Collection[str], queues: Collection[str] | None) -> None:
        """Make deferred messages due that this worker can run.

        Args:
            names: The names of the operations that the worker knows.
            queues: The names or patterns of the queues that it serves; None for all.
        """
        sql_queue = self._dispatcher.transport.sql_queue
        if sql_queue is None:
            return
        known = frozenset(names)
        # A plain read first: there are rarely any.
        with sql_queue.database.connect() as connection:
            deferred = connection.execute(statements.select_deferred(self._policy.longest_wait_s)).all()
        served = (row for row in deferred if queues is None or is_any_match(queues, str(row.queue)))
        ids = sorted(int(row.id) for row in served if _class_name_in(row.payload) in known)
        for start in range(0, len(ids), MAKE_DUE_BATCH):
            with sql_queue.database.begin() as connection:
                connection.execute(statements.MAKE_DUE, {"p_ids": ids[start : start + MAKE_DUE_BATCH]})

    def _is_known_elsewhere(self, class_name: str, queue: str) -> bool | None:
        # True is cached for a moment; False and None are not.
        read_at, known = self._known_classes.get(queue, (0.0, None))
        if known is not None and class_name in known.names and time.monotonic() - read_at < KNOWN_FOR_S:
            return True
        with self._store.begin() as connection:
            known = worker_registry.known_classes(
                connection, worker_registry.SqliteLivenessLocks(self._store.database), queue
            )
        self._known_classes[queue] = time.monotonic(), known
        if class_name in known.names:
            return True
        return False if known.is_complete else None

    def _waited_s(self, message: dramatiq.Message[Any], run_id: str) -> float | None:
        if message.actor_name != RECORD_JOB:
            return super()._waited_s(message, run_id)
        since = sa.func.coalesce(records.c.scheduled_at, records.c.created_at, type_=records.c.created_at.type)
        # Both by the database's clock, which may differ from this machine's.
        query: Any = sa.select(since.label("since"), as_of(0).label("now"))
        rows = self._store.rows(query.where(records.c.id == run_id, hide_from_planner(records.c.status == "pending")))
        if not rows:
            return None
        waiting_since = rows[0].since
        # An unreadable time counts as now, so it fails no run.
        waited: timedelta = timedelta(0) if waiting_since is None else rows[0].now - waiting_since
        return waited.total_seconds()

    def _fail(self, message: dramatiq.Message[Any], class_name: str, run_id: str, why: str) -> None:
        if message.actor_name != RECORD_JOB:
            super()._fail(message, class_name, run_id, why)
            return
        values = {
            "error": class_path(UnknownOperation),
            "failure": "unknown",
            "error_message": f"No worker could run {class_name} in {_format_duration(self._policy.grace_s)}: {why}. "
            "Import its module in a worker, then retry the run.",
            "error_details": None,
        }
        with self._store.begin() as connection:
            failed_row = apply(connection, "park", run_id, **values)
        if failed_row is not None:
            log_event(LogEvent.RUN_FAILED, **run_facts(failed_row), failure="unknown", reason=why)


def _class_name_in(payload: object) -> str | None:
    """Return the class name in an encoded message; None if there is none."""
    try:
        message: Any = json.loads(cast(Any, payload))
        name: object = message["kwargs"]["class_name"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return name if isinstance(name, str) else None


def _current_message() -> dramatiq.Message[Any] | None:
    return CurrentMessage.get_current_message()


def _record_id(message: dramatiq.Message[Any], run_id: str) -> str | None:
    return run_id if message.actor_name == RECORD_JOB else None


def _facts(message: dramatiq.Message[Any] | None) -> dict[str, Any]:
    return valid_facts(message.options.get("dexpy")) if message is not None else {}


def _format_duration(seconds: float) -> str:
    return f"{seconds / 3600:g} hours" if seconds >= 3600 else f"{seconds:g} seconds"
