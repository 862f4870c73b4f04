"""once: returns the result of the first run with an idempotency key to every later call with it.

In: claims the key, or waits for the run that holds it and returns its outcome. Out: nothing; the recorder writes the
end of the run, which decides whether the key is kept.
Outside of lock and guards, so that a replay takes no lock and no guard refuses it. Left out for a class without a key;
does nothing in a worker, because the key was claimed when the run was enqueued.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import attrs

from dexpy.declaration.contract import Contract
from dexpy.declaration.key_digests import is_same_request, once_keys
from dexpy.execution.call import Call
from dexpy.foundation.backoff import Backoff
from dexpy.foundation.errors import KeyBusy, LostClaim, OnceConflict, OperationFailed
from dexpy.foundation.failpoints import failpoint
from dexpy.foundation.outcome import Err, Outcome
from dexpy.recording.current_store import current_store

if TYPE_CHECKING:
    from sqlalchemy.engine import Row

    from dexpy.recording.idempotent_recorder import IdempotentRecorder

BACKOFF = Backoff(first_s=0.005, longest_s=0.2)
RECOVER_EVERY_S = 1.0
"""How often a waiting call recovers the run that it waits for if its process has died, in seconds."""


def needed(contract: Contract) -> bool:
    """Whether the class, or this call, has a key."""
    return contract.once is not None


def run(call: Call, proceed: Callable[[Call], Outcome]) -> Outcome:
    """Run the rest, or return the outcome of an earlier run with the key.

    Raises:
        KeyBusy: Another run with the key has not ended in time.
        OnceConflict: The key was used with other params.
        OperationFailed: The lease of the process expired while it ran, and nothing of the run was committed.
        ResultNotStored: The earlier run is done, and its result has no JSON form.
    """
    if call.recorder is None or not call.recorder.claims_key:
        return proceed(call)
    recorder = cast("IdempotentRecorder", call.recorder)
    try:
        earlier = _claim_or_wait(call, recorder)
        if earlier is not None:
            return recorder.outcome_of(earlier)
        return _run_claimed(call, recorder, proceed)
    finally:
        recorder.release_unless_ending()


def _run_claimed(call: Call, recorder: IdempotentRecorder, proceed: Callable[[Call], Outcome]) -> Outcome:
    try:
        outcome = proceed(call)
    except LostClaim as lost:
        if not recorder.lost:
            raise
        # The lease expired and the record was ended by recovery; or the run changed its record, which is ended now.
        recorder.crashed(call.unit_of_work.at_end, lost)
        raise OperationFailed(call.id, call.contract.name, "lost", None, str(lost)) from lost
    except BaseException as error:
        # Raised between once and record: a lock that was not free must not keep the key.
        if not recorder.is_settled:
            recorder.crashed(call.unit_of_work.at_end, error)
        raise
    if not recorder.is_settled:
        # Rejected before the run began, for example by a lock: there is no outcome to replay.
        refused = attrs.evolve(outcome, rejected=True) if isinstance(outcome, Err) else outcome
        recorder.ended(call.unit_of_work.at_end, refused)
    return outcome


def _claim_or_wait(call: Call, recorder: IdempotentRecorder) -> Row[Any] | None:
    """Return the ended run that holds the key; None if this run has claimed it."""
    once, name = call.contract.once, call.contract.name
    assert once is not None  # noqa: S101 - it has a recorder with a key
    deadline = time.monotonic() + once.wait_s
    while True:
        remaining_s = max(deadline - time.monotonic(), 0.0)
        holder = recorder.claim(remaining_s)
        if recorder.claimed:
            return None
        row = None if holder is None else holder.row
        if holder is not None:
            if once.params == "check" and not is_same_request(call.contract, *recorder.params_of_both(holder.row)):
                raise OnceConflict(name, holder.row.id)
            if holder.row.completed_at is not None:
                return holder.row
            # The holder is in this transaction or around this call: it cannot end while this one waits.
            if not holder.is_committed or holder.row.id in _outer_ids(call):
                raise KeyBusy(name, 0.0, holder.row.id)
            failpoint("once_key_busy")
            _wait_for(call, recorder, holder.row.id, deadline)
        if time.monotonic() >= deadline:
            raise KeyBusy(name, once.wait_s, None if row is None else row.id)


def _outer_ids(call: Call) -> set[str]:
    ids: set[str] = set()
    outer = call.outer
    while outer is not None:
        ids.add(outer.id)
        outer = outer.outer
    return ids


def _wait_for(call: Call, recorder: IdempotentRecorder, id: str, deadline: float) -> None:
    """Wait until a run has ended, or the deadline."""
    recovered_at = time.monotonic()
    for pause_s in BACKOFF:
        if (now := time.monotonic()) >= deadline:
            return
        if call.cancel_token is not None:
            call.cancel_token.check()
        if not recorder.is_open(id):
            return
        if now - recovered_at >= RECOVER_EVERY_S and not recorder.joined:
            recovered_at = now
            recorder.lease.recover()
        time.sleep(min(pause_s, max(deadline - now, 0.0)))


def explain(call: Call) -> Mapping[str, Any]:
    """Return the key that a call would have, and the run that holds it now."""
    once = call.contract.once
    assert once is not None  # noqa: S101 - called only for a class with a key
    keys = once_keys(call.operation, call.contract)
    report: dict[str, Any] = {"active": True, "key": keys[0][:12], "expires_in": once.expires_in_s}
    store = current_store.get()
    holder = store.holder(call.contract.name, once=keys)
    if holder is None:
        return report | {"status": "fresh"}
    report["held_by"] = holder.row.id
    if holder.is_expired:
        return report | {"status": "expired"}
    return report | {"status": "pending" if holder.row.completed_at is None else "exists"}
