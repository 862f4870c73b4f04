"""lock: one run at a time for its key.

In: waits for the lock, and ends the run as ``lock_timeout`` if it is not to be had in time. Out: gives it back, when
the transaction that the run's effects are part of has ended.
Outside of record and transaction, so that no row and no connection waits with it. Left out for a class without a lock.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import attrs

from dexpy.declaration.contract import Contract
from dexpy.declaration.keys import digest
from dexpy.declaration.lock import LOCK_TIMEOUT, Lock
from dexpy.execution.call import Call
from dexpy.execution.steps import refs
from dexpy.foundation.checkpoint import checkpoint
from dexpy.foundation.errors import SENSITIVE, LockLost, NotRunning, TimedOut
from dexpy.foundation.outcome import Err, Ok, Outcome

SLICE_S = 1.0
"""How long one wait lasts at most, in seconds: between two of them a run sees that it is called off, or out of time."""

_held: WeakKeyDictionary[Any, set[tuple[str, str]]] = WeakKeyDictionary()
"""The locks that belong to a transaction, by whoever begins it: a run inside does not wait for them again."""


def needed(contract: Contract) -> bool:
    """Whether the class has a lock."""
    return contract.lock is not None


def run(call: Call, proceed: Callable[[Call], Outcome]) -> Outcome:
    """Run the rest while the lock is held."""
    lock = call.contract.lock
    if lock is None or call.is_rehearsal:
        return proceed(call)
    text = key_of(call, lock)
    locks = call.scope.store.locks
    address = locks.place(lock.backend), digest("lock", text)
    if is_ours(call, address):
        return proceed(call)
    hold = locks.hold(address[1], lock.backend)
    root = call.scope.root

    def release() -> None:
        checkpoint("lock_releasing")
        _held[root].discard(address)
        hold.release()

    def check() -> None:
        if not hold.is_held():
            raise LockLost(call.contract.cls.__qualname__)

    try:
        if not wait(call, hold.wait, lock.timeout_s):
            hold.release()
            return refused(call, lock, text)
        checkpoint("lock_taken")
        _held.setdefault(root, set()).add(address)
        call.scope.before_commit(check)
        outcome = proceed(call)
    except BaseException:
        _held.setdefault(root, set()).discard(address)
        hold.release()
        raise
    if isinstance(outcome, Ok):
        # Others must not come in before what it did is committed, by whoever commits it.
        call.scope.at_end(release)
    else:
        release()
    return outcome


def is_ours(call: Call, address: tuple[str, str]) -> bool:
    """Whether the run, or one around it, or its transaction has the lock already."""
    within: Call | None = call
    while within is not None:
        if address in _held.get(within.scope.root, ()):
            return True
        within = within.outer
    return False


def key_of(call: Call, lock: Lock) -> str:
    """The text of the run's key; a function that reads a row gets it by a short read of its own."""
    try:
        return lock.text(call.operation, call.contract)
    except NotRunning:
        if not call.contract.references:
            raise
    # As for a rehearsal: whoever only reads locks no rows.
    reading = attrs.evolve(call, operation=copy.copy(call.operation), is_rehearsal=True)
    if call.scope.root is call.scope:
        with call.scope.store.new_session() as session:
            refs.load(reading, lambda: session)
            return lock.text(reading.operation, call.contract)
    refs.load(reading, call.scope.root.session)
    return lock.text(reading.operation, call.contract)


def wait(call: Call, take: Callable[[float], bool], timeout_s: float | None) -> bool:
    """Wait for a lock; False if it was not to be had in time.

    Raises:
        Cancelled: The run was called off meanwhile.
        TimedOut: The run is out of time.
    """
    stop = call.stop
    until = None if timeout_s is None else time.monotonic() + timeout_s
    deadline = None if stop is None else stop.deadline
    while True:
        if stop is not None:
            stop.check()
        if call.scope.is_cancelled:
            raise asyncio.CancelledError("the run was cancelled")
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            raise TimedOut(f"{call.contract.cls.__qualname__} ran out of time while it waited for its lock.")
        ends = [end - now for end in (until, deadline) if end is not None]
        if take(max(0.0, min([SLICE_S, *ends]))):
            return True
        if until is not None and time.monotonic() >= until:
            return False
        checkpoint("lock_waiting")


def refused(call: Call, lock: Lock, text: str) -> Outcome:
    """The end of a run that did not get its lock: its record, if it has one, says so."""
    secret = lock.is_secret(call.contract)
    named = f"of {call.contract.cls.__qualname__}" if secret else repr(text)
    outcome = Err(
        LOCK_TIMEOUT,
        f"The lock {named} was not free within {lock.timeout_s:g} s: another run holds it.",
        {"timeout_s": lock.timeout_s} | ({} if secret else {"lock": text}),
    )
    if call.recorder is not None:
        call.recorder.ended(call.scope.at_end, outcome)
    return outcome


def explain(call: Call) -> Mapping[str, Any]:
    """The key, and whether somebody holds its lock; None where that cannot be asked without taking it."""
    lock = call.contract.lock
    if lock is None:
        return {"active": False}
    text = key_of(call, lock)
    locks = call.scope.store.locks
    return {
        "active": True,
        "key": SENSITIVE if lock.is_secret(call.contract) else text,
        "timeout_s": lock.timeout_s,
        "backend": locks.place(lock.backend),
        "held": locks.is_taken(digest("lock", text), lock.backend),
    }
