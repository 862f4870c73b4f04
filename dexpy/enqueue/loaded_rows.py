"""Read the rows of an operation's references outside of a run, for a key function of its class that uses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dexpy.declaration.contract import Contract
from dexpy.declaration.refs import Keyed
from dexpy.execution.pipeline import copy_operation
from dexpy.foundation.errors import RefNotFound
from dexpy.transactions.sessions import EnqueueTransaction

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from dexpy.recording.store import Store


def copy_with_rows(operation: Any, contract: Contract, store: Store, transaction: EnqueueTransaction) -> Any:
    """Return a copy of an operation with its rows, read without a lock.

    Args:
        operation: The operation.
        contract: Its contract.
        store: Creates a session if no transaction is given.
        transaction: Provides the session.

    Raises:
        RefNotFound: A row does not exist.
    """
    if transaction is not None:
        return _load_rows(operation, contract, transaction.session())
    with store.new_session() as session:
        return _load_rows(operation, contract, session)


def _load_rows(operation: Any, contract: Contract, session: Session) -> Any:
    copy = copy_operation(operation, contract)
    for reference in contract.references:
        value = copy.__dict__[reference.prop]
        items: list[Any] = value if reference.many else [] if value is None else [value]
        keys = [item.key for item in items if isinstance(item, Keyed)]
        options = dict(reference.options)
        rows: Mapping[Any, Any] = reference.loader.load(lambda: session, keys, False, options) if keys else {}
        for key in keys:
            if key not in rows:
                raise RefNotFound(contract.cls.__qualname__, reference.prop, reference.model.__name__, key)
        loaded = [rows[item.key] if isinstance(item, Keyed) else item for item in items]
        copy.__dict__[reference.prop] = loaded if reference.many else (loaded[0] if loaded else None)
    return copy
