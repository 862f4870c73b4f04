"""Insert a run with keys: its row is stored, or its ticket refers to the run that holds one of the keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.database.current_transaction import CurrentTransaction
from dexpy.database.dialects import dialect_of
from dexpy.declaration.contract import Contract
from dexpy.declaration.key_digests import is_same_request, once_keys, unique_keys
from dexpy.enqueue.loaded_rows import copy_with_rows
from dexpy.foundation.errors import KeyBusy, NotRunning, NotUnique, OnceConflict
from dexpy.foundation.failpoints import failpoint
from dexpy.policies.once import WAIT_S, OnceOptions
from dexpy.recording import keys
from dexpy.recording.encryption import decrypt
from dexpy.recording.keys import KeyClaim, KeyHolder, KeyLocked, RetryTransaction
from dexpy.recording.store import Store
from dexpy.recording.ticket import Ticket
from dexpy.transactions.sessions import EnqueueTransaction

T = TypeVar("T")

RETRY_PAUSE_S = 0.01
"""Pause between two attempts to insert, in seconds, when a key was released in between."""


def build_key_claim(
    operation: Any,
    contract: Contract,
    token: str | None,
    store: Store,
    transaction: EnqueueTransaction,
) -> KeyClaim:
    """Build the claim of a background run to its keys; the operation has at least one.

    Args:
        operation: The operation.
        contract: Its contract.
        token: The caller's idempotence token.
        store: See `copy_with_rows`.
        transaction: See `copy_with_rows`.
    """
    once, unique = contract.once, contract.unique
    fields: dict[str, Any] = {"token": token, "names": contract.key_names}
    if once is not None:
        key, *earlier = with_loaded_rows(once_keys, operation, contract, store, transaction)
        fields |= {"once": key, "once_earlier": tuple(earlier), "once_for_s": once.expires_in_s}
    if unique is not None:
        key, *earlier = with_loaded_rows(unique_keys, operation, contract, store, transaction)
        fields |= {"unique": key, "unique_earlier": tuple(earlier)}
        fields |= {"until": unique.until, "unique_for_s": unique.for_s}
    return KeyClaim(contract.name, **fields)


def build_call_key_claim(
    operation: Any, contract: Contract, once: OnceOptions, store: Store, outer: CurrentTransaction | None
) -> KeyClaim:
    """Build the claim of a synchronous call to its idempotency key."""
    key, *earlier = with_loaded_rows(once_keys, operation, contract, store, outer)
    return KeyClaim(contract.name, key, once.expires_in_s, once_earlier=tuple(earlier))


def with_loaded_rows(
    function: Callable[[Any, Contract], T],
    operation: Any,
    contract: Contract,
    store: Store | None,
    transaction: EnqueueTransaction,
) -> T:
    """Call a function of a class with an operation, and again with its rows loaded if the function reads them.

    Args:
        function: Called with the operation and its contract.
        operation: The operation.
        contract: Its contract.
        store: See `copy_with_rows`; None if no rows can be read.
        transaction: See `copy_with_rows`.
    """
    try:
        return function(operation, contract)
    except NotRunning:
        # Optional as in `JobPreparer`: without records only a queue function reads rows.
        if not contract.references or store is None:
            raise
    return function(copy_with_rows(operation, contract, store, transaction), contract)


@attrs.define(eq=False)
class KeyedInsert:
    """Stores one row with its keys; if another row has one of them, its ticket refers to that row.

    Attributes:
        store: The store of records.
        contract: The contract of the operation.
        claim: The claim to its keys.
        ticket: The ticket of the run.
        is_joined: Whether the row is stored in a transaction of the application.
        longest_wait_s: The longest wait for a transaction that holds a key, in seconds; None for that of the class.
    """

    store: Store
    contract: Contract
    claim: KeyClaim
    ticket: Ticket[Any]
    is_joined: bool
    longest_wait_s: float | None = None
    _releasable: KeyHolder | None = None
    _started: float = attrs.field(factory=time.monotonic)

    @property
    def order(self) -> tuple[str, ...]:
        """The order in which all processes store such rows."""
        return tuple(key or "" for key in (self.claim.once, self.claim.unique, self.claim.token))

    def insert(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        """Store the row.

        Args:
            connection: In a transaction.
            values: The columns of the row.

        Returns:
            Whether the row was stored; otherwise the ticket refers to the run that has the key.

        Raises:
            KeyBusy: A transaction that is still open holds a key.
            OnceConflict: The idempotency key was used with other params.
            NotUnique: Another run holds the unique key, and the class declares ``on_conflict="raise"``.
            RetryTransaction: The caller must call again, in a new transaction.
        """
        row = {**values, **self.claim.columns()}
        self.ticket.restore()
        if self.is_joined and self._is_duplicate_before_insert(connection, values):
            return False
        while True:
            releasable, self._releasable = self._releasable, None
            if releasable is not None:
                self._release(connection, releasable)
            if (
                self.claim.has_earlier
                and (earlier := keys.find_holder(connection, self.claim, self._read_committed)) is not None
            ):
                # No unique index compares the digests of a key under earlier names.
                if not self._is_releasable(earlier):
                    self._resolve_conflict(earlier, values)
                    return False
                self._release(connection, earlier)
            try:
                if keys.insert(connection, row, max(self._remaining_s, 0.0), alone=not self.is_joined):
                    failpoint("enqueue_key_claimed")
                    return True
            except KeyLocked as busy:
                raise KeyBusy(self.contract.name, self._wait_s) from busy
            holder = keys.find_holder(connection, self.claim, self._read_committed)
            if holder is not None and not self._is_releasable(holder):
                self._resolve_conflict(holder, values)
                return False
            if self._remaining_s <= 0:
                raise KeyBusy(self.contract.name, self._wait_s, None if holder is None else holder.row.id)
            self._releasable = holder
            if not self.is_joined:
                raise RetryTransaction
            time.sleep(RETRY_PAUSE_S)

    @property
    def _wait_s(self) -> float:
        wait_s = WAIT_S if self.contract.once is None else self.contract.once.wait_s
        return wait_s if self.longest_wait_s is None else min(wait_s, self.longest_wait_s)

    @property
    def _remaining_s(self) -> float:
        return self._wait_s - (time.monotonic() - self._started)

    @property
    def _read_committed(self) -> Callable[[sa.Select[Any]], Sequence[Row[Any]]] | None:
        # In a transaction of dexpy's own each statement sees the latest committed rows.
        return self.store.rows if self.is_joined else None

    def _is_duplicate_before_insert(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        """On MariaDB, check first: a failed insert locks the conflicting row, so that its run could not end."""
        if not dialect_of(connection).failed_insert_locks_row:
            return False
        holder = keys.find_holder(connection, self.claim, self.store.rows)
        if holder is None or not holder.is_visible or self._is_releasable(holder):
            return False
        self._resolve_conflict(holder, values)
        return True

    def _is_releasable(self, holder: KeyHolder) -> bool:
        return holder.is_expired or self._is_replaced(holder)

    def _is_replaced(self, holder: KeyHolder) -> bool:
        unique = self.contract.unique
        replaces = unique is not None and unique.on_conflict == "replace"
        return replaces and holder.kind == "unique" and holder.row.status == "pending"

    def _release(self, connection: Connection, holder: KeyHolder) -> None:
        if self._is_replaced(holder) and not holder.is_expired:
            keys.replace(connection, holder.row, self.ticket.id)
        else:
            keys.release_expired(connection, holder)

    def _resolve_conflict(self, holder: KeyHolder, values: Mapping[str, Any]) -> None:
        once, unique, row = self.contract.once, self.contract.unique, holder.row
        is_checked = holder.kind == "once" and once is not None and once.params == "check"
        if is_checked and not self._is_same_request(row, values):
            raise OnceConflict(self.contract.name, row.id)
        if holder.kind == "unique" and unique is not None:
            if unique.on_conflict == "raise":
                raise NotUnique(self.contract.name, row.id)
            if unique.on_conflict == "skip":
                self.ticket.become_skipped()
                return
        self.ticket.become_duplicate_of(row, committed=holder.is_committed)

    def _is_same_request(self, row: Row[Any], values: Mapping[str, Any]) -> bool:
        stored = decrypt(row.operation, row.params, row.id, "params")
        new = decrypt(self.contract.name, values["params"], values["id"], "params")
        return is_same_request(self.contract, stored, new)
