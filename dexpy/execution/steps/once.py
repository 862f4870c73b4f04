"""once: the result of the first call, for every later one with its key.

In: claims the key, or waits for the run that has it, and gives what that came to. Out: nothing; the end of the run is
written by its recorder, and says what becomes of the key.
Outside of lock and guards, so that a replay takes no lock and is refused by nobody. Left out for a class without a key;
passed by a worker's run, whose key was claimed when it was sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dexpy.declaration.contract import Contract
from dexpy.declaration.once import is_same_request, once_key
from dexpy.execution.call import Call
from dexpy.foundation.checkpoint import checkpoint
from dexpy.foundation.door import store_in_force
from dexpy.foundation.errors import KeyBusy, LostClaim, OnceConflict, OperationFailed
from dexpy.foundation.outcome import Err, Outcome

if TYPE_CHECKING:
    from sqlalchemy.engine import Row

    from dexpy.recording.once import OnceRecorder
    from dexpy.recording.store import Store

FIRST_PAUSE_S = 0.005
LONGEST_PAUSE_S = 0.2
LOOK_EVERY_S = 1.0
"""How often a call that waits looks whether the process of the other one has died, in seconds."""


def needed(contract: Contract) -> bool:
    """Whether the class, or this call of it, has a key."""
    return contract.once is not None


def run(call: Call, proceed: Callable[[Call], Outcome]) -> Outcome:
    """Run the rest, or give what an earlier run with the key came to.

    Raises:
        KeyBusy: Another run with the key has not ended in time.
        OnceConflict: The key was used with other params.
        OperationFailed: The process was taken for dead while it ran, and nothing of the run was committed.
        ResultNotStored: The earlier run is done, and its result has no JSON form.
    """
    from dexpy.recording.ending import ending_of
    from dexpy.recording.once import OnceRecorder
    from dexpy.recording.store import facts_of

    recorder = call.recorder
    if not isinstance(recorder, OnceRecorder):
        return proceed(call)
    earlier = _until_ours_or_ended(call, recorder)
    if earlier is not None:
        return ending_of(earlier.id, call.contract.name, facts_of(earlier))
    try:
        outcome = proceed(call)
    except LostClaim as lost:
        if not recorder.lost:
            raise
        raise OperationFailed(call.id, call.contract.name, "lost", None, str(lost)) from lost
    except BaseException as error:
        # A step between this one and record: a lock that could not be had must not keep the key.
        if not recorder.told:
            recorder.crashed(call.scope.at_end, error)
        raise
    if not recorder.told:
        # Turned away before the run began, by a lock for one: nothing came of it that could be given again.
        refused = attrs.evolve(outcome, rejected=True) if isinstance(outcome, Err) else outcome
        recorder.ended(call.scope.at_end, refused)
    return outcome


def _until_ours_or_ended(call: Call, recorder: OnceRecorder) -> Row[Any] | None:
    """The run that has the key, once it has ended; None when the key is this run's."""
    from dexpy.recording.keys import Busy

    once, name = call.contract.once, call.contract.name
    assert once is not None  # noqa: S101 - it has a recorder with a key
    deadline = time.monotonic() + once.wait_s
    while True:
        left_s = max(deadline - time.monotonic(), 0.0)
        try:
            holder = recorder.claim(left_s)
        except Busy as busy:
            raise KeyBusy(name, once.wait_s) from busy
        if recorder.claimed:
            return None
        row = None if holder is None else holder.row
        if holder is not None:
            if once.params == "check" and not is_same_request(call.contract, *recorder.both_params(holder.row)):
                raise OnceConflict(name, holder.row.id)
            if holder.row.completed_at is not None:
                return holder.row
            # Of this very transaction, or around this very call: it cannot end while this one waits.
            if not holder.is_committed or holder.row.id in _ids_around(call):
                raise KeyBusy(name, 0.0, holder.row.id)
            checkpoint("once_waiting")
            _wait_for(call, recorder, holder.row.id, deadline)
        if time.monotonic() >= deadline:
            raise KeyBusy(name, once.wait_s, None if row is None else row.id)


def _ids_around(call: Call) -> set[str]:
    ids: set[str] = set()
    outer = call.outer
    while outer is not None:
        ids.add(outer.id)
        outer = outer.outer
    return ids


def _wait_for(call: Call, recorder: OnceRecorder, id: str, deadline: float) -> None:
    """Until a run has ended, or the time is over."""
    pause_s, looked_at = FIRST_PAUSE_S, time.monotonic()
    while (now := time.monotonic()) < deadline:
        if call.stop is not None:
            call.stop.check()
        if not recorder.is_open(id):
            return
        if now - looked_at >= LOOK_EVERY_S and not recorder.joined:
            looked_at = now
            recorder.vigil.look()
        time.sleep(min(pause_s, max(deadline - now, 0.0)))
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


def explain(call: Call) -> Mapping[str, Any]:
    """The key that a call would have, and who has it now."""
    from dexpy.recording.keys import Claim

    once = call.contract.once
    assert once is not None  # noqa: S101 - asked only where it is needed
    key = once_key(call.operation, call.contract)
    told: dict[str, Any] = {"active": True, "key": key[:12], "expires_in": once.expires_in_s}
    store: Store = store_in_force()
    holder = store.holder(Claim(call.contract.name, once=key))
    if holder is None:
        return told | {"status": "fresh"}
    told["held_by"] = holder.row.id
    if holder.is_over:
        return told | {"status": "expired"}
    return told | {"status": "pending" if holder.row.completed_at is None else "exists"}
