"""How a `Call` is born: from an operation, for a synchronous run or for a job."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dexpy.declaration.contract import Contract
from dexpy.declaration.refs import Keyed
from dexpy.declaration.values import construct, copied
from dexpy.execution import pipeline
from dexpy.execution.call import Call, current
from dexpy.execution.coroutines import Desk
from dexpy.execution.explain import Explanation, explain_fully, explain_partly
from dexpy.execution.scope import Scope
from dexpy.foundation.errors import PropsError, RefNotFound
from dexpy.foundation.outcome import Err, Ok, Outcome
from dexpy.foundation.redaction import Redactor
from dexpy.foundation.trace import Frame

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from dexpy.execution.stop import Stop
    from dexpy.recording.ambient import Ambient
    from dexpy.recording.recorder import Recorder
    from dexpy.recording.store import Store


def own_copy(operation: Any, contract: Contract) -> Any:
    """A copy of an operation for one run: what the run loads or changes stays with it."""
    copy: Any = object.__new__(operation.__class__)
    given: dict[str, Any] = operation.__dict__
    copy.__dict__.update({one.name: given[one.name] for one in contract.props})
    if contract.mutable_props:
        copy.__dict__.update(copied(contract.cls.__qualname__, contract.mutable_props, given))
    return copy


def with_rows(operation: Any, contract: Contract, session: Session) -> Any:
    """A copy of an operation with its rows, read without a lock: for functions that look at them outside of a run.

    Raises:
        RefNotFound: One of the rows is gone.
    """
    copy = own_copy(operation, contract)
    for reference in contract.references:
        value = copy.__dict__[reference.prop]
        items: list[Any] = value if reference.many else [] if value is None else [value]
        keys = [item.key for item in items if isinstance(item, Keyed)]
        rows: Mapping[Any, Any] = reference.loader.load(lambda: session, keys, False) if keys else {}
        for key in keys:
            if key not in rows:
                raise RefNotFound(contract.cls.__qualname__, reference.prop, reference.model.__name__, key)
        loaded = [rows[item.key] if isinstance(item, Keyed) else item for item in items]
        copy.__dict__[reference.prop] = loaded if reference.many else (loaded[0] if loaded else None)
    return copy


def redactor_for(operation: Any, contract: Contract, base: Redactor) -> Redactor:
    """A redactor for one run, that knows the operation's sensitive values and those of the run around it."""
    outer = current.get()
    base = base if outer is None else outer.redactor
    if not contract.sensitive_props:
        return Redactor(base.secrets, base.custom)
    given: dict[str, Any] = operation.__dict__
    return base.knowing(given[name] for name in contract.sensitive_props)


def run(
    operation: Any,
    contract: Contract,
    *,
    id: str,
    frame: Frame,
    recorder: Recorder | None,
    redactor: Redactor,
    store: Callable[[], Store],
    outer: Ambient | None,
    attempt: int = 1,
    loop: asyncio.AbstractEventLoop | None = None,
    desk: Desk | None = None,
    on_scope: Callable[[Scope], None] | None = None,
    stop: Stop | None = None,
) -> Outcome:
    """Run an operation in this thread.

    Args:
        operation: As it was made; the run gets a copy.
        contract: Of its class.
        id: Of the run.
        frame: Of the run.
        recorder: Writes its row; None when it is not recorded.
        redactor: Knows its secrets.
        store: Gives the store, once a session is needed.
        outer: The session to join, if any.
        attempt: Which attempt this is.
        loop: For an ``async def perform``; the process's own when None.
        desk: Of an ``async def perform`` that somebody may want to cancel.
        on_scope: Told of the run's scope before it begins.
        stop: How somebody else ends the run; that of the run around it when None.

    Returns:
        The outcome; exceptions that are no business errors are raised.
    """
    outer_call = current.get()
    is_rehearsal = outer_call is not None and outer_call.is_rehearsal
    if is_rehearsal:
        recorder = None
    undone = None if recorder is None else recorder.undone
    if stop is None and outer_call is not None:
        stop = outer_call.stop
    scope = Scope(contract.cls.__qualname__, store, outer, contract.transactional, undone, stop)
    if on_scope is not None:
        on_scope(scope)
    if desk is None and contract.is_async:
        desk = Desk()
    copy = own_copy(operation, contract)
    call = Call(
        copy, contract, id, frame, scope, recorder, redactor, attempt, loop, desk, outer_call, stop, is_rehearsal
    )
    if stop is not None and desk is not None:
        stop.on_cancel(desk.cancel)
    if outer_call is None:
        return pipeline.run(call)
    try:
        outcome = pipeline.run(call)
    except BaseException:
        outer_call.redactor.learn(redactor)
        raise
    if isinstance(outcome, Err):
        outer_call.redactor.learn(redactor)
    return outcome


def rehearse(
    operation: Any,
    contract: Contract,
    *,
    id: str,
    frame: Frame,
    redactor: Redactor,
    store: Callable[[], Store],
    outer: Ambient | None,
) -> Outcome:
    """Ask an operation's guards in this thread; nothing runs, and nothing is kept. The arguments are those of `run`.

    Returns:
        ``Ok(None)``, or the `Err` that a run would be refused with.
    """
    with _undone(contract, store, outer) as scope:
        copy = own_copy(operation, contract)
        call = Call(copy, contract, id, frame, scope, None, redactor, outer=current.get(), is_rehearsal=True)
        return pipeline.rehearse(call, _nothing_done)


def _nothing_done(_call: Call) -> Outcome:
    return Ok(None)


def explain(
    contract: Contract,
    given: Mapping[str, Any],
    *,
    id: str,
    frame: Frame,
    redactor: Redactor,
    store: Callable[[], Store],
    outer: Ambient | None,
) -> Explanation:
    """What a call with these props would do; nothing runs, and nothing is kept.

    Args:
        contract: Of the class.
        given: The props.
        id: That the run would have.
        frame: That it would have.
        redactor: Of the runtime.
        store: As for `run`.
        outer: As for `run`.

    Raises:
        RefNotFound: The row behind a reference is gone.
    """
    error: PropsError | None = None
    try:
        copy = own_copy(contract.cls(**given), contract)
        redactor = redactor_for(copy, contract, redactor)
    except PropsError as wrong:
        error = wrong
        copy = incomplete(contract, given)
        redactor = redactor.knowing(given[name] for name in contract.sensitive_props if name in given)
    with _undone(contract, store, outer) as scope:
        call = Call(copy, contract, id, frame, scope, None, redactor, outer=current.get(), is_rehearsal=True)
        return explain_fully(call, given) if error is None else explain_partly(call, given, str(error))


def incomplete(contract: Contract, given: Mapping[str, Any]) -> Any:
    """An operation with those props alone that are right."""
    made: Any = object.__new__(contract.cls)
    for one in contract.props:
        own = {one.name: given[one.name]} if one.name in given else {}
        with contextlib.suppress(PropsError):
            made.__dict__.update(construct(contract.cls.__qualname__, (one,), own))
    return made


@contextmanager
def _undone(contract: Contract, store: Callable[[], Store], outer: Ambient | None) -> Generator[Scope, None, None]:
    """A scope of which nothing stays, not even what a class without a transaction of its own would commit."""
    owner = contract.cls.__qualname__
    around = Scope(owner, store, outer, True)
    with around.entered():
        try:
            yield Scope(owner, store, around, contract.transactional)
        finally:
            around.rollback()
