"""The insert of a run that wants keys: its row is stored, or whoever has one of them answers for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.declaration.contract import Contract
from dexpy.declaration.once import WAIT_S, OnceOptions, is_same_request, once_key
from dexpy.declaration.unique import unique_key
from dexpy.execution.start import with_rows
from dexpy.foundation.checkpoint import checkpoint
from dexpy.foundation.errors import KeyBusy, NotRunning, NotUnique, OnceConflict
from dexpy.recording import keys
from dexpy.recording.ambient import Ambient
from dexpy.recording.keys import Again, Busy, Claim, Holder
from dexpy.recording.sealing import opened
from dexpy.recording.sessions import GivenConnection
from dexpy.recording.store import Store
from dexpy.recording.ticket import Ticket

T = TypeVar("T")

PAUSE_S = 0.01
"""Between two tries, in seconds, when a key was freed in between."""


def rows_of(operation: Any, contract: Contract, store: Store, place: Ambient | GivenConnection | None) -> Any:
    """A copy of an operation with its rows, for a function of its class that reads them: a short read for that alone.

    Args:
        operation: As it was made.
        contract: Of it.
        store: Gives a session where there is none.
        place: Whose session is used.
    """
    if place is not None:
        return with_rows(operation, contract, place.session())
    with store.new_session() as session:
        return with_rows(operation, contract, session)


def claim_for(
    operation: Any, contract: Contract, token: str | None, store: Store, place: Ambient | GivenConnection | None
) -> Claim | None:
    """The keys that a background run of an operation wants; None for none.

    Args:
        operation: As it was made.
        contract: Of it.
        token: The caller's own.
        store: See `rows_of`.
        place: See `rows_of`.
    """
    once, unique = contract.once, contract.unique
    if once is None and unique is None and token is None:
        return None
    wanted: dict[str, Any] = {"token": token}
    if once is not None:
        wanted |= {"once": made_of(once_key, operation, contract, store, place), "once_for_s": once.expires_in_s}
    if unique is not None:
        wanted |= {"unique": made_of(unique_key, operation, contract, store, place)}
        wanted |= {"until": unique.until, "unique_for_s": unique.for_s}
    return Claim(contract.name, **wanted)


def claim_for_call(operation: Any, contract: Contract, once: OnceOptions, store: Store, outer: Ambient | None) -> Claim:
    """The idempotency key that a run in place wants."""
    return Claim(contract.name, made_of(once_key, operation, contract, store, outer), once.expires_in_s)


def made_of(
    make: Callable[[Any, Contract], T],
    operation: Any,
    contract: Contract,
    store: Store | None,
    place: Ambient | GivenConnection | None,
) -> T:
    """What a function of a class makes of an operation, with its rows read where the function wants them.

    Args:
        make: Gets the operation and its contract.
        operation: As it was made.
        contract: Of it.
        store: See `rows_of`; without one no rows can be read.
        place: See `rows_of`.
    """
    try:
        return make(operation, contract)
    except NotRunning:
        if not contract.references or store is None:
            raise
    return make(rows_of(operation, contract, store, place), contract)


@attrs.define(eq=False)
class KeyedInsert:
    """Stores one row with its keys, or makes its ticket that of the row that has one of them.

    Attributes:
        store: Where records are.
        contract: Of the operation.
        claim: Its keys.
        ticket: Of the run that is to be stored.
        joined: The transaction that it is part of is somebody else's.
    """

    store: Store
    contract: Contract
    claim: Claim
    ticket: Ticket[Any]
    joined: bool
    _over: Holder | None = None
    _began: float = attrs.field(factory=time.monotonic)

    @property
    def order(self) -> tuple[str, ...]:
        """In which such rows are stored, everywhere."""
        return tuple(key or "" for key in (self.claim.once, self.claim.unique, self.claim.token))

    def insert(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        """Store the row.

        Args:
            connection: In a transaction.
            values: Of the row.

        Returns:
            Whether it was stored; else nothing was, and the ticket is that of the run that has the key.

        Raises:
            KeyBusy: A transaction that is still open has a key.
            OnceConflict: The idempotency key was used with other params.
            NotUnique: Another run has the unique key, and the class wants to be told.
            Again: The caller is to call once more, in another transaction.
        """
        row = {**values, **self.claim.columns()}
        self.ticket.stand_for_itself()
        if self.joined and self._is_told_before(connection, values):
            return False
        while True:
            over, self._over = self._over, None
            if over is not None:
                self._make_room(connection, over)
            try:
                if keys.insert(connection, row, max(self._left_s, 0.0), alone=not self.joined):
                    checkpoint("key_claimed")
                    return True
            except Busy as busy:
                raise KeyBusy(self.contract.name, self._wait_s) from busy
            holder = keys.find(connection, self.claim, self._committed)
            if holder is not None and not self._may_be_taken_from(holder):
                self._answer(holder, values)
                return False
            if self._left_s <= 0:
                raise KeyBusy(self.contract.name, self._wait_s, None if holder is None else holder.row.id)
            self._over = holder
            if not self.joined:
                raise Again
            time.sleep(PAUSE_S)

    @property
    def _wait_s(self) -> float:
        return WAIT_S if self.contract.once is None else self.contract.once.wait_s

    @property
    def _left_s(self) -> float:
        return self._wait_s - (time.monotonic() - self._began)

    @property
    def _committed(self) -> Callable[[sa.Select[Any]], Sequence[Row[Any]]] | None:
        # In a transaction of its own each statement sees the latest there is.
        return self.store.rows if self.joined else None

    def _is_told_before(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        """On MariaDB, look first: an insert that fails locks the row in its way, whose run could not end meanwhile."""
        if connection.dialect.name not in ("mysql", "mariadb"):
            return False
        holder = keys.find(connection, self.claim, self.store.rows)
        if holder is None or not holder.is_seen or self._may_be_taken_from(holder):
            return False
        self._answer(holder, values)
        return True

    def _may_be_taken_from(self, holder: Holder) -> bool:
        return holder.is_over or self._is_replaced(holder)

    def _is_replaced(self, holder: Holder) -> bool:
        unique = self.contract.unique
        replaces = unique is not None and unique.on_conflict == "replace"
        return replaces and holder.kind == "unique" and holder.row.status == "pending"

    def _make_room(self, connection: Connection, holder: Holder) -> None:
        if self._is_replaced(holder) and not holder.is_over:
            keys.replace(connection, holder.row, self.ticket.id)
        elif (digest := self.claim.once if holder.kind == "once" else self.claim.unique) is not None:
            keys.free(connection, holder.kind, digest)

    def _answer(self, holder: Holder, values: Mapping[str, Any]) -> None:
        once, unique, row = self.contract.once, self.contract.unique, holder.row
        is_checked = holder.kind == "once" and once is not None and once.params == "check"
        if is_checked and not self._is_same_request(row, values):
            raise OnceConflict(self.contract.name, row.id)
        if holder.kind == "unique" and unique is not None:
            if unique.on_conflict == "raise":
                raise NotUnique(self.contract.name, row.id)
            if unique.on_conflict == "skip":
                self.ticket.stand_for_nothing()
                return
        self.ticket.stand_for(row, committed=holder.is_committed)

    def _is_same_request(self, row: Row[Any], values: Mapping[str, Any]) -> bool:
        stored, given = (opened(self.contract.name, params) for params in (row.params, values["params"]))
        return is_same_request(self.contract, stored, given)


def until_it_stands(write: Callable[[], T]) -> T:
    """Do a write in a transaction of its own, and again in another one as often as it asks for that."""
    while True:
        try:
            return write()
        except Again:
            time.sleep(PAUSE_S)
