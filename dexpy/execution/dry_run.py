"""Dry runs: run the middleware that guards need, and roll back its effects."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dexpy.database.current_transaction import shared_sessions
from dexpy.declaration.contract import Contract
from dexpy.declaration.props import construct
from dexpy.execution.call import Call, current
from dexpy.execution.explain import Explanation, explain_fully, explain_partly
from dexpy.execution.pipeline import copy_operation, dry_run_pipeline, redactor_for
from dexpy.execution.unit_of_work import UnitOfWork
from dexpy.foundation.errors import PropsError
from dexpy.foundation.outcome import Ok, Outcome
from dexpy.foundation.redaction import Redactor
from dexpy.foundation.trace import Frame

if TYPE_CHECKING:
    from dexpy.database.current_transaction import CurrentTransaction
    from dexpy.recording.store import Store


def dry_run(
    operation: Any,
    contract: Contract,
    *,
    id: str,
    frame: Frame,
    redactor: Redactor,
    store: Callable[[], Store],
    outer: CurrentTransaction | None,
) -> Outcome:
    """Call an operation's guards in this thread; nothing runs or is stored. The arguments are those of `run`.

    Returns:
        ``Ok(None)``, or the `Err` that a run would be refused with.
    """
    with _rolled_back(contract, store, outer) as unit_of_work:
        copy = copy_operation(operation, contract)
        call = Call(copy, contract, id, frame, unit_of_work, None, redactor, outer=current.get(), is_dry_run=True)
        return dry_run_pipeline(call, _perform_nothing)


def _perform_nothing(_call: Call) -> Outcome:
    return Ok(None)


def explain(
    contract: Contract,
    props: Mapping[str, Any],
    *,
    id: str,
    frame: Frame,
    redactor: Redactor,
    store: Callable[[], Store],
    outer: CurrentTransaction | None,
) -> Explanation:
    """Return the report of a call with these props; nothing runs or is stored.

    Args:
        contract: The contract of the class.
        props: The props.
        id: The run's id.
        frame: The run's frame.
        redactor: The runtime's redactor.
        store: As for `run`.
        outer: As for `run`.

    Raises:
        RefNotFound: The row of a reference does not exist.
    """
    error: PropsError | None = None
    try:
        copy = copy_operation(contract.cls(**props), contract)
        redactor = redactor_for(copy, contract, redactor)
    except PropsError as invalid:
        error = invalid
        copy = incomplete(contract, props)
        redactor = redactor.knowing(props[name] for name in contract.sensitive_props if name in props)
    with _rolled_back(contract, store, outer) as unit_of_work:
        call = Call(copy, contract, id, frame, unit_of_work, None, redactor, outer=current.get(), is_dry_run=True)
        return explain_fully(call, props) if error is None else explain_partly(call, props, str(error))


def incomplete(contract: Contract, props: Mapping[str, Any]) -> Any:
    """Return an operation that has only the valid props."""
    operation: Any = object.__new__(contract.cls)
    for prop in contract.props:
        values = {prop.name: props[prop.name]} if prop.name in props else {}
        with contextlib.suppress(PropsError):
            operation.__dict__.update(construct(contract.cls.__qualname__, (prop,), values))
    return operation


@contextmanager
def _rolled_back(
    contract: Contract, store: Callable[[], Store], outer: CurrentTransaction | None
) -> Generator[UnitOfWork, None, None]:
    """A unit of work that is rolled back, even for a class with ``transaction = False``."""
    owner = contract.cls.__qualname__
    outer_unit = UnitOfWork(owner, store, outer, True)
    with outer_unit.entered():
        try:
            if shared_sessions.exist:
                outer_unit.begin_if_scoped()
            yield UnitOfWork(owner, store, outer_unit, contract.transactional)
        finally:
            outer_unit.rollback()
