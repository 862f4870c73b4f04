"""refs: the rows behind the references.

In: loads them in the run's session, together, the first thing in the transaction; those with ``lock=True`` FOR UPDATE,
ordered by table and key. A missing row raises `RefNotFound`. Out: nothing.
Before guard, so that guards see current rows under the lock. Left out for a class without references.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, cast

from dexpy.declaration.contract import Contract
from dexpy.declaration.refs import Keyed, Reference
from dexpy.execution.call import Call
from dexpy.foundation.errors import Problem, PropsError, RefNotFound
from dexpy.foundation.outcome import Outcome


def needed(contract: Contract) -> bool:
    """Whether the class refers to anything."""
    return bool(contract.references)


def run(call: Call, proceed: Callable[[Call], Outcome]) -> Outcome:
    """Load what is referred to, and run the rest."""
    if call.contract.transactional:
        load(call, call.scope.session)
    else:
        with call.scope.block() as session:
            load(call, lambda: session)
        call.scope.keep(_rows(call))
    return proceed(call)


def load(call: Call, session: Callable[[], Any]) -> None:
    """Put the rows into the run's own copy of the operation; without locks where nothing is going to be done."""
    locking = not call.is_rehearsal
    values: dict[str, Any] = call.operation.__dict__
    wanted: dict[tuple[Any, bool], dict[Any, None]] = {}
    for reference in call.contract.references:
        for item in _items(values[reference.prop]):
            key = _key_to_load(call, reference, item, session, locking=locking)
            if key is not None:
                wanted.setdefault((reference.model, reference.lock and locking), {})[key] = None
    if any(lock for _, lock in wanted):
        from dexpy.recording.sqlite import take_write_lock

        take_write_lock(session().connection())
    found: dict[tuple[Any, bool], Mapping[Any, Any]] = {}
    # Locked rows first, in one order everywhere, so that two runs never wait for each other.
    for model, lock in sorted(wanted, key=lambda group: (not group[1], _table_of(group[0]))):
        loader = next(one.loader for one in call.contract.references if one.model is model)
        found[model, lock] = loader.load(session, list(wanted[model, lock]), lock)
    for reference in call.contract.references:
        value, group = values[reference.prop], (reference.model, reference.lock and locking)
        keys, rows = wanted.get(group, {}), found.get(group, {})
        loaded = [_loaded(call, reference, item, keys, rows) for item in _items(value)]
        values[reference.prop] = loaded if reference.many else (loaded[0] if loaded else None)


def _items(value: object) -> list[Any]:
    if isinstance(value, list):
        return cast("list[object]", value)
    return [] if value is None else [value]


def _table_of(model: type) -> str:
    return str(getattr(model, "__tablename__", model.__qualname__))


def _key_to_load(call: Call, reference: Reference, item: Any, session: Callable[[], Any], *, locking: bool) -> Any:
    if isinstance(item, Keyed):
        return item.key
    key = reference.loader.key_of(item)
    if key is None:
        problem = Problem(
            "." + reference.prop,
            f"a {reference.model.__name__} that has a key. Flush it first",
            "one that was never flushed",
        )
        raise PropsError(call.contract.cls.__qualname__, [problem])
    if not (reference.lock and locking) and reference.loader.is_usable(session, item):
        return None
    return key


def _loaded(call: Call, reference: Reference, item: Any, keys: Container[Any], rows: Mapping[Any, Any]) -> Any:
    key = reference.key_of(item)
    if key not in keys:
        return item
    if key not in rows:
        raise RefNotFound(call.contract.cls.__qualname__, reference.prop, reference.model.__name__, key)
    return rows[key]


def _rows(call: Call) -> Iterator[Any]:
    for reference in call.contract.references:
        yield from _items(call.operation.__dict__[reference.prop])
