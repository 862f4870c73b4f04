"""lock: at most one run at a time for its key.

In: waits for the lock, and ends the run as ``lock_timeout`` if it does not get it in time. Out: releases it when the
transaction of the run's effects has ended.
Outside of record and transaction, so that no row and no connection is held while it waits. Left out for a class
without a lock.
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
from dexpy.declaration.key_digests import digest, is_lock_key_secret, lock_key
from dexpy.execution.call import Call
from dexpy.execution.middleware import refs
from dexpy.foundation.errors import SENSITIVE, LockLost, NotRunning, TimedOut
from dexpy.foundation.failpoints import failpoint
from dexpy.foundation.outcome import Err, Ok, Outcome
from dexpy.policies.lock import LOCK_TIMEOUT, Lock

WAIT_SLICE_S = 1.0
"""The longest single wait, in seconds: between two of them the run checks for cancellation and timeout."""

_held: WeakKeyDictionary[Any, set[tuple[str, str]]] = WeakKeyDictionary()
"""The locks held by each root transaction: a nested run does not wait for them again."""


def needed(contract: Contract) -> bool:
    """Whether the class has a lock."""
    return contract.lock is not None


def run(call: Call, proceed: Callable[[Call], Outcome]) -> Outcome:
    """Run the rest while the lock is held."""
    lock = call.contract.lock
    if lock is None or call.is_dry_run:
        return proceed(call)
    text = key_of(call)
    locks = call.unit_of_work.store.locks
    address = locks.backend_name(lock.backend), digest("lock", text)
    if is_held_by_run(call, address):
        return proceed(call)
    hold = locks.handle(address[1], lock.backend)
    root = call.unit_of_work.root

    def release() -> None:
        failpoint("before_lock_release")
        _held[root].discard(address)
        hold.release()

    def check() -> None:
        if not hold.is_held():
            raise LockLost(call.contract.cls.__qualname__)

    try:
        if not wait(call, hold.wait, lock.timeout_s):
            hold.release()
            return lock_timeout_outcome(call, lock, text)
        failpoint("lock_acquired")
        _held.setdefault(root, set()).add(address)
        call.unit_of_work.before_commit(check)
        outcome = proceed(call)
    except BaseException:
        _held.setdefault(root, set()).discard(address)
        hold.release()
        raise
    if isinstance(outcome, Ok):
        # Released after the commit of the outermost transaction, so that no other run sees the state before it.
        call.unit_of_work.at_end(release)
    else:
        release()
    return outcome


def is_held_by_run(call: Call, address: tuple[str, str]) -> bool:
    """Whether the run, an outer run, or its transaction already holds the lock."""
    enclosing: Call | None = call
    while enclosing is not None:
        if address in _held.get(enclosing.unit_of_work.root, ()):
            return True
        enclosing = enclosing.outer
    return False


def key_of(call: Call) -> str:
    """Return the text of the run's key; a key function that uses a row reads it in a separate short transaction."""
    try:
        return lock_key(call.operation, call.contract)
    except NotRunning:
        if not call.contract.references:
            raise
    # As in a dry run: no row locks, because the rows are only read.
    reading = attrs.evolve(call, operation=copy.copy(call.operation), is_dry_run=True)
    if call.unit_of_work.root is call.unit_of_work:
        with call.unit_of_work.store.new_session() as session:
            refs.load(reading, lambda: session)
            return lock_key(reading.operation, call.contract)
    refs.load(reading, call.unit_of_work.root.session)
    return lock_key(reading.operation, call.contract)


def wait(call: Call, try_acquire: Callable[[float], bool], timeout_s: float | None) -> bool:
    """Wait for a lock; return False if it was not free in time.

    Raises:
        Cancelled: The run was cancelled meanwhile.
        TimedOut: The run has timed out.
    """
    stop = call.cancel_token
    lock_deadline = None if timeout_s is None else time.monotonic() + timeout_s
    deadline = None if stop is None else stop.deadline
    while True:
        if stop is not None:
            stop.check()
        if call.unit_of_work.is_cancelled:
            raise asyncio.CancelledError("the run was cancelled")
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            raise TimedOut(f"{call.contract.cls.__qualname__}: timed out while it waited for its lock.")
        ends = [end - now for end in (lock_deadline, deadline) if end is not None]
        if try_acquire(max(0.0, min([WAIT_SLICE_S, *ends]))):
            return True
        if lock_deadline is not None and time.monotonic() >= lock_deadline:
            return False
        failpoint("lock_busy")


def lock_timeout_outcome(call: Call, lock: Lock, text: str) -> Outcome:
    """Return the outcome of a run that did not get its lock, and write it to the record, if there is one."""
    secret = is_lock_key_secret(call.contract)
    description = f"of {call.contract.cls.__qualname__}" if secret else repr(text)
    outcome = Err(
        LOCK_TIMEOUT,
        f"The lock {description} was not free within {lock.timeout_s:g} s: another run holds it.",
        {"timeout_s": lock.timeout_s} | ({} if secret else {"lock": text}),
    )
    if call.recorder is not None:
        call.recorder.ended(call.unit_of_work.at_end, outcome)
    return outcome


def explain(call: Call) -> Mapping[str, Any]:
    """Return the key and whether its lock is held; None if a check would have to acquire it."""
    lock = call.contract.lock
    if lock is None:
        return {"active": False}
    text = key_of(call)
    locks = call.unit_of_work.store.locks
    return {
        "active": True,
        "key": SENSITIVE if is_lock_key_secret(call.contract) else text,
        "timeout_s": lock.timeout_s,
        "backend": locks.backend_name(lock.backend),
        "held": locks.is_locked(digest("lock", text), lock.backend),
    }
