"""Claims of records whose class has a concurrency limit, a rate limit, or both.

The keys are locked in one order, that of the slots first, before any record. A delivery claims the next run of its
line: its own, or one that waits for a slot or a start of the same keys; then its own waits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import attrs
from sqlalchemy.engine import Connection, Row

from dexpy.declaration import registry
from dexpy.foundation.failpoints import failpoint
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.policies.concurrency import Concurrency
from dexpy.policies.rate import Rate
from dexpy.recording import concurrency_slots, rate_limits
from dexpy.recording.fair_turns import FairTurns
from dexpy.recording.rate_limits import RateState
from dexpy.recording.transitions import apply


@attrs.frozen
class Limits:
    """The limits that apply to one record.

    Attributes:
        concurrency: Its concurrency limit; None without one.
        rate: Its rate limit; None without one.
    """

    concurrency: Concurrency | None = None
    rate: Rate | None = None

    @classmethod
    def of(cls, row: Row[Any] | None) -> Limits:
        """Return the limits of a row of `concurrency_slots.read_for_claim`, as its class declares them now."""
        contract = None if row is None else registry.contract_of(row.operation)
        if row is None or contract is None:
            return cls()
        # A row without the key was enqueued before its class had the limit.
        return cls(
            contract.concurrency if row.concurrency_key is not None else None,
            contract.rate if row.rate_key is not None else None,
        )

    def lock(self, connection: Connection, row: Row[Any]) -> LockedLimits:
        """Lock the keys of a row until the end of the transaction, which has locked no record yet."""
        num_free, state, wait_s = None, None, 0.0
        if self.concurrency is not None:
            concurrency_slots.lock_key(connection, row.concurrency_key)
            failpoint("concurrency_key_locked")
            num_free = self.concurrency.limit - concurrency_slots.count_running(connection, row.concurrency_key)
        if self.rate is not None:
            state = rate_limits.lock_key(connection, row.rate_key)
            failpoint("rate_key_locked")
            wait_s = rate_limits.wait_s(connection, state, self.rate.limit, self.rate.per_s)
        return LockedLimits(self.concurrency, self.rate, num_free, state, wait_s)


@attrs.frozen
class LockedLimits:
    """The limits of a record whose keys the transaction has locked.

    Attributes:
        concurrency: See `Limits`.
        rate: See `Limits`.
        num_free: The number of free slots; None without a concurrency limit.
        state: The state of the rate key; None without a rate limit.
        wait_s: The seconds until the rate limit allows a start; 0 if it does now.
    """

    concurrency: Concurrency | None
    rate: Rate | None
    num_free: int | None
    state: RateState | None
    wait_s: float

    @property
    def why_closed(self) -> str | None:
        """The reason why no run of the keys may start now; None if one may."""
        if self.num_free is not None and self.num_free <= 0:
            return "no free slot"
        return "rate limit" if self.wait_s > 0 else None

    def note_start(self, connection: Connection, record_id: str) -> None:
        """Store the start of a claimed record."""
        if self.rate is not None and self.state is not None:
            rate_limits.insert_start(connection, self.state, self.rate.limit, self.rate.per_s, record_id)
            failpoint("rate_start_stored")


@attrs.frozen
class LimitedClaim:
    """The result of delivering the message of a limited record.

    Attributes:
        row: The claimed row to run now; None if there is none.
        is_settled: Whether the row of the message waits for a limit now, or is discarded.
        has_free_slots: Whether there is another slot for a waiting run.
        has_waiting_starts: Whether a run may wait for the next start of the rate key.
    """

    row: Row[Any] | None = None
    is_settled: bool = False
    has_free_slots: bool = False
    has_waiting_starts: bool = False


def claim_limited(
    connection: Connection,
    delivered: Row[Any],
    limits: Limits,
    turns: FairTurns,
    paused: Collection[str],
    claim: Callable[[str], Row[Any] | None],
) -> LimitedClaim:
    """Claim the next row of the keys of a delivered row, if its limits allow a start.

    Args:
        connection: In a transaction that has locked no record yet.
        delivered: The row of the message, from `concurrency_slots.read_for_claim`.
        limits: The limits of the row, at least one.
        turns: The turns of runs with a fair key.
        paused: The names of the operations that start no run now.
        claim: Claims a row by its id.
    """
    if delivered.status == "pending" and not delivered.is_due:
        # Not due yet, or expired: the message stays.
        return LimitedClaim()
    locked = limits.lock(connection, delivered)
    row, has_others = None, False
    if locked.why_closed is None:
        others = list(_next_of_lines(connection, delivered, limits, turns, paused))
        has_others = bool(others)
        delivered_rows = [delivered] if delivered.is_due else []
        # A run whose key has its turn precedes the delivered one, which gets a turn by waiting.
        rank = _rank if delivered.fair_key is None else _rank_by_priority
        candidates = {each.id: each for each in sorted([*others, *delivered_rows], key=rank)}.values()
        row = next((claimed for each in candidates if (claimed := claim(each.id)) is not None), None)
        if row is not None:
            locked.note_start(connection, row.id)
    if not delivered.is_due or (row is not None and row.id == delivered.id):
        # One that has waited itself: others may wait that have another concurrency key.
        is_from_line = delivered.rate_key is not None and delivered.blocked_key == delivered.rate_key
        return LimitedClaim(row, has_waiting_starts=limits.rate is not None and (has_others or is_from_line))
    num_free = (locked.num_free or 0) - (row is not None)
    is_settled = _settle(connection, delivered, locked, has_slot=locked.num_free is None or num_free > 0)
    return LimitedClaim(row, is_settled, is_settled and num_free > 0, limits.rate is not None)


def _next_of_lines(
    connection: Connection, delivered: Row[Any], limits: Limits, turns: FairTurns, paused: Collection[str]
) -> Iterator[Row[Any]]:
    """Yield the next waiting row of each line of a delivered row, if it has the same keys."""
    for policy, key in ((limits.concurrency, delivered.concurrency_key), (limits.rate, delivered.rate_key)):
        if policy is None or policy.on_conflict == "discard":
            continue
        row = None if delivered.fair_key is None else turns.next_in_line(connection, key)
        if row is None:
            row = concurrency_slots.next_waiting(connection, key)
        if row is not None and (row.operation in paused or not registry.is_known(row.operation)):
            names = [name for name in registry.names() if name not in paused]
            row = concurrency_slots.next_waiting(connection, key, names)
        if row is not None and row.id != delivered.id and _keys(row) == _keys(delivered):
            yield row


def _settle(connection: Connection, delivered: Row[Any], locked: LockedLimits, *, has_slot: bool) -> bool:
    """Make a delivered row wait for the limit that it exceeds, or discard it; return whether it was still pending."""
    policy = locked.concurrency if locked.rate is None or not has_slot else locked.rate
    facts: dict[str, Any] = {"operation": delivered.operation, "run_id": delivered.id}
    if policy is None or policy.on_conflict == "wait":
        is_rate = isinstance(policy, Rate)
        updated = apply(connection, "throttle" if is_rate else "block", delivered.id)
        event = LogEvent.RUN_THROTTLED if is_rate else LogEvent.RUN_BLOCKED
    else:
        updated = apply(connection, "discard", delivered.id, **_discard_columns(policy))
        event = LogEvent.RUN_DISCARDED
    if updated is not None:
        log_event(event, **facts, limit=None if policy is None else policy.limit)
    return updated is not None


def _rank(row: Row[Any]) -> tuple[int, str]:
    return -row.priority, row.id


def _rank_by_priority(row: Row[Any]) -> int:
    return -int(row.priority)


def _keys(row: Row[Any]) -> tuple[str | None, str | None]:
    return row.concurrency_key, row.rate_key


def _discard_columns(policy: Concurrency | Rate) -> dict[str, Any]:
    if isinstance(policy, Rate):
        message = f"Discarded: {policy.limit} runs of its rate key started within {policy.per_s:g} s."
    else:
        message = f"Discarded: all {policy.limit} slots of its concurrency key were in use."
    return {"error": None, "failure": "discarded", "error_message": message, "error_details": None}
